"""Which rows are packed: different files are different rows, and a part that loses too much stops the packing."""

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import decode, encode_image
from ldlva_dist.dataset.shards import key_apart, sanitise_key
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.passes.copies import copies_in, leaks
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.generic import ClassFolders
from ldlva_dist.packing.sources.listing import list_images
from ldlva_dist.packing.sources.readers.class_folders import ClassFoldersSource
from ldlva_dist.packing.sources.readers.folder import FolderSource
from ldlva_dist.packing.sources.readers.parquet import ParquetSource
from ldlva_dist.packing.sources.readers.web_dataset import WebDatasetSource
from ldlva_dist.packing.sources.rows import Part
from ldlva_dist.packing.sources.user_columns import UserColumns
from testing.local_packing import manifest, pack_here, rejected

CLASSES = ("calm", "glad")
SETTINGS = PackSettings(name="set", class_names=CLASSES, holdout=0.0)


def _image(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _draw(root: Path, names: Sequence[str], first: int = 0) -> str:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_image(first + number))
    return str(root)


def _both(*names: str) -> list[str]:
    return [f"{folder}/{name}" for folder in CLASSES for name in names]


def _keys(output: Path) -> dict[str, str]:
    """Split by key."""
    return {row["key"]: row["split"] for row in manifest(output)}


def test_keys_of_names_that_do_not_meet_are_their_slugs(tmp_path: Path) -> None:
    names = _both("1.png", "a b.png", "A.png")
    source = ClassFoldersSource(folders={"train": _draw(tmp_path / "faces", names)})
    pack_here(source, tmp_path / "set", SETTINGS)
    assert set(_keys(tmp_path / "set")) == {sanitise_key(name) for name in names}


def test_the_bytes_of_a_set_whose_keys_do_not_meet_are_those_of_before(tmp_path: Path) -> None:
    """Sums made by the program of 2026-11-24."""
    for number, name in enumerate(_both("1.bmp", "a b.bmp", "A.bmp", "c.d.bmp")):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_image(number, "BMP"))
    source = ClassFoldersSource(folders={"train": str(tmp_path / "faces")})
    pack_here(source, tmp_path / "set", replace(SETTINGS, holdout=0.5))
    digest = hashlib.sha256()
    for tar in sorted((tmp_path / "set").glob("*.tar")):
        digest.update(tar.read_bytes())
    assert digest.hexdigest() == "8126d6a79cd341fdc6d3fa752529121916bc42b35ec32a100692016e0d1af9f2"
    content = "b13556249e74ffa2dc87dbd10159b000abaa0bf8117e75a592c0739a1dd1b448"
    assert Dataset.open(str(tmp_path / "set")).info.content_hash == content


MEETING = ["0.png", "0.jpg", "a b.png", "a_b.png", "a(b.png", "a[b.png", "a.b.png", "कि.png", "की.png", "क.png"]


def test_different_files_are_different_rows_whatever_their_slugs(tmp_path: Path) -> None:
    names = _both(*MEETING)
    source = ClassFoldersSource(folders={"train": _draw(tmp_path / "faces", names)})
    order = pack_here(source, tmp_path / "set", SETTINGS)
    assert order.splits == [len(names), 0, 0]
    assert not order.reasons
    lonely = {"calm_क", "glad_क"}
    wanted = {name: sanitise_key(name) for name in names}
    wanted = {name: key if key in lonely else key_apart(key, f"train/{name}") for name, key in wanted.items()}
    assert set(_keys(tmp_path / "set")) == set(wanted.values())
    pack_here(replace(source, seed=7), tmp_path / "other", SETTINGS)
    assert set(_keys(tmp_path / "other")) == set(wanted.values())


def test_a_noise_list_names_rows_whose_keys_meet_by_their_paths(tmp_path: Path) -> None:
    source = ClassFoldersSource(folders={"train": _draw(tmp_path / "faces", _both("0.png", "0.jpg", "1.png"))})
    (tmp_path / "noise.txt").write_text("calm/0.jpg glad\ncalm/1.png calm\nglad/0.jpg glad\n")
    pack_here(source, tmp_path / "set", replace(SETTINGS, noise=f"list:{tmp_path / 'noise.txt'}"))
    flipped = [row["key"] for row in manifest(tmp_path / "set") if row["flipped"]]
    assert flipped == [key_apart("calm_0", "train/calm/0.jpg")]
    (tmp_path / "noise.txt").write_text("calm_0 glad\n")
    with pytest.raises(DataError, match="names 'calm_0', and 0 more, which are no rows of the data"):
        pack_here(source, tmp_path / "none", replace(SETTINGS, noise=f"list:{tmp_path / 'noise.txt'}"))


