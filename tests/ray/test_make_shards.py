"""jobs/make_shards.py as called on the command line: what it writes, and every bad input with its exit code."""

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.dataset.manifest import DatasetInfo, float_column
from ldlva_dist.dataset.shards import read_rows
from ldlva_dist.packing.sources.drawn_faces.faces import draw_faces
from testing.clusters.job_scripts import Done, Scripts

pytestmark = pytest.mark.usefixtures("cluster")
NAMES = ("path", "label", "valence", "arousal")
Row = tuple[str, str, str, str]


class Folder:
    """Twelve faces of two classes on disk, and the command that packs them."""

    def __init__(self, root: Path, scripts: Scripts) -> None:
        self.root, self.output, self.scripts = root, root / "set", scripts
        (root / "images").mkdir()
        faces = draw_faces(np.eye(7, dtype=np.float32)[[0, 1] * 6], np.random.default_rng(0), 48)
        self.rows: list[Row] = []
        for i, face in enumerate(faces):
            (root / "images" / f"{i}.jpg").write_bytes(encode_image(face))
            self.rows.append((f"{i}.jpg", ("calm", "glad")[i % 2], f"{i / 12:.3f}", f"{-i / 12:.3f}"))

    def pack(self, *more: str, names: tuple[str, ...] = NAMES) -> Done:
        table = self.root / "table.csv"
        table.write_text("\n".join(",".join(row[: len(names)]) for row in (names, *self.rows)) + "\n")
        given = ["--table", str(table), "--images", str(self.root / "images"), "--output", str(self.output)]
        given += ["--path-column", "path", "--label-column", "label", "--classes", "calm", "glad", "--holdout", "0"]
        return self.scripts.run("make_shards", "folder", *given, *more)

    def info(self) -> DatasetInfo:
        return Dataset.open(str(self.output)).info


@pytest.fixture
def folder(tmp_path: Path, scripts: Scripts) -> Folder:
    return Folder(tmp_path, scripts)


def _sentence(done: Done) -> str:
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_folder_becomes_a_data_set_that_reads_back(folder: Folder) -> None:
    done = folder.pack("--standardize-va")
    assert done.code == 0, done.stderr
    assert "valence-arousal: present, standardised" in done.stdout
    info = folder.info()
    assert info.class_counts["train"] == (6, 6)
    assert info.num_train == 12
    table = Dataset.open(str(folder.output)).columns(["key", "shard", "offset", "size", "checksum", "label", "valence"])
    for row in table.to_pylist():
        uri = str(folder.output / info.shards[row["shard"]].name)
        (image,) = read_rows(uri, [row["offset"]], [row["size"]], [row["checksum"]])
        assert bytes(image) == (folder.root / "images" / f"{row['key']}.jpg").read_bytes()
        assert row["label"] == int(row["key"]) % 2
        assert row["valence"] == pytest.approx(int(row["key"]) / 12, abs=1e-3)
    assert sorted(path.name for path in folder.root.iterdir()) == ["images", "set", "table.csv"]


def test_the_same_input_gives_the_same_bytes(folder: Folder) -> None:
    assert folder.pack("--name", "x", "--holdout", "0.3").code == 0
    first = {path.name: path.read_bytes() for path in folder.output.iterdir()}
    folder.output = folder.root / "again"
    assert folder.pack("--name", "x", "--holdout", "0.3").code == 0
    assert {path.name: path.read_bytes() for path in folder.output.iterdir()} == first


def test_images_are_resized_when_asked(folder: Folder) -> None:
    assert folder.pack("--size", "32").code == 0
    assert max(Dataset.open(str(folder.output)).columns(["size"])["size"].to_pylist()) < 2200


def test_shuffling_valence_arousal_permutes_the_training_rows_only(folder: Folder) -> None:
    assert folder.pack("--holdout", "0.4").code == 0
    plain = Dataset.open(str(folder.output)).columns(["valence", "arousal", "split", "key"])
    folder.output = folder.root / "shuffled"
    assert folder.pack("--holdout", "0.4", "--shuffle-va", "1").code == 0
    shuffled = Dataset.open(str(folder.output)).columns(["valence", "arousal", "split", "key"])
    assert plain["key"] == shuffled["key"]
    train = folder.info().num_train
    assert 0 < train < 12
    a, b = (float_column(table, "valence") for table in (plain, shuffled))
    assert sorted(a[:train]) == sorted(b[:train])
    assert (a[:train] != b[:train]).any()
    np.testing.assert_array_equal(a[train:], b[train:])
    np.testing.assert_allclose(b, -float_column(shuffled, "arousal"))


