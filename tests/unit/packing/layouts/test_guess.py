"""make_shards guess: every layout that people hold by one command, odd ones, and both where two fit."""

import io
import json
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tyro

from ldlva_dist.dataset.images import encode_image
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.classes.known_sets import RAF_DB
from ldlva_dist.packing.guess.guess import Guess, guess
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.commands import Command
from ldlva_dist.packing.sources.common import Common
from testing.layouts import LAYOUTS, VOTE_HEADER, Painter, expw, pixel_rows, write, yolo
from testing.local_packing import pack_here

RAF_DB_TRAIN = (1290, 281, 717, 4772, 1982, 705, 2524)
ALSO = {"affectnet-copy": ["class-folders"]}
"""Kinds that fit besides."""


def _line(found: Guess, root: Path) -> str:
    return " ".join(shlex.split(found.command)[2:]).replace(f" --output {root}/set", "").replace(str(root), "R")


def _tree(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_its_command_packs_it(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    LAYOUTS[name].draw(root)
    before = _tree(tmp_path)
    found = guess(str(root), str(tmp_path / "set"))
    assert _tree(tmp_path) == before
    assert [one.command.split()[2] for one in found] == [LAYOUTS[name].arguments.split()[0], *ALSO.get(name, [])]
    command = tyro.cli(Command, args=[*shlex.split(found[0].command)[2:], "--holdout", "0"])
    assert isinstance(command, Common)
    stated = command.stated()
    settings = PackSettings(
        name="set",
        class_names=stated.names,
        numbers=stated.numbers,
        holdout=0.0,
        max_rejected=command.max_rejected,
    )
    order = pack_here(command.source(), tmp_path / "set", settings)
    assert tuple(order.splits) == LAYOUTS[name].rows
    counted = {part: sum(counts.values()) for part, counts in found[0].counts.items()}
    if name not in ("expw", "yolo"):  # a row that stands twice, a picture of two faces
        assert counted == {part: n for part, n in zip(("train", "holdout", "test"), order.splits, strict=True) if n}


def _table(root: Path, header: str, *rows: str) -> None:
    painter = Painter()
    delimiter = next(character for character in ";\t," if character in header)
    write(root / "t.csv", [header, *rows])
    for row in rows:
        name = next(cell for cell in row.split(delimiter) if cell.endswith(".jpg"))
        painter.jpeg(root / "pictures" / name)


def _tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _wrapped(root: Path) -> None:
    painter = Painter()
    for part in ("Train", "Test"):
        for name in ("Anger", "Contempt", "Happy"):
            painter.jpeg(root / "archive (3)" / part / name / "1.jpg")


def _numbered(root: Path) -> None:
    painter = Painter()
    for number in range(7):
        painter.jpeg(root / "train" / str(number) / "1.jpg")


def _raf_db_by_counts(root: Path) -> None:
    rows = [f"{place}.jpg,{number}" for number, count in enumerate(RAF_DB_TRAIN, 1) for place in range(count)]
    write(root / "ferplus.csv", ["image,label", *rows])
    Painter().jpeg(root / "0.jpg")


def _four_classes(root: Path) -> None:
    painter = Painter()
    for name in ("Sad", "happiness", "angry", "Neutral"):
        painter.jpeg(root / name / "1.jpg")


def _ck_without_contempt(root: Path) -> None:
    write(root / "ck.csv", ["emotion,pixels,Usage", *pixel_rows(7, Painter())])


def _votes_alone(root: Path) -> None:
    write(root / "fer2013new.csv", [VOTE_HEADER, "Training,fer0000000.png,9,0,0,0,0,0,0,0,1,0"])


def _headless(root: Path) -> None:
    write(root / "validation.csv", [f"2/{n}.jpg,0,0,8,8,1;2,{n % 7 + 1},0.1,0.2" for n in range(3)])


def _parts_of_tables(root: Path) -> None:
    painter = Painter()
    for part in ("train", "valid", "test"):
        write(
            root / f"{part}.csv", ["file,emotion", *(f"{part}{n}.jpg,{(n % 2 and 'sad') or 'happy'}" for n in range(4))]
        )
        for n in range(4):
            painter.jpeg(root / "faces" / f"{part}{n}.jpg")


def _json_tar(root: Path) -> None:
    facts = json.dumps({"emotion": "sad", "val": 0.5, "aro": -0.5, "age": 31}).encode()
    _tar(root / "a.tar", {"1.jpg": encode_image(Painter().pixels()), "1.json": facts})


def _numbers_in_a_tar(root: Path) -> None:
    image = encode_image(Painter().pixels())
    _tar(
        root / "a.tar",
        {name: data for n in range(1, 8) for name, data in ((f"{n}.jpg", image), (f"{n}.cls", b"%d" % n))},
    )


def _parquet(root: Path) -> None:
    image = encode_image(Painter().pixels())
    table = pa.table({"image": [image] * 7, "label": list("abcdefg")})
    table = table.set_column(1, "label", pa.array(["neutral", "happy", "sad", "surprise", "fear", "disgust", "anger"]))
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        pq.write_table(table, root / name)


def _hub_tars(root: Path) -> None:
    image = encode_image(Painter().pixels())
    write(root / "classnames.txt", ["angry", "disgusted", "fearful"])
    for part in ("test", "train"):
        (root / part).mkdir()
        _tar(root / part / "0.tar", {"1.jpg": image, "1.cls": b"1", "2.jpg": image, "2.cls": b"0"})


def _class_and_box(root: Path) -> None:
    image = encode_image(Painter().pixels())
    table = pa.table({"image": [image] * 2, "label": ["1 0 0 8 8", "7 2 2 8 8"]})
    pq.write_table(table, root / "train-00000-of-00001.parquet")


ODD: dict[str, tuple[Callable[[Path], None], str, list[str], str]] = {
    "tars of a hub with the names of their numbers": (
        _hub_tars,
        "",
        ["webdataset --train R/train/0.tar --test R/test/0.tar --classes 0=angry 1=disgusted 2=fearful"],
        "",
    ),
    "a wrapper with capitals": (
        _wrapped,
        "",
        ["class-folders --train R/archive (3)/Train --test R/archive (3)/Test --classes Happy Anger Contempt"],
        "",
    ),
    "numbered folders": (_numbered, "", ["class-folders --train R/train"], "fits: FER2013, ExpW: --classes 0=Angry"),
    "a ferplus that is RAF-DB": (
        _raf_db_by_counts,
        "",
        [
            "folder --table R/ferplus.csv --images R --path-column image --label-column label --classes "
            + " ".join(f"{number}={name}" for number, name in enumerate(RAF_DB, 1))
        ],
        "train: the counts are those of RAF-DB's training part",
    ),
    "four classes": (_four_classes, "", ["class-folders --train R --classes Neutral Happy Sad Anger"], "no test part"),
    "pixels that may be CK+'s": (
        _ck_without_contempt,
        "",
        ["fer2013 --table R/ck.csv", "ckextended --table R/ck.csv --num-classes 7"],
        "",
    ),
    "votes alone": (_votes_alone, "", ["ferplus --table R/fer2013new.csv --images IMAGES"], "the PNG files"),
    "a list without a header": (
        _headless,
        "validation.csv",
        ["affectnet --train R/validation.csv --images IMAGES"],
        "the folder of the images is not beside it",
    ),
    "semicolons, another scale, persons": (
        lambda root: _table(root, "file;label;v;a;person;Age", "1.jpg;happy;1.5;8;A;30", "2.jpg;sad;7;2;B;40"),
        "t.csv",
        [
            "folder --table R/t.csv --images R/pictures --path-column file --label-column label --valence-column v "
            "--arousal-column a --va-scale 1 9 --keep-column Age person --holdout-by person --classes Happy Sad"
        ],
        "valence and arousal lie in 1.5 to 8: --va-scale",
    ),
    "boxes and tabs": (
        lambda root: _table(
            root, "img\temotion\txmin\tymin\txmax\tymax", "1.jpg\tfear\t0\t0\t8\t8", "2.jpg\tsad\t0\t0\t8\t8"
        ),
        "",
        [
            "folder --table R/t.csv --images R/pictures --path-column img --label-column emotion --box-columns "
            "left=xmin top=ymin right=xmax bottom=ymax --classes Sad Fear"
        ],
        "",
    ),
    "a table without its images": (
        lambda root: write(root / "t.csv", ["path,label", "x/1.jpg,sad"]),
        "",
        ["folder --table R/t.csv --images IMAGES --path-column path --label-column label"],
        "the images of 'path' are not beside it",
    ),
    "a column whose values repeat": (
        lambda root: _table(
            root, "file,kind,split,score", *(f"{n}.jpg,{'ab'[n % 2]},{n % 2},.{n % 2}" for n in range(8))
        ),
        "",
        ["folder --table R/t.csv --images R/pictures --path-column file --label-column kind --classes a b"],
        "labels are taken from 'kind', whose values repeat",
    ),
    "two columns whose values repeat": (
        lambda root: _table(root, "file,kind,rater", *(f"{n}.jpg,{'ab'[n % 2]},{n % 2}" for n in range(8))),
        "t.csv",
        ["folder --table R/t.csv --images R/pictures --path-column file --label-column LABEL"],
        "--label-column must say which column holds the labels, kind or rater",
    ),
    "tables of three parts": (
        _parts_of_tables,
        "",
        [
            "folder --table R/train.csv --validation-table R/valid.csv --test-table R/test.csv --images R/faces "
            "--path-column file --label-column emotion --classes Happy Sad"
        ],
        "",
    ),
    "a tar with JSON": (
        _json_tar,
        "a.tar",
        ["webdataset --train R/a.tar --label-field emotion --valence-field val --arousal-field aro --keep-column age"],
        "no test part",
    ),
    "a tar of numbers from 1": (
        _numbers_in_a_tar,
        "",
        ["webdataset --train R/a.tar"],
        "fits: RAF-DB: --classes 1=Surprise",
    ),
    "parquet of a hub": (
        _parquet,
        "",
        ["parquet --train R/train-00000-of-00001.parquet --test R/test-00000-of-00001.parquet --label-column label"],
        "",
    ),
    "class and box in one cell": (
        _class_and_box,
        "",
        ["parquet --train R/train-00000-of-00001.parquet --label-column label"],
        "a label holds several numbers, such as '1 0 0 8 8', perhaps a class and a box",
    ),
    "the list of ExpW itself": (
        expw,
        "label/label.lst",
        ["expw --root R --labels R/label/label.lst"],
        "",
    ),
    "data.yaml itself": (yolo, "data.yaml", ["yolo --root R"], ""),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_one_is_said_for_what_it_is(name: str, tmp_path: Path) -> None:
    draw, inside, lines, note = ODD[name]
    draw(tmp_path)
    found = guess(str(tmp_path / inside) if inside else str(tmp_path), f"{tmp_path}/set")
    assert [_line(one, tmp_path) for one in found] == lines
    assert any(note in said for one in found for said in (*one.notes, ""))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("faces.zip", "is an archive: unpack it first"),
        ("fer.pt", "may hold pickled objects, which are never opened"),
        ("Annotations.mat", "is a format that is not read"),
        ("notes.csv", "is no layout that is known; seen: column 'a', column 'b'"),
        ("model.onnx", "is no layout that is known"),
    ],
)
def test_a_file_that_cannot_be_packed_is_named_for_what_it_is(file: str, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"a,b\n1,2\n")
    with pytest.raises(DataError, match=said):
        guess(str(tmp_path / file))


def test_folders_of_nothing_that_is_known_say_what_was_seen(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="seen: nothing"):
        guess(str(tmp_path))
    Painter().jpeg(tmp_path / "cats" / "1.jpg")  # images without a label
    with pytest.raises(DataError, match="is no layout that is known; seen: cats"):
        guess(str(tmp_path))
    with pytest.raises(SettingError, match="PATH must name what exists"):
        guess(str(tmp_path / "none"))
    write(tmp_path / "cats" / "dataset.json", ["{}"])
    with pytest.raises(DataError, match="is a packed data set"):
        guess(str(tmp_path / "cats"))
