"""Which kinds of source a folder may be, by the names in it."""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from ldlva_dist import storage
from ldlva_dist.packing.classes.class_index import as_option
from ldlva_dist.packing.classes.known_layouts import NAMED_FILES
from ldlva_dist.packing.guess.containers import TEST_MISSING, guess_parquet, guess_tars, in_folder
from ldlva_dist.packing.guess.look import PARTS, TABLES, TARS, Candidate, PathView, part_of
from ldlva_dist.packing.guess.tables import guess_table
from ldlva_dist.packing.sources.listing import list_images
from ldlva_dist.storage.csv_file import read_text

DEEPEST = 3
"""Wrapper folders that are looked into."""
CLASS_NAMES = "classnames.txt"
SAMPLE = 200
"""File names of a folder that a pattern is tried on."""


def guess_folder(look: PathView, depth: int = 0) -> Iterator[Candidate]:
    """Every kind that fits; a folder that only wraps another one is looked into."""
    found = [candidate for recognise in RECOGNISERS for candidate in recognise(look)]
    if not found and depth < DEEPEST:
        found = [candidate for name in look.folders[:8] for candidate in guess_folder(look.at(name), depth + 1)]
    yield from found


def _affectnet_plus(look: PathView) -> Iterator[Candidate]:
    root = look.at("human_annotated") if look.has("human_annotated") else look
    if root.has("train_set", "annotations") and _has_ending(root.at("train_set", "annotations"), ".json"):
        missing = () if root.has("validation_set") else ("validation_set, the test part, is not there",)
        why = "train_set with a JSON beside each image"
        yield Candidate("affectnet-plus", ("--root", look.uri), why, missing)


def _affectnet_folders(look: PathView) -> Iterator[Candidate]:
    if look.has("train_set", "annotations") and _has_ending(look.at("train_set", "annotations"), "_exp.npy"):
        missing = () if look.has("val_set") else ("val_set, the test part, is not there",)
        yield Candidate("affectnet-folders", ("--root", look.uri), "train_set with npy files of annotations", missing)


def _raf_db(look: PathView) -> Iterator[Candidate]:
    if look.has("EmoLabel", "list_patition_label.txt"):
        missing = () if look.has("Image", "aligned") else ("Image/aligned is not there: --images names another folder",)
        yield Candidate("rafdb", ("--root", look.uri), "EmoLabel/list_patition_label.txt", missing)
    numbered = look.at("DATASET", "train").folders
    if numbered and set(numbered) <= set("1234567"):
        missing = () if look.has("DATASET", "test") else ("DATASET/test is not there",)
        yield Candidate("rafdb", ("--root", look.uri), "the copy of RAF-DB with numbered folders in DATASET", missing)


def _yolo(look: PathView) -> Iterator[Candidate]:
    if look.has("data.yaml") and look.has("train", "images"):
        missing = () if look.has("train", "labels") else ("train/labels is not there",)
        yield Candidate("yolo", ("--root", look.uri), "data.yaml and train/images", missing)


def _expw(look: PathView) -> Iterator[Candidate]:
    if look.has("label", "label.lst"):
        missing = () if look.has("image", "origin") else ("image/origin is not there: --images names another folder",)
        yield Candidate("expw", ("--root", look.uri), "label/label.lst", missing)
    elif look.has("label.lst"):
        arguments = ("--root", look.uri, "--labels", storage.join(look.uri, "label.lst"), "--images", _images(look))
        yield Candidate("expw", arguments, "label.lst")


def _tables(look: PathView) -> Iterator[Candidate]:
    found = [candidate for name in look.files(TABLES) for candidate in guess_table(look.at(name), look)]
    images = [candidate for candidate in found if candidate.kind == "folder"]
    if len(images) > 1 and len({candidate.arguments[2:] for candidate in images}) == 1:
        yield _one_of_parts(images)
        found = [candidate for candidate in found if candidate.kind != "folder"]
    yield from found


def _one_of_parts(tables: list[Candidate]) -> Candidate:
    """Tables of one kind as the parts that their names say."""
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for candidate in tables:
        uri = candidate.arguments[1]
        parts[part_of(uri.rpartition("/")[2])].append(uri)
    options = {"train": "--table", "validation": "--validation-table", "test": "--test-table"}
    words = [text for part, uris in parts.items() if uris for text in (options[part], *uris)]
    return replace(tables[0], arguments=(*words, *tables[0].arguments[2:]))


def _tars(look: PathView) -> Iterator[Candidate]:
    if uris := _in_folder_or_parts(look, TARS):
        found = guess_tars(uris, f"{len(uris)} tars")
        if look.has(CLASS_NAMES):  # as sets of CLIP's benchmark have it
            names = [
                name.strip() for name in read_text(storage.join(look.uri, CLASS_NAMES)).splitlines() if name.strip()
            ]
            words = shlex.split(as_option(dict(enumerate(names))))
            found = replace(found, arguments=(*found.arguments, *words), why=f"{found.why}, {CLASS_NAMES}")
        yield found


def _parquet(look: PathView) -> Iterator[Candidate]:
    uris = _in_folder_or_parts(look, (".parquet",))
    if uris and (found := guess_parquet(uris, f"{len(uris)} parquet files")):
        yield found


def _in_folder_or_parts(look: PathView, endings: tuple[str, ...]) -> list[str]:
    """Files of the folder, or else of the parts in it."""
    parts = [look.at(name) for name in look.part_folders().values()]
    return in_folder(look, endings) or [uri for part in parts for uri in in_folder(part, endings)]


def _class_folders(look: PathView) -> Iterator[Candidate]:
    parts = {part: name for part, name in look.part_folders().items() if look.at(name).are_classes()}
    if "train" in parts:
        order = [part for part in dict.fromkeys(PARTS.values()) if part in parts]
        arguments = [text for part in order for text in (f"--{part}", storage.join(look.uri, parts[part]))]
        missing = () if "test" in parts else (TEST_MISSING,)
        yield Candidate("class-folders", tuple(arguments), "a folder for each class", missing)
    elif look.are_classes():
        yield Candidate("class-folders", ("--train", look.uri), "a folder for each class", (TEST_MISSING,))


def _named_files(look: PathView) -> Iterator[Candidate]:
    if any(name.lower() in PARTS for name in look.folders) or len(look.folders) > 200:
        return
    names = look.images() or [name for folder in look.folders[:3] for name in look.at(folder).images()]
    if not names and len(look.folders) == 1:
        names = [path.rpartition("/")[2] for path in islice(list_images(look.uri).paths.to_pylist(), SAMPLE)]
    for layout in NAMED_FILES:
        fitting = sum(bool(re.fullmatch(layout.pattern, name, re.IGNORECASE)) for name in names[:SAMPLE])
        if names and fitting > 0.8 * len(names[:SAMPLE]):
            yield Candidate(layout.kind, ("--images", look.uri), f"file names such as {names[0]}")


RECOGNISERS: tuple[Callable[[PathView], Iterator[Candidate]], ...] = (
    _affectnet_plus,
    _affectnet_folders,
    _raf_db,
    _yolo,
    _expw,
    _tables,
    _tars,
    _parquet,
    _class_folders,
    _named_files,
)


def _has_ending(look: PathView, ending: str) -> bool:
    return any(name.endswith(ending) for name in look.entries)


def _images(look: PathView) -> str:
    name = look.any_case("origin", "image", "images", "img")
    return look.uri if name is None else storage.join(look.uri, name)
