"""Data sets of a known layout, drawn small: class order, protocol, official split."""

import pickle
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tyro

from ldlva_dist.dataset.images import decode, encode_image
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.classes.class_index import stated_classes
from ldlva_dist.packing.sources.commands import Command
from ldlva_dist.packing.sources.common import Common
from ldlva_dist.packing.sources.known_sets.affectnet import AffectNetSource
from ldlva_dist.packing.sources.known_sets.affectnet_commands import AffectNet
from ldlva_dist.packing.sources.known_sets.affectnet_folders import (
    BAD_ANNOTATION,
    NO_ANNOTATION,
    AffectNetFoldersSource,
    npy_value,
)
from ldlva_dist.packing.sources.known_sets.commands import FerPlus, RafDb
from ldlva_dist.packing.sources.known_sets.fer_plus import BAD_VOTES, FerPlusSource, majority
from ldlva_dist.packing.sources.known_sets.raf_db import NO_SPLIT, RafDbSource
from ldlva_dist.packing.sources.readers.boxes import BAD_BOX
from ldlva_dist.packing.sources.readers.class_folders import NO_CLASS, ClassFoldersSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES, Rows, Source, all_rows

HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
FER_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"


def _write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def _draw(path: Path, value: int = 0, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(np.full((size, size, 3), value, dtype=np.uint8)))


def _by_key(source: Source) -> dict[str, tuple[str, str | None, str | None]]:
    """part, label and reason of every row, read as a task that was sent the source reads it."""
    found = {}
    for rows in all_rows(pickle.loads(pickle.dumps(source))):
        reasons: Sequence[str | None] = rows.reasons or [None] * len(rows.keys)
        for key, label, reason in zip(rows.keys, rows.labels, reasons, strict=True):
            found[key] = (rows.part, label, reason)
    return found


def _one(source: Source, key: str) -> tuple[Rows, int]:
    return next((rows, rows.keys.index(key)) for rows in all_rows(source) if key in rows.keys)


def _affectnet(tmp_path: Path, num_classes: int = 7) -> AffectNetSource:
    lines = [f"a/{i}.jpg,2,2,4,4,1;2,{i},{-2 if i > 7 else i / 10},0.5\n" for i in range(11)]
    train = _write(tmp_path / "training.csv", HEADER + "".join(lines))
    test = _write(tmp_path / "validation.csv", "b/1.jpg,0,0,8,8,1;2,6,0.1,-0.2\n")  # published without a header
    images = str(tmp_path / "images")
    return AffectNetSource(tables={"train": train, "test": test}, images=images, num_classes=num_classes)


def test_affectnet_has_the_references_order_and_leaves_out_what_is_no_expression(tmp_path: Path) -> None:
    found = _by_key(_affectnet(tmp_path))
    assert [found[f"a_{i}"][1] for i in range(7)] == list(REFERENCE_CLASSES)
    assert all(found[f"a_{i}"][2] is None for i in range(7))
    reasons = [found[f"a_{i}"][2] for i in range(7, 11)]
    assert reasons == ["left out: Contempt", "left out: None", "left out: Uncertain", "left out: No-Face"]
    assert found["b_1"] == ("test", "Anger", None)


def test_affectnet_of_8_classes_keeps_contempt(tmp_path: Path) -> None:
    found = _by_key(_affectnet(tmp_path, num_classes=8))
    assert found["a_7"] == ("train", "Contempt", None)
    assert found["a_8"][2] == "left out: None"


def test_minus_two_says_that_there_is_no_valence(tmp_path: Path) -> None:
    source = _affectnet(tmp_path)
    rows, row = _one(source, "a_3")
    np.testing.assert_allclose(rows.va[row], [0.3, 0.5], rtol=1e-6)
    rows, row = _one(source, "a_9")
    assert np.isnan(rows.va[row, 0])


