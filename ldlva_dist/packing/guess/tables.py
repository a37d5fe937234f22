"""Which kinds of source a table may be, by its header and its first rows."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa

from ldlva_dist import storage
from ldlva_dist.errors import DataError
from ldlva_dist.packing.classes.class_index import is_emotion, whole_number
from ldlva_dist.packing.classes.known_layouts import AFFECTNET_COPY, EXPW_COLUMNS, FER_PLUS_CHOICES
from ldlva_dist.packing.guess.look import IMAGES, LABEL, Candidate, PathView
from ldlva_dist.packing.sources.readers.tables import image_uri
from ldlva_dist.packing.sources.rows import EXTENSIONS, PERSONS, USUAL_NAMES
from ldlva_dist.packing.tables.cells import number_of
from ldlva_dist.storage.csv_file import csv_blocks, csv_columns, csv_delimiter

HEADLESS_AFFECTNET = 9
PIXELS = {"emotion", "pixels", "Usage"}
LABELS = ("expression", "emotion", "class", "label", "labels", "target", "category", "y")
VALENCES, AROUSALS = ("valence", "val", "v"), ("arousal", "aro", "a")
RIDING = ("age", "gender", "sex", "race", "source", "person", "subject", "subject_id", "identity")
BOXES = (
    ("left=face_x top=face_y width=face_width height=face_height", ()),
    ("left=x top=y width=w height=h", ()),
    ("left=x top=y width=width height=height", ()),
    ("left=left top=top right=right bottom=bottom", ()),
    ("left=xmin top=ymin right=xmax bottom=ymax", ()),
    ("left=x1 top=y1 right=x2 bottom=y2", ()),
    ("center-x=cx center-y=cy width=w height=h", ("--box-unit", "fraction")),
)
SCALES = ((0.0, 1.0), (1.0, 9.0), (1.0, 5.0), (-10.0, 10.0), (0.0, 255.0))
HEAD_ROWS = 2000
NO_CLASSES = {*RIDING, "split", "usage", "subset", "set", "part", "partition", "fold"}
LEAST_REPEATS = 3
"""Rows of a value, on average, of a column that may be the classes."""


def guess_table(look: PathView, folder: PathView, label: str | None = None) -> Iterator[Candidate]:
    """What the table may be; ``folder`` is where it lies, ``label`` the column of its labels where that is known."""
    name = look.uri.rpartition("/")[2].lower()
    if name.endswith(".lst"):
        yield from _expw_list(look, folder)
        return
    try:
        columns = csv_columns(look.uri)
    except DataError:
        return
    if set(columns) >= PIXELS:
        yield from _pixels(look, folder)
    elif {"Usage", "Image name", *FER_PLUS_CHOICES} <= set(columns):
        yield from _fer_plus(look, folder)
    elif len(columns) == HEADLESS_AFFECTNET and (
        columns[0] == USUAL_NAMES["path"] or whole_number(columns[6]) is not None
    ):
        yield from _affectnet(look, folder)
    elif name.endswith(("train_labels.csv", "test_labels.csv")) and folder.has("DATASET"):
        return  # a list of RAF-DB's copy, which is recognised by its folders
    else:
        yield from _images_table(look, folder, columns, label)


def _pixels(look: PathView, folder: PathView) -> Iterator[Candidate]:
    cells = {cell for block in csv_blocks(look.uri, ["emotion"]) for cell in set(block["emotion"].to_pylist())}
    codes = {whole_number(cell) for cell in cells}
    kind = "ckextended" if 7 in codes else "fer2013"
    votes = next((name for name in folder.files((".csv",)) if name.lower() == "fer2013new.csv"), None)
    more = ("--votes", storage.join(folder.uri, votes)) if votes and kind == "fer2013" else ()
    yield Candidate(kind, ("--table", look.uri, *more), "columns emotion, pixels, Usage")
    if kind == "fer2013" and "ck" in look.uri.rpartition("/")[2].lower():
        yield Candidate("ckextended", ("--table", look.uri, "--num-classes", "7"), "columns emotion, pixels, Usage")


def _fer_plus(look: PathView, folder: PathView) -> Iterator[Candidate]:
    beside = (folder, *map(folder.at, folder.folders))
    images = next((at for at in beside if at.has("FER2013Train") or _has_fer(at)), None)
    if images is None and any(set(csv_columns(folder.at(name).uri)) >= PIXELS for name in folder.files((".csv",))):
        return  # the votes of a table of pixels beside it
    missing = (
        () if images else ("the PNG files that the authors' script writes are not beside it: --images names them",)
    )
    where = images.uri if images else IMAGES
    yield Candidate("ferplus", ("--table", look.uri, "--images", where), "the columns of fer2013new.csv", missing)


def _affectnet(look: PathView, folder: PathView) -> Iterator[Candidate]:
    file = look.uri.rpartition("/")[2].lower()
    training = folder.any_case("training.csv", "train.csv")
    if "valid" in file and training is not None:
        return  # the test part of the training list beside it
    test = folder.any_case("validation.csv", "valid.csv", "val.csv")
    images = folder.any_case("manually_annotated_images", "manually_annotated", "images")
    missing = [] if images else ["the folder of the images is not beside it: --images names it"]
    test = None if test is not None and test.lower() == file else test
    more = ("--test", storage.join(folder.uri, test)) if test else ()
    missing += [] if test else ["there is no test part: validation.csv"]
    where = storage.join(folder.uri, images) if images else IMAGES
    arguments = ("--train", look.uri, *more, "--images", where)
    yield Candidate("affectnet", arguments, "the columns of AffectNet's lists", tuple(missing))


def _expw_list(look: PathView, folder: PathView) -> Iterator[Candidate]:
    first = storage.read_bytes(look.uri, 4096).decode(errors="replace").partition("\n")[0].split()
    if len(first) == len(EXPW_COLUMNS) and all(whole_number(cell) is not None for cell in (*first[1:6], first[7])):
        root = folder.uri.rpartition("/")[0] or folder.uri
        missing = (
            () if PathView(root).has("image", "origin") else ("image/origin is not there: --images names the folder",)
        )
        yield Candidate("expw", ("--root", root, "--labels", look.uri), "eight fields with a box a line", missing)


def _images_table(look: PathView, folder: PathView, columns: Sequence[str], label: str | None) -> Iterator[Candidate]:
    try:
        head = _head(look.uri)
    except DataError:
        return
    path = AFFECTNET_COPY["path"] if AFFECTNET_COPY["path"] in columns else _path_column(head)
    label = label or usual_column(columns, LABELS) or _emotion_column(head)
    if path is None or path == label:
        return
    root = _image_root(folder, head[path].to_pylist())
    missing = [] if root else [f"the images of {path!r} are not beside it: --images names the folder they start from"]
    found = [label] if label else _repeating_columns(head, path)
    if not found:
        return
    if len(found) > 1:
        missing.append(f"--label-column must say which column holds the labels, {' or '.join(found)}")
    elif label is None:
        missing.append(f"labels are taken from {found[0]!r}, whose values repeat: --label-column names another")
    arguments = ["--table", look.uri, "--images", root or IMAGES]
    if not set(AFFECTNET_COPY.values()) <= set(columns):
        arguments += ["--path-column", path, "--label-column", found[0] if len(found) == 1 else LABEL]
    scale, unclear = _scale(columns, head)
    arguments += [*scale, *_boxes(columns), *riding_columns(columns)]
    why, is_sure = f"a table of images: {', '.join([path, *found])}", label is not None
    yield Candidate("folder", tuple(arguments), why, (*missing, *unclear), is_sure=is_sure)


def _head(uri: str) -> pa.Table:
    delimiter = csv_delimiter(uri)
    blocks = list(islice(csv_blocks(uri, delimiter=delimiter), 1))
    return blocks[0].slice(0, HEAD_ROWS) if blocks else pa.table({})


def usual_column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of the names that is a column, whatever its capitals."""
    lower = {column.lower(): column for column in columns}
    return next((lower[name] for name in names if name in lower), None)