def test_rows_without_a_label_are_listed_outside_the_budget(folder: Folder) -> None:
    folder.rows[0] = ("0.jpg", "", "", "")
    done = folder.pack("--max-rejected", "0")
    assert done.code == 0, done.stderr
    assert (folder.info().num_unlabelled, folder.info().num_rejected) == (1, 0)
    (row,) = pq.read_table(folder.output / "rejected.parquet").to_pylist()
    assert (row["key"], row["row"], row["reason"]) == ("0", 0, "no label")


def test_absent_valence_arousal_is_said(folder: Folder) -> None:
    done = folder.pack(names=("path", "label"))
    assert done.code == 0, done.stderr
    assert "valence-arousal: absent" in done.stdout
    assert not folder.info().has_valence_arousal


def _missing(folder: Folder) -> None:
    (folder.root / "images" / "3.jpg").unlink()


def _broken(folder: Folder) -> None:
    (folder.root / "images" / "3.jpg").write_bytes(b"\xff\xd8 no image")


def _row(*row: str) -> Callable[[Folder], None]:
    def change(folder: Folder) -> None:
        folder.rows[3] = (row[0], row[1], row[2], row[3])

    return change


REASONS = [
    (_missing, "the image is missing"),
    (_broken, "the image cannot be decoded"),
    (_row("3.jpg", "furious", "0", "0"), "the label is no class"),
    (_row("3.jpg", "glad", "1.01", "0"), r"valence-arousal is not in \[-1, 1\]"),
    (_row("3.jpg", "glad", "0", "nan?"), "valence-arousal is no number"),
    (_row("3.jpg", "glad", "", ""), "valence-arousal is missing"),
    (_row("3.jpg", "glad", "0", ""), "valence-arousal is missing"),
    (_row("2.jpg", "glad", "0", "0"), "the row stands twice"),
]


@pytest.mark.parametrize(
    ("spoil", "reason"), REASONS, ids=[f"{i}-{reason[:20]}" for i, (_, reason) in enumerate(REASONS)]
)
def test_too_many_bad_rows_end_the_job_and_leave_nothing(
    folder: Folder, spoil: Callable[[Folder], None], reason: str
) -> None:
    spoil(folder)
    done = folder.pack()
    assert done.code == 3
    assert re.search(rf"1 of 12 rows were rejected.*{reason} \(1\)", _sentence(done))
    assert sorted(path.name for path in folder.root.iterdir()) == ["images", "table.csv"]


def test_bad_rows_within_the_budget_are_listed(folder: Folder) -> None:
    _missing(folder)
    assert folder.pack("--max-rejected", "0.1").code == 0
    assert folder.info().num_rejected == 1
    assert folder.info().num_train == 11
    (row,) = pq.read_table(folder.output / "rejected.parquet").to_pylist()
    assert (row["key"], row["row"], row["reason"]) == ("3", 3, "the image is missing")


def test_labels_that_are_no_classes_at_all_are_a_setting_error(folder: Folder) -> None:
    done = folder.pack("--classes", "red", "green")
    assert done.code == 2
    assert "--classes must name the labels of the data (calm, glad)" in _sentence(done)


def test_a_class_without_a_training_sample_is_named(folder: Folder) -> None:
    done = folder.pack("--classes", "calm", "glad", "shy")
    assert done.code == 2
    assert "every class must have a training sample, got none of 'shy'" in _sentence(done)
    assert not folder.output.exists()


def test_no_label_column_lists_the_columns_present(folder: Folder) -> None:
    done = folder.pack("--label-column", "emotion")
    assert done.code == 2
    assert "columns present: path, label, valence, arousal" in _sentence(done)