def test_a_root_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    with pytest.raises(SettingError, match=r"--validation and --test must be UTF-8 text, got b'.*caf\\xe9'"):
        ClassFolders(output="x", train=_draw(root, ["calm/0.png"])).source()


def test_two_roots_of_one_last_name_are_told_apart(tmp_path: Path) -> None:
    folders: dict[Part, str] = {
        part: _draw(tmp_path / part / "images", _both("0.png", "1.png"), 10 * number)
        for number, part in enumerate(("train", "holdout", "test"))
    }
    pack_here(ClassFoldersSource(folders=folders), tmp_path / "set", SETTINGS)
    assert sorted(_keys(tmp_path / "set").values()) == ["holdout"] * 4 + ["test"] * 4 + ["train"] * 4
    images = {(tmp_path / part / "images" / name).read_bytes() for part in folders for name in _both("0.png", "1.png")}
    packed = b"".join(path.read_bytes() for path in (tmp_path / "set").glob("*.tar"))
    assert all(image in packed for image in images)


def _folder(tmp_path: Path, train: Sequence[str], test: Sequence[str] = ()) -> FolderSource:
    tables: dict[Part, tuple[str, ...]] = {}
    given: dict[Part, Sequence[str]] = {"train": train, "test": test}
    for part, names in given.items():
        if names:
            path = tmp_path / f"{part}.csv"
            path.write_text("\n".join(["path,label", *(f"{name},{CLASSES[i % 2]}" for i, name in enumerate(names))]))
            tables[part] = (str(path),)
    images = dict.fromkeys(tables, str(tmp_path / "faces"))
    return FolderSource(tables=tables, images=images, columns=UserColumns(path="path", label="label"))


def test_a_file_listed_twice_is_one_row_and_both_places_are_named(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(8)]
    _draw(tmp_path / "faces", names)
    source = _folder(tmp_path, [*names, "./3.png"], ["sub/../5.png"])
    first = tmp_path / "faces"
    with pytest.raises(DataError) as error:
        pack_here(source, tmp_path / "none", SETTINGS)
    assert "the train part loses too much: 1 of 9 rows were rejected" in str(error.value)
    assert f"{first}/3.png' in row 3 of" in str(error.value)
    assert f"{first}/./3.png' in row 8 of" in str(error.value)
    with pytest.raises(DataError, match=r"the test part loses too much: 1 of 1 rows .* \(first as .*/5\.png' in row 5"):
        pack_here(source, tmp_path / "none2", replace(SETTINGS, max_rejected=0.2))
    alone = replace(source, tables={"train": source.tables["train"]})
    order = pack_here(alone, tmp_path / "set", replace(SETTINGS, max_rejected=0.2))
    assert order.reasons == {"the row stands twice": 1}
    assert order.notes[0].startswith("rows that stand twice: 1, the first is ")
    (row,) = rejected(tmp_path / "set")
    assert row["reason"].startswith("the row stands twice: first as ")
    assert "3.png' in row" in row["reason"]
    assert len(_keys(tmp_path / "set")) == 8