def _path_column(head: pa.Table) -> str | None:
    """The column whose cells end as image files do."""
    endings = tuple(f".{extension}" for extension in EXTENSIONS)
    for name in head.column_names:
        cells = [cell for cell in head[name].to_pylist() if cell]
        if cells and sum(cell.strip().lower().endswith(endings) for cell in cells) > 0.9 * len(cells):
            return name
    return None


def _emotion_column(head: pa.Table) -> str | None:
    """The column whose cells are names of emotions."""
    for name in head.column_names:
        cells = [cell for cell in head[name].to_pylist() if cell]
        if cells and sum(map(is_emotion, cells)) > 0.5 * len(cells):
            return name
    return None


def _repeating_columns(head: pa.Table, path: str) -> list[str]:
    """The columns that may be classes: words or whole numbers, few of them, each in several rows."""
    found = []
    for name in head.column_names:
        cells = [cell for cell in head[name].to_pylist() if cell]
        values = set(cells)
        are_measures = all(math.isfinite(number_of(value)) for value in values) and not all(map(_is_number, values))
        if name.lower() not in NO_CLASSES and 1 < len(values) <= len(cells) / LEAST_REPEATS and not are_measures:
            found.append(name)
    return [name for name in found if name != path]


def _image_root(folder: PathView, paths: Sequence[str | None]) -> str | None:
    """The folder that the first paths start from: the table's, one beside it, or the one above."""
    above = PathView(folder.uri.rpartition("/")[0]) if "/" in folder.uri.strip("/") else folder
    tried = [folder, *(folder.at(name) for name in folder.folders), above, *(above.at(name) for name in above.folders)]
    wanted = [path for path in paths if path][:3]
    for look in tried:
        found = [uri for path in wanted if (uri := image_uri(look.uri, path)) and storage.exists(uri)]
        if found:
            return look.uri
    return None