def test_the_box_of_affectnet_is_cut_out_when_asked(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[4:12, 2:10] = 255
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.jpg").write_bytes(encode_image(pixels))
    text = HEADER + "x.jpg,2,4,8,8,,1,0,0\ny.jpg,0,0,4,4,,1,0,0\nx.jpg,20,20,4,4,,1,0,0\n"
    source = AffectNetSource(
        tables={"train": _write(tmp_path / "t.csv", text)}, images=str(tmp_path / "images"), crop=True
    )
    (rows,) = all_rows(source)
    by_number = dict(zip(rows.numbers.tolist(), zip(rows.images, rows.reasons or (), strict=True), strict=True))
    face, reason = by_number[0]
    assert reason is None
    assert isinstance(face, bytes)
    assert decode(face, 3).shape == (8, 8, 3)
    assert decode(face, 3).mean() > 250
    assert by_number[1] == (str(tmp_path / "images" / "y.jpg"), None)  # missing: found by whoever checks images
    assert by_number[2][1] == BAD_BOX


def test_a_table_that_is_no_affectnet_list_is_a_data_error(tmp_path: Path) -> None:
    source = AffectNetSource(tables={"train": _write(tmp_path / "t.csv", "path,label\nx,1\n")}, images="x")
    with pytest.raises(DataError, match="no column 'subDirectory_filePath', which its layout has; columns present"):
        source.partitions()


def _annotate(folder: Path, number: int, expression: object, valence: object, arousal: object) -> None:
    _draw(folder / "images" / f"{number}.jpg")
    (folder / "annotations").mkdir(exist_ok=True)
    for kind, value in (("exp", expression), ("val", valence), ("aro", arousal)):
        if value is not None:
            np.save(folder / "annotations" / f"{number}_{kind}.npy", np.asarray(value))


def test_annotations_of_affectnet_may_be_texts_or_numbers(tmp_path: Path) -> None:
    _annotate(tmp_path / "train_set", 0, "1", "0.25", "-0.5")
    _annotate(tmp_path / "train_set", 17, 3.0, np.float32(0.5), -2)
    _annotate(tmp_path / "train_set", 18, "7", "0", "0")
    _annotate(tmp_path / "val_set", 0, 0, 0.0, 0.0)
    source = AffectNetFoldersSource(folders={"train": str(tmp_path / "train_set"), "test": str(tmp_path / "val_set")})
    assert _by_key(source) == {
        "train_set_0": ("train", "Happy", None),
        "train_set_17": ("train", "Surprise", None),
        "train_set_18": ("train", "Contempt", "left out: Contempt"),
        "val_set_0": ("test", "Neutral", None),
    }
    rows, row = _one(source, "train_set_0")
    np.testing.assert_array_equal(rows.va[row], [0.25, -0.5])
    rows, row = _one(source, "train_set_17")
    np.testing.assert_array_equal(rows.va[row], [0.5, np.nan])


def test_annotations_that_are_missing_or_no_plain_value_are_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "train_set"
    _annotate(folder, 0, "1", None, "0")
    _annotate(folder, 1, [1, 2], 0, 0)
    _annotate(folder, 2, "1", 0, 0)
    (folder / "annotations" / "2_aro.npy").write_bytes(b"no npy")
    _annotate(folder, 3, "happy", 0, 0)
    found = _by_key(AffectNetFoldersSource(folders={"train": str(folder)}))
    reasons = [found[f"train_set_{i}"][2] for i in range(4)]
    assert reasons == [NO_ANNOTATION, BAD_ANNOTATION, BAD_ANNOTATION, BAD_ANNOTATION]


def test_a_pickled_object_in_an_annotation_is_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (_fail, ("an annotation was unpickled",))

    np.save(tmp_path / "trap.npy", np.asarray(Trap(), dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="wanted one value"):
        npy_value((tmp_path / "trap.npy").read_bytes())


def _fail(reason: str) -> None:
    pytest.fail(reason)


def test_raf_db_counts_its_classes_from_1_and_splits_by_name(tmp_path: Path) -> None:
    names = [f"train_0000{i}.jpg {i}" for i in range(1, 8)]
    text = "\n".join([*names, "test_0001.jpg 5", "test_0002.jpg 0", "val_0001.jpg 1"]) + "\n"
    _write(tmp_path / "EmoLabel" / "list_patition_label.txt", text)
    _draw(tmp_path / "Image" / "aligned" / "train_00001_aligned.jpg")
    source = RafDb(output="x", root=str(tmp_path)).source()
    found = _by_key(source)
    order = ["Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"]
    assert [found[f"train_0000{i}"] for i in range(1, 8)] == [("train", name, None) for name in order]
    assert found["test_0001"] == ("test", "Sadness", None)
    assert found["test_0002"][1] == "RAF-DB label 0"  # no class: survey rejects it
    assert found["val_0001"][2] == NO_SPLIT
    rows, row = _one(source, "train_00001")
    assert Path(str(rows.images[row])).is_file()


def test_raf_db_that_is_not_there_is_a_setting_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--root or --labels must name what exists"):
        RafDb(output="x", root=str(tmp_path)).source()


def test_a_broken_list_of_raf_db_is_a_data_error(tmp_path: Path) -> None:
    labels = _write(tmp_path / "list.txt", "train_1.jpg 5\ntrain_2.jpg\n")
    with pytest.raises(DataError, match="not a readable CSV"):
        RafDbSource(labels=labels, images=str(tmp_path)).partitions()


@pytest.mark.parametrize(
    ("votes", "label", "reason"),
    [
        ("4,0,0,1,3,2,0,0,0,0", "neutral", "left out: no majority"),  # 4 of 9
        ("0,6,0,0,0,0,0,0,4,0", "happiness", None),
        ("0,0,1,1,1,1,2,1,1,1", "fear", None),  # all votes but two are single ones
        ("0,5,5,0,0,0,0,0,0,0", "happiness", "left out: no majority"),  # a tie
        ("0,0,0,0,0,0,0,8,0,2", "contempt", None),
        ("1,0,0,0,0,0,0,0,9,0", "unknown", "left out: unknown"),
        ("0,0,0,0,0,0,0,0,0,10", "NF", "left out: NF"),
        ("1,1,1,1,1,1,1,1,1,1", "neutral", "left out: no majority"),
        ("x,0,0,0,0,0,0,0,0,10", "NF", BAD_VOTES),
    ],
)
def test_the_label_of_ferplus_is_the_authors_majority(
    tmp_path: Path, votes: str, label: str, reason: str | None
) -> None:
    table = _write(tmp_path / "fer2013new.csv", f"{FER_HEADER}Training,fer0000000.png,{votes}\n")
    found = _by_key(FerPlusSource(table=table, images={"train": "faces"}))
    if reason is None:
        assert found == {"fer0000000": ("train", label, None)}
    assert found["fer0000000"][2] == reason


def test_ferplus_splits_by_usage_and_keeps_the_raw_votes_in_class_order(tmp_path: Path) -> None:
    text = (
        FER_HEADER
        + "Training,fer0000000.png,1,2,0,7,0,0,0,0,0,0\n"
        + "PublicTest, fer0000001.png ,0,0,0,0,0,0,0,9,1,0\n"
        + "PrivateTest,fer0000002.png,0,10,0,0,0,0,0,0,0,0\n"
        + "Training,,0,10,0,0,0,0,0,0,0,0\n"
    )
    table = _write(tmp_path / "fer2013new.csv", text)
    _draw(tmp_path / "data" / "FER2013Train" / "fer0000000.png")
    settings = FerPlus(output="x", table=table, images=str(tmp_path / "data"))
    assert settings.classes == (*REFERENCE_CLASSES, "Contempt")
    source = settings.source()
    assert _by_key(source) == {
        "fer0000000": ("train", "sadness", None),
        "": ("train", "happiness", "left out: it names no image"),
        "fer0000001": ("holdout", "contempt", None),
        "fer0000002": ("test", "happiness", None),
    }
    rows, row = _one(source, "fer0000000")
    assert rows.votes is not None
    np.testing.assert_array_equal(rows.votes[row], [1, 2, 7, 0, 0, 0, 0, 0])  # Neutral, Happy, Sad, ...
    assert Path(str(rows.images[row])).is_file()
    rows, row = _one(source, "fer0000001")
    assert rows.images[row] == str(tmp_path / "data" / "fer0000001.png")  # no folder of its own: all in one


def test_ferplus_of_7_classes_leaves_out_contempt_and_its_votes(tmp_path: Path) -> None:
    table = _write(tmp_path / "fer2013new.csv", f"{FER_HEADER}Training,a.png,0,0,0,0,0,0,1,9,0,0\n")
    (rows,) = all_rows(FerPlusSource(table=table, images={"train": "faces"}, num_classes=7))
    assert list(rows.reasons or ()) == ["left out: contempt"]
    assert rows.votes is not None
    np.testing.assert_array_equal(rows.votes, [[0, 0, 0, 0, 1, 0, 0]])


def test_public_test_may_be_left_out(tmp_path: Path) -> None:
    table = _write(tmp_path / "t.csv", f"{FER_HEADER}PublicTest,a.png,9,0,0,0,0,0,0,0,0,0\n")
    source = FerPlus(output="x", table=table, images=str(tmp_path), public_test=False).source()
    assert _by_key(source) == {}


def test_majority_of_no_votes_is_none() -> None:
    assert majority(np.zeros((1, 10), dtype=np.float32), 8)[1] == ["left out: no majority"]


def test_folders_name_the_class(tmp_path: Path) -> None:
    _draw(tmp_path / "Train" / "Angry" / "x.png")
    _draw(tmp_path / "Train" / "Happy" / "deep" / "y.JPG")
    _draw(tmp_path / "Train" / "lost.png")
    _draw(tmp_path / "Val" / "Angry" / "x.png")
    (tmp_path / "Train" / "Angry" / "Thumbs.db").write_bytes(b"")
    source = ClassFoldersSource(folders={"train": str(tmp_path / "Train"), "test": str(tmp_path / "Val")})
    assert _by_key(source) == {
        "Train_Angry_x": ("train", "Angry", None),
        "Train_Happy_deep_y": ("train", "Happy", None),
        "Train_lost": ("train", None, NO_CLASS),
        "Val_Angry_x": ("test", "Angry", None),
    }
    rows, row = _one(source, "Train_Happy_deep_y")
    assert Path(str(rows.images[row])).is_file()


def test_a_folder_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        ClassFoldersSource(folders={"train": str(tmp_path / "none")}).partitions()


def test_partitions_cover_every_row_once_and_can_be_read_in_any_order(tmp_path: Path) -> None:
    text = HEADER + "".join(f"{i}.jpg,0,0,4,4,,{i % 7},0,0\n" for i in range(5000))
    source = AffectNetSource(tables={"train": _write(tmp_path / "t.csv", text)}, images="faces", seed=3)
    pieces = source.partitions()
    assert [piece.rows for piece in pieces] == [2048, 2048, 904]
    assert [piece.first for piece in pieces] == [0, 2048, 4096]
    read = {piece.first: [key for rows in source.read(piece) for key in rows.keys] for piece in reversed(pieces)}
    keys = [key for piece in pieces for key in read[piece.first]]
    assert sorted(keys, key=int) == [str(i) for i in range(5000)]
    assert keys == [key for rows in all_rows(source) for key in rows.keys]


def test_settings_of_affectnet_name_the_classes_they_pack(tmp_path: Path) -> None:
    lists = _write(tmp_path / "training.csv", HEADER)
    settings = AffectNet(output="x", train=lists, images=str(tmp_path), num_classes=8)
    assert settings.classes[-1] == "Contempt"
    assert AffectNet(output="x", train=lists, images=str(tmp_path)).classes == REFERENCE_CLASSES


KINDS = {
    "folder": "--table t --images i",
    "class-folders": "--train a --validation b --test c",
    "parquet": "--train a b --votes x y",
    "webdataset": "--train a.tar b.tar --label-field emotion --ignore npy",
    "affectnet": "--train a.csv --test b.csv --images i --num-classes 8 --crop",
    "affectnet-folders": "--root r --num-classes 7",
    "affectnet-plus": "--root r --keep-column age",
    "rafdb": "--root r --suffix ''",
    "ferplus": "--table t --images i --no-public-test",
    "fer2013": "--table t --votes v",
    "ckextended": "--table t",
    "expw": "--root r --min-confidence 80",
    "kdef": "--images i --angles S",
    "jaffe": "--images i",
    "yolo": "--root r --no-crop",
    "faces": "--train 10",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_packed_by_its_name_on_the_command_line(kind: str) -> None:
    command = tyro.cli(Command, args=[kind, *shlex.split(KINDS[kind]), "--output", "set"])
    assert isinstance(command, Common)
    names = stated_classes(command.classes).names
    assert names[:7] == REFERENCE_CLASSES
    assert len(names) == (8 if kind in ("affectnet", "ferplus", "ckextended") else 7)


@pytest.mark.parametrize(
    "kind", ["folder", "class-folders", "webdataset", "affectnet", "affectnet-folders", "rafdb", "ferplus"]
)
def test_data_that_are_not_there_are_a_setting_error_of_one_sentence(kind: str, tmp_path: Path) -> None:
    arguments = KINDS[kind].replace("a.tar b.tar", str(tmp_path / "a.tar"))
    command = tyro.cli(Command, args=[kind, *shlex.split(arguments), "--output", "set"])
    with pytest.raises(SettingError, match=r"must name what exists|must name tars") as raised:
        command.source()
    assert raised.value.exit_code == 2
