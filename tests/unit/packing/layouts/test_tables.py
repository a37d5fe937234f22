"""What tables and tars may say besides: boxes, scales, columns that ride along, several files, tars in tars."""

import gzip
import io
import shlex
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro

from ldlva_dist.dataset.images import decode, encode_image
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.commands import Command
from ldlva_dist.packing.sources.common import Common
from ldlva_dist.packing.sources.readers.boxes import BAD_BOX, cut_face, stated_boxes
from ldlva_dist.packing.sources.readers.samples import Fields
from ldlva_dist.packing.sources.readers.web_dataset import WebDatasetSource, tars_of
from ldlva_dist.packing.sources.readers.yolo import class_names_of
from ldlva_dist.packing.sources.rows import all_rows
from testing.layouts import LAYOUTS, Painter, write
from testing.local_packing import manifest, pack_here


def _command(line: str) -> Common:
    command = tyro.cli(Command, args=[*shlex.split(line), "--output", "set"])
    assert isinstance(command, Common)
    return command


def _corner() -> bytes:
    """A picture of 40 x 20 that is white in x 10..19, y 5..9."""
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[5:10, 10:20] = 255
    return encode_image(pixels)


@pytest.mark.parametrize(
    ("words", "row"),
    [
        ("left=a top=b width=c height=d", "10,5,10,5"),
        ("top=a left=b right=c bottom=d", "5,10,20,10"),
        ("center-x=a center-y=b width=c height=d", "15,7.5,10,5"),
        ("right=a width=b bottom=c height=d", "20,10,10,5"),
        ("left=a center-x=b top=c center-y=d", "10,15,5,7.5"),
        ("center-x=a right=b center-y=c bottom=d", "15,20,7.5,10"),
    ],
)
def test_a_box_is_two_edges_of_each_axis_in_any_order(words: str, row: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(_corner())
    write(tmp_path / "t.csv", ["path,label,a,b,c,d", f"x.jpg,Happy,{row}"])
    source = _command(
        f"folder --table {tmp_path}/t.csv --images {tmp_path} --path-column path --label-column label "
        f"--box-columns {words}"
    ).source()
    (rows,) = all_rows(source)
    assert isinstance(rows.images[0], bytes)
    face = decode(rows.images[0], 3)
    assert face.shape == (5, 10, 3)
    assert face.mean() > 240


def test_a_box_may_be_shares_of_the_picture_and_have_a_margin() -> None:
    face, reason = cut_face(_corner(), (0.25, 0.25, 0.25, 0.25), "fraction", 0.5)
    assert reason is None
    assert isinstance(face, bytes)
    assert decode(face, 3).shape == (10, 20, 3)


@pytest.mark.parametrize("box", [(50, 0, 5, 5), (0, 0, 0, 5), (float("nan"), 0, 5, 5), (float("inf"), 0, 5, 5)])
def test_a_box_that_holds_nothing_of_the_picture_is_a_reason(box: tuple[float, float, float, float]) -> None:
    assert cut_face(_corner(), box)[1] == BAD_BOX


@pytest.mark.parametrize(
    "words", ["left=a", "left=a right=b width=c top=d", "left=a right=b top=c middle=d", "a b c d"]
)
def test_columns_that_are_no_box_are_refused(words: str) -> None:
    with pytest.raises(SettingError, match="--box-columns must say EDGE=COLUMN"):
        stated_boxes(words.split(), "pixels", 0.0)


def test_valence_arousal_of_another_scale_is_brought_to_ours(tmp_path: Path) -> None:
    Painter().jpeg(tmp_path / "x.jpg")
    write(tmp_path / "t.tsv", ["path\tlabel\tv\ta", "x.jpg\tHappy\t1\t9", "x.jpg\tSad\t5\t-2"])
    line = f"folder --table {tmp_path}/t.tsv --images {tmp_path} --path-column path --label-column label"
    line += " --valence-column v --arousal-column a"
    (rows,) = all_rows(_command(f"{line} --va-scale 1 9").source())
    np.testing.assert_allclose(rows.va[np.argsort(rows.numbers)], [[-1, 1], [0, -1.75]])  # -2 is a number here
    (rows,) = all_rows(_command(f"{line} --va-scale -10 10").source())
    np.testing.assert_allclose(rows.va[np.argsort(rows.numbers)], [[0.1, 0.9], [0.5, -0.2]], rtol=1e-6)
    with pytest.raises(SettingError, match="--va-scale must be the numbers that stand for -1 and 1, got 9 1"):
        _command(f"{line} --va-scale 9 1").source()


def test_several_tables_and_columns_that_ride_along(tmp_path: Path) -> None:
    painter, classes = Painter(), ("Happy", "Sad")
    for name in "abc":
        rows = [f"{name}{n}.jpg;{classes[n % 2]};{20 + n};{'' if n else 'web'}" for n in range(4)]
        write(tmp_path / f"{name}.csv", ["path;label;age;source", *rows])
        for n in range(4):
            painter.jpeg(tmp_path / f"{name}{n}.jpg")
    command = _command(
        f"folder --table {tmp_path}/a.csv {tmp_path}/b.csv --validation-table {tmp_path}/c.csv --images {tmp_path} "
        "--path-column path --label-column label --keep-column age source --classes Happy Sad"
    )
    pack_here(command.source(), tmp_path / "set", PackSettings(name="set", class_names=classes))
    rows = {row["key"]: row for row in manifest(tmp_path / "set")}
    assert len(rows) == 12
    assert {key for key, row in rows.items() if row["split"] == "holdout"} == {"c0", "c1", "c2", "c3"}
    assert [rows[f"b{n}"]["extra_age"] for n in range(4)] == ["20", "21", "22", "23"]
    assert [rows[f"b{n}"]["extra_source"] for n in range(2)] == ["web", None]


def test_a_column_that_rides_along_must_be_there(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", ["path,label", "x.jpg,Happy"])
    line = f"folder --table {tmp_path}/t.csv --images {tmp_path} --path-column path --label-column label"
    with pytest.raises(SettingError, match=r"--keep-column must name columns of .*t.csv, got 'age'; columns present"):
        _command(f"{line} --keep-column age").source().partitions()
    LAYOUTS["affectnet"].draw(tmp_path)
    lists = LAYOUTS["affectnet"].arguments.format(root=tmp_path)
    found = [rows.extra for rows in all_rows(_command(f"{lists} --keep-column face_width").source())]
    assert [extra["face_width"][0] for extra in found] == ["8", "8"]
    with pytest.raises(SettingError, match=r"--keep-column must name columns of .*training.csv, got 'age'"):
        _command(f"{lists} --keep-column age").source().partitions()
    with pytest.raises(SettingError, match="must be nothing for this kind of source, got 'age'"):
        _command("class-folders --train x --keep-column age")
    with pytest.raises(SettingError, match="must be one of person, got 'age'"):
        _command("jaffe --images x --keep-column age")
    with pytest.raises(SettingError, match=r"--at-least must say COLUMN=NUMBER, got 'label'"):
        _command(f"{line} --at-least label").source()


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_tars_are_read_by_patterns_compressed_and_in_tars(tmp_path: Path) -> None:
    image = encode_image(Painter().pixels())
    for n in range(3):
        (tmp_path / f"s-{n:03d}.tar").write_bytes(_tar({f"{n}.jpg": image, f"{n}.cls": b"3"}))
    inner = _tar({"7.jpg": image, "7.cls": b"5", "8.jpg": image})
    (tmp_path / "outer.tar.gz").write_bytes(gzip.compress(_tar({"1.jpg": image, "1.cls": b"4", "deep/in.tar": inner})))
    tars = tuple(tars_of([f"{tmp_path}/s-{{000..002}}.tar", f"{tmp_path}/outer.tar.gz"]))
    found = [
        (key, label, reason)
        for rows in all_rows(WebDatasetSource(tars={"train": tars}))
        for key, label, reason in zip(rows.keys, rows.labels, rows.reasons or (), strict=True)
    ]
    assert found == [
        *((str(n), "3", None) for n in range(3)),
        ("1", "4", None),
        ("deep_in_7", "5", None),
        ("deep_in_8", None, "it has no .cls member"),
    ]


def test_what_is_wrong_with_a_pattern_or_a_compression_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="must have both braces of a pattern"):
        list(tars_of([f"{tmp_path}/s-{{000..002.tar"]))
    (tmp_path / "s-000.tar").write_bytes(b"")
    with pytest.raises(SettingError, match=r"got '.*s-001.tar'"):
        list(tars_of([f"{tmp_path}/s-{{000..001}}.tar"]))
    packed = gzip.compress(_tar({"1.jpg": b"x" * 5000}))
    for name, data in {
        "cut": packed[:-30],
        "none": b"no gzip",
        "wrong": packed[:40] + b"\xff" * 9 + packed[49:],
    }.items():
        (tmp_path / f"{name}.tar.gz").write_bytes(data)
        source = WebDatasetSource(tars={"train": (f"{tmp_path}/{name}.tar.gz",)})
        with pytest.raises(DataError, match=rf"{name}.tar.gz: its gzip compression is damaged"):
            list(all_rows(source))


def test_fields_of_the_json_ride_along(tmp_path: Path) -> None:
    image = encode_image(Painter().pixels())
    facts = b'{"emotion": "sad", "age": 31, "v": 5, "a": 9, "gender": null}'
    (tmp_path / "s.tar").write_bytes(_tar({"1.jpg": image, "1.json": facts}))
    fields = Fields(label="emotion", valence="v", arousal="a", va_scale=(1, 9), extra=("age", "gender"))
    (rows,) = all_rows(WebDatasetSource(tars={"train": (f"{tmp_path}/s.tar",)}, fields=fields))
    assert dict(rows.extra) == {"age": ["31"], "gender": [None]}
    np.testing.assert_array_equal(rows.va, [[0, 1]])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [a, b]", ("a", "b")),
        ("names:\n  1: b\n  0: a", ("a", "b")),
        ("names: [no, b]", None),
        ("x: 1", None),
        ("a: [", None),
    ],
)
def test_data_yaml_names_the_classes(text: str, names: tuple[str, ...] | None, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(text)
    if names:
        assert class_names_of(str(tmp_path / "data.yaml")) == names
        return
    with pytest.raises(DataError, match="does not say the names of its classes"):
        class_names_of(str(tmp_path / "data.yaml"))


def test_a_person_of_the_holdout_needs_the_column_and_no_other_holdout(tmp_path: Path) -> None:
    painter = Painter()
    for n in range(4):
        painter.jpeg(tmp_path / f"{n}.jpg")
    write(tmp_path / "t.csv", ["path,label,person", *(f"{n}.jpg,{('Happy', 'Sad')[n % 2]},{n // 2}" for n in range(4))])
    line = f"folder --table {tmp_path}/t.csv --images {tmp_path} --path-column path --label-column label"
    settings = PackSettings(name="set", class_names=("Happy", "Sad"), holdout=0.5, holdout_by="person")
    with pytest.raises(SettingError, match="--holdout-by must name a column of the data, got 'person'"):
        pack_here(_command(line).source(), tmp_path / "none", settings)
    pack_here(_command(f"{line} --holdout-by person").source(), tmp_path / "set", settings)
    persons = [(row["split"], row["extra_person"]) for row in manifest(tmp_path / "set")]
    assert sorted(persons) == [("holdout", "1"), ("holdout", "1"), ("train", "0"), ("train", "0")]
    two = f"{line} --holdout-by person --validation-table {tmp_path}/v.csv"
    write(tmp_path / "v.csv", ["path,label,person", "v.jpg,Happy,7"])
    painter.jpeg(tmp_path / "v.jpg")
    with pytest.raises(SettingError, match="got data with a validation part"):
        pack_here(_command(two).source(), tmp_path / "two", replace(settings, max_rejected=1.0))