def _scale(columns: Sequence[str], head: pa.Table) -> tuple[list[str], list[str]]:
    """Arguments for valence and arousal, and what is unclear about their scale."""
    valence, arousal = usual_column(columns, VALENCES), usual_column(columns, AROUSALS)
    if valence is None or arousal is None:
        return [], []
    numbers = [number_of(cell) for name in (valence, arousal) for cell in head[name].to_pylist()]
    numbers = [number for number in numbers if -1e6 < number < 1e6 and number != -2]
    arguments = [] if (valence, arousal) == ("valence", "arousal") else ["--valence-column", valence]
    arguments += ["--arousal-column", arousal] if arguments else []
    if not numbers or (min(numbers) < 0 and max(map(abs, numbers)) <= 1):
        return arguments, []
    low, high = next((scale for scale in SCALES if scale[0] <= min(numbers) and max(numbers) <= scale[1]), (0.0, 0.0))
    span = f"{min(numbers):g} to {max(numbers):g}"
    said = f"valence and arousal lie in {span}: --va-scale LOW HIGH says what stands for -1 and 1"
    return arguments + ([] if (low, high) == (0, 0) else ["--va-scale", f"{low:g}", f"{high:g}"]), [said]


def _boxes(columns: Sequence[str]) -> list[str]:
    for words, more in BOXES:
        if {word.partition("=")[2] for word in words.split()} <= set(columns):
            return ["--box-columns", *words.split(), *more]
    return []


def riding_columns(columns: Sequence[str]) -> list[str]:
    """Options for columns that are worth keeping, and for a holdout by person."""
    lower = {column.lower(): column for column in columns}
    riding = [lower[name] for name in RIDING if name in lower]
    person = next((lower[name] for name in PERSONS if name in lower), None)
    return [*(["--keep-column", *riding] if riding else []), *(["--holdout-by", person] if person else [])]


def _is_number(text: str) -> bool:
    return whole_number(text) is not None


def _has_fer(look: PathView) -> bool:
    return any(name.startswith("fer00") for name in look.images()[:5])
