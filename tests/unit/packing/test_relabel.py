"""Labels that a person corrected become a version; whatever does not belong to the data set is refused."""

import json
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
from ldlva_dist.dataset.relabel_rounds import read_rounds
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


def apply(dataset: str, csv: str, name: str = "v1", round_name: str | None = None) -> DatasetInfo:
    opened = Dataset.open(dataset)
    return relabel(opened, name, read_corrections([csv], opened), round_name=round_name).info


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
    record = {"round": "v1", "relabelled": 2, "confirmed": 1, "conflicts": 0, "reviewers": ["marked.csv"]}
    assert info.source == {"relabelled": 2, "relabelled_by": "marked.csv", "rounds": [record]}
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
        ("11,k11,calm,glad,0", "was made from another data set: it has no sample 'k11'"),
        ("1,,glad,calm,0", "row 1, key must be a text"),
        (
            "1,k1,calm,glad,0",
            "another data set or version: sample 1 \('k1'\) has the label 'glad' here and 'calm' there",
        ),
        ("1,k1,glad,happy?,0", r"sample 'k1': the decision must be a class \(calm, glad, sad, or so\), got 'happy\?'"),
        ("1,k1,what,calm,0", "sample 'k1': the given label must be a class"),
        ("1,k1,glad,glad,0", "changes nothing"),
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
    with pytest.raises(
        DataError,
        match=r"must have the columns key, decision, or key, given_label, proposed_label, got \['id', 'label'\]",
    ):
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
        read_corrections([str(tmp_path / "marked.csv")], Dataset.open(dataset))


def page(folder: Path, name: str, *lines: str) -> str:
    path = folder / name
    path.write_text("\n".join([HEADER, *lines, ""]))
    return str(path)


def test_marks_of_several_reviewers_in_several_formats_are_merged(dataset: str, tmp_path: Path) -> None:
    anna = page(tmp_path, "anna.csv", "1,k1,glad,calm,0", "3,k3,calm,glad,0")
    labels = {"k3": {"label": 1}, "k4": {"label": "calm"}}
    (tmp_path / "labels.json").write_text(json.dumps({"classes": list(CLASSES), "labels": labels}))
    opened = Dataset.open(dataset)
    corrections = read_corrections([anna, str(tmp_path / "labels.json")], opened)
    assert not corrections.conflicts
    version = relabel(opened, "v1", corrections, round_name="spring")
    assert column(version.uri, "label")[:5] == [0, 0, 2, 1, 0]
    assert read_rounds(version).to_pylist() == [
        {"id": i, "key": f"k{i}", "round": "spring", "given": given, "decision": decision, "reviewers": reviewers}
        for i, given, decision, reviewers in (
            (1, "glad", "calm", ["anna.csv"]),
            (3, "calm", "glad", ["anna.csv", "labels.json"]),
            (4, "glad", "calm", ["labels.json"]),
        )
    ]


def test_reviewers_who_differ_are_listed_and_change_nothing(dataset: str, tmp_path: Path) -> None:
    """One of them confirms k1, the other changes it; two annotators of one export differ on k2."""
    anna = page(tmp_path, "anna.csv", "1,k1,glad,glad,0", "3,k3,calm,glad,0")
    ben = page(tmp_path, "ben.csv", "1,k1,glad,calm,0")
    choice = {"type": "choices", "value": {"choices": ["calm"]}}
    other = {"type": "choices", "value": {"choices": ["glad"]}}
    task = {"data": {"key": "k2"}, "annotations": [{"completed_by": 1, "result": [choice]}]}
    task["annotations"].append({"completed_by": 2, "result": [other]})
    (tmp_path / "export.json").write_text(json.dumps([task]))
    opened = Dataset.open(dataset)
    corrections = read_corrections([anna, ben, str(tmp_path / "export.json")], opened)
    assert list(corrections.conflict_lines()) == [
        "conflict: k1: anna.csv: glad, ben.csv: calm",
        "conflict: k2: annotator 1: calm, annotator 2: glad",
    ]
    made = relabel(opened, "v1", corrections)
    assert column(made.uri, "label") == [0, 1, 2, 1, *LABELS[4:].tolist()]
    assert made.info.source["rounds"][0]["conflicts"] == 2


def test_rounds_follow_each_other_and_undo_is_the_former_version(dataset: str, tmp_path: Path) -> None:
    apply(dataset, marked(tmp_path, "1,k1,glad,calm,0"), "v1", "spring")
    first = f"{dataset}/versions/v1"
    apply(first, marked(tmp_path, '1,k1,calm,"sad, or so",0', "3,k3,calm,calm,0"), "v2", "autumn")
    rounds = read_rounds(Dataset.open(f"{dataset}/versions/v2"))
    assert rounds["round"].to_pylist() == ["spring", "autumn", "autumn"]
    assert rounds["decision"].to_pylist() == ["calm", "sad, or so", "calm"]
    assert [record["round"] for record in Dataset.open(f"{dataset}/versions/v2").info.source["rounds"]] == [
        "spring",
        "autumn",
    ]
    assert column(first, "label")[1] == 0
    assert not len(read_rounds(Dataset.open(dataset)))
    with pytest.raises(SettingError, match=r"--round must be new in this line of versions \(spring\), got 'spring'"):
        apply(first, marked(tmp_path, '1,k1,calm,"sad, or so",0'), "v3", "spring")
    assert not os.path.exists(f"{dataset}/versions/v3")