def _parquet(path: Path, names: Sequence[str], first: int = 0) -> str:
    columns = {
        "name": list(names),
        "image": [_image(first + i) for i in range(len(names))],
        "expression": [CLASSES[i % 2] for i in range(len(names))],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_names_may_begin_again_in_every_file_of_a_table(tmp_path: Path) -> None:
    names = ["0.png", "1.png"]
    train = (_parquet(tmp_path / "a" / "x.parquet", names), _parquet(tmp_path / "b" / "x.parquet", names, 2))
    test = (_parquet(tmp_path / "test.parquet", names, 4),)
    source = ParquetSource(files={"train": train, "test": test}, key="name")
    assert pack_here(source, tmp_path / "set", SETTINGS).splits == [4, 0, 2]
    assert set(_keys(tmp_path / "set")) >= {key_apart("0", "train/a/x.parquet/0.png"), key_apart("1", "test/1.png")}


def test_keys_do_not_depend_on_the_order_of_the_tasks(tmp_path: Path) -> None:
    files = tuple(_parquet(tmp_path / f"{i}.parquet", MEETING, 100 * i) for i in range(3))
    source = ParquetSource(files={"train": files[:2], "test": files[2:]}, key="name")
    pack_here(source, tmp_path / "one", SETTINGS)
    pack_here(source, tmp_path / "two", SETTINGS, backwards=True)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert len(_keys(tmp_path / "one")) == 3 * len(MEETING)


def test_a_file_of_two_parts_is_refused(tmp_path: Path) -> None:
    file = _parquet(tmp_path / "x.parquet", ["0.png", "1.png"])
    os.symlink(file, tmp_path / "link.parquet")
    twice: dict[Part, tuple[str, ...]] = {"train": (file, file)}
    linked: dict[Part, tuple[str, ...]] = {"train": (file,), "test": (str(tmp_path / "link.parquet"),)}
    for files in (twice, linked):
        with pytest.raises(SettingError, match=r"must name each file once, got '.*\.parquet' again"):
            ParquetSource(files=files, key="name").partitions()
    with pytest.raises(SettingError, match="must name each file once"):
        WebDatasetSource(tars={"train": ("a.tar", "./a.tar")}).partitions()


def test_a_name_that_stands_twice_in_a_table_is_one_row(tmp_path: Path) -> None:
    source = ParquetSource(
        files={"train": (_parquet(tmp_path / "x.parquet", ["0.png", "1.png", "0.png"]),)}, key="name"
    )
    order = pack_here(source, tmp_path / "set", replace(SETTINGS, max_rejected=0.6))
    assert (order.splits, order.reasons) == ([2, 0, 0], {"the row stands twice": 1})
    (row,) = rejected(tmp_path / "set")
    assert row["reason"] == f"the row stands twice: first as '0.png' in row 0 of {tmp_path / 'x.parquet'}"


def _lost(tmp_path: Path, part: Part) -> None:
    (tmp_path / "faces" / f"{part}-1.png").unlink()


PARTS: tuple[Part, ...] = ("train", "test")


@pytest.mark.parametrize("part", PARTS)
def test_each_part_has_a_budget_of_its_own(tmp_path: Path, part: Part) -> None:
    sizes = {"train": 4, "test": 196} if part == "train" else {"train": 196, "test": 4}
    names = {name: [f"{name}-{i}.png" for i in range(size)] for name, size in sizes.items()}
    _draw(tmp_path / "faces", names["train"] + names["test"])
    source = _folder(tmp_path, names["train"], names["test"])
    _lost(tmp_path, part)
    message = rf"the {part} part loses too much: 1 of 4 rows were rejected.*the image is missing \(1\).*{part}-1\.png"
    with pytest.raises(DataError, match=message):
        pack_here(source, tmp_path / "set", SETTINGS)
    assert pack_here(source, tmp_path / "set", replace(SETTINGS, max_rejected=0.25)).num_rejected == 1


def test_a_part_without_a_row_left_is_refused(tmp_path: Path) -> None:
    _draw(tmp_path / "faces", ["0.png", "1.png", "2.png"])
    source = _folder(tmp_path, ["0.png", "1.png"], ["2.png"])
    test = Path(source.tables["test"][0])
    test.write_text("path,label\n2.png,\n")
    with pytest.raises(DataError, match=r"the test part is empty: no label \(1\)"):
        pack_here(source, tmp_path / "set", replace(SETTINGS, max_rejected=1.0))
    test.write_text("path,label\n")
    with pytest.raises(DataError, match=r"the test part is empty: .*test\.csv holds no rows"):
        source.partitions()
    _draw(tmp_path / "classes", _both("1.png"))
    (tmp_path / "none" / "calm").mkdir(parents=True)
    (tmp_path / "none" / "calm" / "1.heic").write_bytes(b"x")
    folders: dict[Part, str] = {"train": str(tmp_path / "classes"), "test": str(tmp_path / "none")}
    with pytest.raises(DataError, match=r"the test part is empty: .* holds no rows; passed over: 1 files \(\.heic 1"):
        ClassFoldersSource(folders=folders).partitions()


def test_what_a_folder_of_class_folders_holds_besides_is_said(tmp_path: Path) -> None:
    train = _draw(tmp_path / "train", ["calm/0.png", "GLAD/0.png", "GLAD/.ipynb_checkpoints/0.png", "GLAD/note.txt"])
    (tmp_path / "train" / "sad").mkdir()
    command = ClassFolders(output="x", train=train)
    source = command.source()
    assert pack_here(source, tmp_path / "set", SETTINGS).class_counts["train"] == (1, 1)
    assert command.notes() == [
        f"passed over: 1 files (.txt 1), 1 hidden (.ipynb_checkpoints 1) in {train}",
        f"class folders without an image in {train}: 'sad'",
    ]
    _draw(tmp_path / "train", ["beside.png"], 9)
    list_images.cache_clear()
    with pytest.raises(DataError, match=r"the image stands in no class folder \(1\); the first: '.*/beside\.png'"):
        pack_here(source, tmp_path / "none", SETTINGS)


def test_copies_of_images_are_said_and_kept(tmp_path: Path) -> None:
    train = _draw(tmp_path / "train", _both("0.png", "1.png", "2.png", "3.png"))
    test = _draw(tmp_path / "test", _both("8.png", "9.png"), 100)
    for number, name in ((2, "8"), (3, "9")):
        (tmp_path / "test" / "calm" / f"{name}.png").write_bytes(_image(number))
    (tmp_path / "train" / "glad" / "3.png").write_bytes(_image(0))
    order = pack_here(ClassFoldersSource(folders={"train": train, "test": test}), tmp_path / "set", SETTINGS)
    assert order.splits == [8, 0, 4]
    between, within = order.notes
    packed = [line.partition(", such as ")[0] for line in copies_in(Dataset.open(str(tmp_path / "set")))]
    said = [line.partition(", such as ")[0] for line in order.notes]
    assert packed == [line.replace("pixel by pixel", "byte for byte") for line in said]
    assert between.startswith("copies: 2 of 4 test images are in train too, pixel by pixel, such as '")
    one, _, other = between.partition(", identical with ")
    assert (tmp_path / "test/calm/8.png" if "8.png" in one else tmp_path / "test/calm/9.png").as_posix() in one
    assert ("2.png" if "8.png" in one else "3.png") in other
    assert within.startswith("copies: 1 of 8 train images are there more than once")
    assert "calm/0.png" in within
    assert "glad/3.png" in within


def _photograph(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    return encode_image(pixels)


def _as(kind: str, image: bytes) -> bytes:
    """The same pixels in another format, which loses none."""
    buffer = io.BytesIO()
    more = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(decode(image, 3)).save(buffer, kind, **more)
    return buffer.getvalue()


def _planted(tmp_path: Path) -> ClassFoldersSource:
    """Of the test images, two stand in the training part byte for byte and three in other formats."""
    for number, name in enumerate(_both(*(f"{n}.jpg" for n in range(8)))):
        for part, first in (("train", 0), ("test", 100)):
            path = tmp_path / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_photograph(first + number))
    copied = [(tmp_path / "test" / "calm" / f"{n}.jpg").read_bytes() for n in range(5)]
    for n, kind in enumerate((None, None, "PNG", "BMP", "WEBP")):
        (tmp_path / "train" / "glad" / f"copy{n}.jpg").write_bytes(_as(kind, copied[n]) if kind else copied[n])
    list_images.cache_clear()
    return ClassFoldersSource(folders={"train": str(tmp_path / "train"), "test": str(tmp_path / "test")})


def test_planted_copies_are_found_in_whatever_format(tmp_path: Path) -> None:
    order = pack_here(_planted(tmp_path), tmp_path / "set", SETTINGS)
    assert order.splits == [21, 0, 16]
    (said,) = order.notes
    assert said.startswith("copies: 5 of 16 test images are in train too, pixel by pixel")


def test_copies_of_the_test_part_are_left_out_of_training_where_that_is_asked_for(tmp_path: Path) -> None:
    order = pack_here(_planted(tmp_path), tmp_path / "set", replace(SETTINGS, drop_copies=True))
    assert order.splits == [16, 0, 16]
    assert order.notes == []
    assert {(row["part"], row["key"], row["reason"]) for row in rejected(tmp_path / "set")} == {
        ("train", f"train_glad_copy{n}", "left out: its image stands in the test or validation part too")
        for n in range(5)
    }


def test_a_leak_is_a_row_that_stands_in_a_later_part() -> None:
    part_n = np.array([0, 0, 0, 1, 1, 2, 2], dtype=np.int8)
    image_n = np.array([1, 1, 2, 2, 3, 3, 4], dtype=np.uint64)
    assert leaks(part_n, image_n).tolist() == [False, False, True, False, True, False, False]


@pytest.mark.parametrize("make", [lambda: [], lambda: ["a"]])
def test_nothing_is_said_where_nothing_is_to_be_said(tmp_path: Path, make: Callable[[], list[str]]) -> None:
    names = _both("0.png", *(f"{name}.png" for name in make()))
    order = pack_here(ClassFoldersSource(folders={"train": _draw(tmp_path / "x", names)}), tmp_path / "set", SETTINGS)
    assert list(order.notes) == []
