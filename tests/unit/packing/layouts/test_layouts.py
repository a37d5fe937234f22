"""Every layout that people hold: class order, split, votes, the same bytes in any order of the tasks."""

import hashlib
import shlex
from pathlib import Path

import numpy as np
import pytest
import tyro

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import decode
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.stage import stage_of
from ldlva_dist.packing.sources.commands import Command
from ldlva_dist.packing.sources.common import Common
from testing.layouts import LAYOUTS, fer2013, kdef, raf_db_copy, write
from testing.local_packing import manifest, pack_here, rejected


def _command(line: str, root: Path) -> Common:
    command = tyro.cli(Command, args=[*shlex.split(line.format(root=root)), "--output", "set", "--holdout", "0"])
    assert isinstance(command, Common)
    return command


def _settings(command: Common) -> PackSettings:
    stated = command.stated()
    return PackSettings(
        name="set",
        class_names=stated.names,
        numbers=stated.numbers,
        holdout=0.0,
        max_rejected=command.max_rejected,
    )


def _packed(name: str, tmp_path: Path, more: str = "") -> Path:
    LAYOUTS[name].draw(tmp_path / "data")
    command = _command(f"{LAYOUTS[name].arguments} {more}", tmp_path / "data")
    pack_here(command.source(), tmp_path / "set", _settings(command))
    return tmp_path / "set"


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_packed_with_its_classes_and_its_split(name: str, tmp_path: Path) -> None:
    dataset = Dataset.open(str(_packed(name, tmp_path)))
    assert tuple(dataset.info.splits[part].rows for part in ("train", "holdout", "test")) == LAYOUTS[name].rows
    rows = {(row["split"], row["key"]): row["label"] for row in manifest(tmp_path / "set")}
    for part, labels in LAYOUTS[name].labels.items():
        assert {key: dataset.info.class_names[rows[part, key]] for key in labels} == labels


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_order_of_the_tasks_changes_no_byte(name: str, tmp_path: Path) -> None:
    forwards = _hashes(_packed(name, tmp_path))
    command = _command(LAYOUTS[name].arguments, tmp_path / "data")
    pack_here(command.source(), tmp_path / "again", _settings(command), backwards=True)
    assert _hashes(tmp_path / "again") == forwards


def _votes(folder: Path) -> dict[str, tuple[list[float], float | None]]:
    return {row["key"]: (row["votes"], row["raters"]) for row in manifest(folder)}


def test_votes_of_fer_plus_are_joined_to_the_pixels_by_name(tmp_path: Path) -> None:
    votes = _votes(_packed("fer2013", tmp_path))
    assert votes["fer0000004"] == (
        [1, 6, 1, 0, 0, 0, 0],
        10,
    )  # neutral, happy, sad; contempt and unknown are raters too
    assert votes["fer0000005"] == ([2, 5, 1, 0, 0, 0, 0], 10)
    assert votes["fer0000002"] == ([0] * 7, None)  # FER+ names no image for it


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("PublicTest,fer0000000.png,1,0,0,0,0,0,0,0,0,0", "fer0000000.png is PublicTest there, row 0 is Training here"),
        ("Training,fer0000035.png,1,0,0,0,0,0,0,0,0,0", "which has 35: got fer0000035.png"),
        ("Training,fer0000001.png,x,0,0,0,0,0,0,0,0,0", "the votes of 'fer0000001.png' are no numbers"),
    ],
)
def test_votes_of_other_rows_are_refused(line: str, said: str, tmp_path: Path) -> None:
    fer2013(tmp_path)
    header = (tmp_path / "fer2013new.csv").read_text().splitlines()[0]
    write(tmp_path / "fer2013new.csv", [header, line])
    with pytest.raises(DataError, match=said):
        _command(LAYOUTS["fer2013"].arguments, tmp_path).source().partitions()


def test_shares_of_raters_are_kept_in_the_order_of_the_classes_without_a_number(tmp_path: Path) -> None:
    votes, raters = _votes(_packed("rafdb", tmp_path))["train_00001"]  # 1 is Surprise
    np.testing.assert_allclose(votes, [0.1, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1], rtol=1e-6)
    assert raters is None


def test_soft_labels_and_what_rides_along_are_read_whatever_the_spelling_of_the_keys(tmp_path: Path) -> None:
    rows = {row["key"]: row for row in manifest(_packed("affectnet-plus", tmp_path, "--keep-column age gender"))}
    for number in (0, 1):
        row = rows[f"train_set_{number}"]
        np.testing.assert_allclose(row["votes"], [0.72 if k == number else 0.04 for k in range(8)], rtol=1e-6)
        assert (row["extra_age"], row["extra_gender"], row["raters"]) == (str(20 + number), "female", None)
        np.testing.assert_allclose((row["valence"], row["arousal"]), (0.1, -0.2), rtol=1e-6)
    assert [rows[f"train_set_{n}"]["extra_subset"] for n in range(3)] == ["easy", "challenging", "difficult"]
    assert {row["reason"] for row in rejected(tmp_path / "set")} == {
        f"left out: {name}" for name in ("None", "Uncertain", "No-Face")
    }