def test_an_empty_table_is_an_empty_data_set(folder: Folder) -> None:
    folder.rows = []
    done = folder.pack()
    assert done.code == 3
    assert "the train part is empty: " in _sentence(done)


def test_no_label_in_any_row_is_an_empty_data_set(folder: Folder) -> None:
    folder.rows = [(path, "", "", "") for path, *_ in folder.rows]
    done = folder.pack()
    assert done.code == 3
    assert "none of its 12 rows has a label" in _sentence(done)


def test_an_output_that_exists_is_left_alone(folder: Folder) -> None:
    folder.output.mkdir()
    done = folder.pack()
    assert done.code == 2
    assert "--output must not exist" in _sentence(done)
    assert not list(folder.output.iterdir())


def test_an_output_that_cannot_be_written_is_a_setting_error(folder: Folder) -> None:
    (folder.root / "file").write_bytes(b"")
    folder.output = folder.root / "file" / "set"
    done = folder.pack()
    assert done.code == 2
    assert "the storage path must be writable" in _sentence(done)


def test_a_table_that_is_not_there_is_a_setting_error(folder: Folder) -> None:
    done = folder.pack("--table", str(folder.root / "none.csv"))
    assert done.code == 2
    assert "must name what exists" in _sentence(done)


def test_drawn_faces_keep_the_truth_in_the_manifest_and_out_of_the_shards(tmp_path: Path, scripts: Scripts) -> None:
    output = tmp_path / "faces"
    done = scripts.run("make_shards", "faces", "--output", str(output), "--train", "300", "--test", "40")
    assert done.code == 0, done.stderr
    info = Dataset.open(str(output)).info
    assert info.flip_share == pytest.approx(0.3)
    table = Dataset.open(str(output)).columns(["true_distribution", "flipped", "split"])
    assert sum(table["flipped"].to_pylist()) == 90
    assert not any(table["flipped"].to_pylist()[info.splits["test"].first_id :])
    assert {len(row) for row in table["true_distribution"].to_pylist()} == {7}
    with tarfile.open(output / info.shards[0].name) as tar:
        members = [member for member in tar if member.name.endswith(".json")]
        stream = tar.extractfile(members[0])
        assert stream is not None
        assert set(json.loads(stream.read())) == {"key", "label", "class", "valence", "arousal"}


def test_noise_is_asked_for_on_the_command_line(folder: Folder) -> None:
    done = folder.pack("--noise", "symmetric:0.25", "--seed", "1")
    assert done.code == 0, done.stderr
    assert "labels known to be wrong: 25.0%" in done.stdout
    table = Dataset.open(str(folder.output)).columns(["label", "original_label", "flipped"])
    assert sum(table["flipped"].to_pylist()) == 3
    assert folder.info().source["noise"] == "symmetric:0.25"


def test_noise_that_is_no_noise_is_a_setting_error(folder: Folder) -> None:
    done = folder.pack("--noise", "pairs:0.3")
    assert done.code == 2
    assert "--noise must be symmetric:SHARE" in _sentence(done)


def test_a_bad_row_ends_the_job_where_that_is_asked_for(folder: Folder) -> None:
    _broken(folder)
    done = folder.pack("--on-bad-data", "fail", "--max-rejected", "0.5")
    assert done.code == 3
    assert "the image cannot be decoded: '3' in row 3" in _sentence(done)
    assert sorted(path.name for path in folder.root.iterdir()) == ["images", "table.csv"]


def test_verify_says_ok_or_what_is_wrong(folder: Folder) -> None:
    assert folder.pack().code == 0
    done = folder.scripts.run("make_shards", "verify", str(folder.output))
    assert done.code == 0, done.stderr
    assert "ok: 12 rows in 12 shards" in done.stdout
    (folder.output / folder.info().shards[4].name).unlink()
    done = folder.scripts.run("make_shards", "verify", str(folder.output))
    assert done.code == 3
    assert "train-000004.tar" in done.stderr


def test_verify_of_what_is_no_data_set_says_so(folder: Folder) -> None:
    done = folder.scripts.run("make_shards", "verify", str(folder.root))
    assert done.code == 3
    assert "is not a data set" in _sentence(done)
