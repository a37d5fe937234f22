"""Labels that a person corrected become a version; whatever does not belong to the data set is refused."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ldlva_dist.dataset import dataset as opened
from ldlva_dist.dataset import manifest, manifest_blocks
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo, SplitInfo
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.relabel import read_corrections, relabel

ROWS, CLASSES = 11, ("calm", "glad", "sad, or so")
LABELS = np.arange(ROWS) % 3
HEADER = "id,key,given_label,proposed_label,uncertainty"


@pytest.fixture(autouse=True)
def _small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (manifest, manifest_blocks, opened):
        monkeypatch.setattr(module, "ROW_GROUP_ROWS", 4)


def write_dataset(folder: Path, **more: Any) -> str:
    """Eleven training rows in three row groups; label = id modulo 3."""
    folder.mkdir()
    ids = np.arange(ROWS)
    split = pa.DictionaryArray.from_arrays(np.zeros(ROWS, np.int8), pa.array(manifest.SPLITS))
    columns = dict.fromkeys(("id", "shard", "offset", "size", "checksum"), ids)
    va = dict.fromkeys(("valence", "arousal"), np.zeros(ROWS, np.float32))
    keys = {"key": [f"k{i}" for i in ids]}
    manifest.write_manifest(str(folder), pa.table({**columns, **keys, "label": LABELS, **va, "split": split, **more}))
    nobody = SplitInfo(first_id=ROWS, rows=0)
    info = DatasetInfo(
        name="toy",
        class_names=CLASSES,
        splits={"train": SplitInfo(first_id=0, rows=ROWS), "holdout": nobody, "test": nobody},
        shards=(),
        has_valence_arousal=True,
        content_hash="",
        class_counts={"train": (4, 4, 3), "holdout": (0, 0, 0), "test": (0, 0, 0)},
    )
    digest = manifest_blocks.ContentHash(CLASSES, None)
    for block in Dataset(str(folder), info).blocks():
        digest.update(block)
    manifest.write_info(str(folder), replace(info, content_hash=digest.hexdigest()))
    return str(folder)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    return write_dataset(tmp_path / "set")


def marked(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "marked.csv"
    path.write_text("\n".join([HEADER, *lines, ""]))
    return str(path)


def apply(dataset: str, csv: str, name: str = "v1") -> DatasetInfo:
    return relabel(Dataset.open(dataset), name, read_corrections(csv, Dataset.open(dataset).info)).info


def column(uri: str, name: str) -> list[Any]:
    return Dataset.open(uri).columns([name])[name].to_pylist()


def test_the_marked_rows_get_the_proposed_labels_and_keep_the_given_ones_beside_them(
    dataset: str, tmp_path: Path
) -> None:
    csv = marked(tmp_path, '9,k9,calm,"sad, or so",0.9', "1,k1,glad,calm,0.8", '5,k5,"sad, or so","sad, or so",0.1')
    info = apply(dataset, csv)
    labels = LABELS.copy()
    labels[[9, 1]] = 2, 0
    version = f"{dataset}/versions/v1"
    assert column(version, "label") == labels.tolist()
    assert column(version, "original_label") == LABELS.tolist()
    assert info.class_counts["train"] == tuple(np.bincount(labels).tolist())
    assert info.source == {"relabelled": 2, "relabelled_by": "marked.csv"}
    assert (info.parent, info.change) == (Dataset.open(dataset).info.content_hash, "2 labels corrected by hand")
    assert column(dataset, "label") == LABELS.tolist()
    assert "flipped" not in Dataset.open(version).column_names()


def test_a_second_correction_keeps_the_label_before_the_first(dataset: str, tmp_path: Path) -> None:
    apply(dataset, marked(tmp_path, "1,k1,glad,calm,0.8"))
    version = f"{dataset}/versions/v1"
    apply(version, marked(tmp_path, '1,k1,calm,"sad, or so",0.8', "3,k3,calm,glad,0"), "v2")
    assert [column(f"{dataset}/versions/v2", name)[1] for name in ("label", "original_label")] == [2, 1]
    assert [column(f"{dataset}/versions/v2", name)[3] for name in ("label", "original_label")] == [1, 0]


def test_a_correction_is_not_known_to_be_wrong_unless_it_misses_what_was_right(tmp_path: Path) -> None:
    """Rows 1, 4 and 7 were flipped from "calm" on purpose; 1 is set right, 4 to a third class, 7 is left."""
    flipped = np.isin(np.arange(ROWS), [1, 4, 7])
    noisy = write_dataset(tmp_path / "noisy", original_label=np.where(flipped, 0, LABELS), flipped=flipped)
    csv = marked(tmp_path, "1,k1,glad,calm,0", '4,k4,glad,"sad, or so",0', '2,k2,"sad, or so",calm,0')
    assert apply(noisy, csv).flip_share == 2 / ROWS
    assert np.flatnonzero(column(f"{noisy}/versions/v1", "flipped")).tolist() == [4, 7]
    # Drawn faces do not keep what was right: a corrected label is no longer known to be wrong.
    drawn = write_dataset(tmp_path / "drawn", flipped=flipped)
    apply(drawn, csv)
    assert np.flatnonzero(column(f"{drawn}/versions/v1", "flipped")).tolist() == [7]
    apply(f"{drawn}/versions/v1", marked(tmp_path, '7,k7,glad,"sad, or so",0'), "v2")
    assert not any(column(f"{drawn}/versions/v2", "flipped"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("11,k11,calm,glad,0", r"line 2: id must be one of the samples 0\.\.10, got '11'"),
        ("-1,k1,calm,glad,0", r"line 2: id must be one of the samples 0\.\.10, got '-1'"),
        ("1.0,k1,glad,calm,0", r"id must be one of the samples 0\.\.10, got '1.0'"),
        ("²,k1,glad,calm,0", r"id must be one of the samples 0\.\.10, got '²'"),
        ("1,k2,glad,calm,0", "another data set or version: sample 1 has the key 'k1' here and 'k2' there"),
        ("1,k1,calm,glad,0", "another data set or version: sample 1 has the label 'glad' here and 'calm' there"),
        ("1,k1,glad,happy?,0", r"line 2: proposed_label must be a class \(calm, glad, sad, or so\), got 'happy\?'"),
        ("1,k1,,calm,0", "line 2: given_label must be a class"),
        ("1,k1,glad,glad,0", "changes nothing"),
        ("1,k1,glad,calm,0\n1,k1,glad,calm,0", "has sample 1 twice"),
    ],
)
def test_a_list_of_something_else_is_refused_and_leaves_nothing(
    dataset: str, tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        apply(dataset, marked(tmp_path, line))
    assert not os.path.exists(f"{dataset}/versions/v1")


def test_a_file_without_rows_or_columns_is_refused(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing was marked"):
        apply(dataset, marked(tmp_path))
    (tmp_path / "other.csv").write_text("id,label\n1,glad\n")
    with pytest.raises(DataError, match="has no column 'key', which its layout has; columns present: id"):
        apply(dataset, str(tmp_path / "other.csv"))
    with pytest.raises(DataError, match="there is no file"):
        apply(dataset, str(tmp_path / "missing.csv"))


def test_a_name_that_is_taken_is_refused(dataset: str, tmp_path: Path) -> None:
    csv = marked(tmp_path, "1,k1,glad,calm,0")
    apply(dataset, csv)
    with pytest.raises(SettingError, match="must be new, got one that exists"):
        apply(dataset, csv)


def test_a_data_set_that_was_changed_by_hand_gets_no_version_that_looks_right(dataset: str, tmp_path: Path) -> None:
    manifest.write_info(dataset, replace(Dataset.open(dataset).info, content_hash="another"))
    with pytest.raises(DataError, match=r"manifest does not have the content hash of dataset\.json"):
        apply(dataset, marked(tmp_path, '2,k2,"sad, or so",calm,0.9'))
    assert not list(Path(dataset, "versions").iterdir())


def test_a_column_that_stands_twice_is_one_sentence(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "marked.csv").write_text("id,key,key,given_label,proposed_label\n1,k1,k1,glad,calm\n")
    with pytest.raises(DataError, match=r"marked\.csv has the column 'key' 2 times"):
        read_corrections(str(tmp_path / "marked.csv"), Dataset.open(dataset).info)