def test_boxes_are_cut_out_and_a_row_that_stands_twice_comes_once(tmp_path: Path) -> None:
    folder = _packed("expw", tmp_path, "--min-confidence 65 --keep-column confidence --max-rejected 1")
    assert len(manifest(folder)) == 14
    assert {row["extra_confidence"] for row in manifest(folder)} == {"65"}
    assert {row["reason"] for row in rejected(folder)} == {"left out: confidence below 65"}


def test_folder_and_label_that_differ_are_refused_until_somebody_says_which_is_right(tmp_path: Path) -> None:
    LAYOUTS["affectnet-copy"].draw(tmp_path)
    arguments = LAYOUTS["affectnet-copy"].arguments
    with pytest.raises(SettingError, match=r"--label-by must say .* 1 of 16 rows .*'happy/image0000001.jpg' has"):
        _command(arguments.replace("--label-by column", ""), tmp_path).source().partitions()
    command = _command(arguments.replace("column", "folder"), tmp_path)
    assert "the folder is the label in 1 rows where folder and column differ" in command.notes()[0]
    pack_here(command.source(), tmp_path / "set", _settings(command))
    labels = {row["key"]: row["label"] for row in manifest(tmp_path / "set")}
    assert command.stated().names[labels["happy_image0000001"]] == "Happy"


def test_a_filter_leaves_out_rows_with_smaller_numbers(tmp_path: Path) -> None:
    folder = _packed("affectnet-copy", tmp_path, "--at-least relFCs=0.7")
    assert len(manifest(folder)) == 10
    assert {row["reason"] for row in rejected(folder)} == {"left out: relFCs below 0.7"}


def test_a_list_that_contradicts_the_numbered_folders_is_refused(tmp_path: Path) -> None:
    raf_db_copy(tmp_path)
    lines = (tmp_path / "train_labels.csv").read_text().splitlines()
    write(tmp_path / "train_labels.csv", [lines[0], lines[1].replace(",1", ",2"), *lines[2:]])
    with pytest.raises(DataError, match=r"contradicts the folders for 1 of 14 images"):
        _command(LAYOUTS["rafdb-copy"].arguments, tmp_path).source().partitions()


def test_no_person_stands_in_both_parts(tmp_path: Path) -> None:
    kdef(tmp_path / "data")
    command = _command("kdef --images {root} --angles S FL", tmp_path / "data")
    settings = PackSettings(name="set", class_names=command.stated().names, holdout=0.2, holdout_by=command.holdout_by)
    pack_here(command.source(), tmp_path / "set", settings)
    persons = {
        part: {row["extra_person"] for row in manifest(tmp_path / "set") if row["split"] == part}
        for part in ("train", "holdout")
    }
    assert persons["train"] | persons["holdout"] == {"F01", "F02", "M01", "M02"}
    assert len(persons["holdout"]) == 1
    assert not persons["train"] & persons["holdout"]


def test_views_that_are_not_asked_for_are_left_out(tmp_path: Path) -> None:
    folder = _packed("kdef", tmp_path, "--angles S")
    assert {row["extra_angle"] for row in manifest(folder)} == {"S"}
    assert {row["reason"] for row in rejected(folder)} == {"left out: angle FL"}


def test_whole_pictures_of_yolo_have_one_box(tmp_path: Path) -> None:
    LAYOUTS["yolo"].draw(tmp_path)
    source = _command("yolo --root {root} --no-crop", tmp_path).source()
    reasons = [reason for part in source.partitions() for rows in source.read(part) for reason in rows.reasons or ()]
    assert [reason for reason in reasons if reason] == ["its picture has several boxes (--crop cuts them out)"]


@pytest.mark.parametrize("pixels", ["", "1 2 3", "1 2 3 256", "1 2 3 x", "1 2 3 -4", "1 2 3 4.5", "1 2 3 \u0664"])
def test_pixels_that_are_no_square_of_greys_are_a_reason(pixels: str, tmp_path: Path) -> None:
    write(
        tmp_path / "t.csv", ["emotion,pixels,Usage", f"0,{pixels},Training", "0, 1 2 3 4 ,Training", "0,1,PrivateTest"]
    )
    source = _command("fer2013 --table {root}/t.csv", tmp_path).source()
    rows = next(rows for part in source.partitions() for rows in source.read(part))
    reasons = dict(zip(rows.numbers.tolist(), rows.reasons or (), strict=True))
    assert reasons == {0: "the pixels are no greys of a square picture", 1: None}
    square = rows.images[rows.numbers.tolist().index(1)]
    assert isinstance(square, bytes)
    np.testing.assert_array_equal(decode(square, 1)[:, :, 0], [[1, 2], [3, 4]])


def test_images_that_were_made_are_made_once_and_gone_in_the_end(tmp_path: Path) -> None:
    fer2013(tmp_path / "data")
    command = _command(LAYOUTS["fer2013"].arguments, tmp_path / "data")
    pack_here(command.source(), tmp_path / "set", _settings(command))
    assert not Path(stage_of(str(tmp_path / "set")).root).exists()
    images = Dataset.open(str(tmp_path / "set")).images(range(35))
    assert all(bytes(images.read(sample)[:4]) == b"\x89PNG" for sample in range(35))
