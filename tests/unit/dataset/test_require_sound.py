"""The cheap part of verify, which every training begins with: what is wrong is said, with the sample that has it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldlva_dist.config import DataConfig, LossConfig, NeighborConfig, RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import write_info
from ldlva_dist.dataset.manifest_checks import check_manifest
from ldlva_dist.dataset.versions import Change, new_version
from ldlva_dist.errors import DataError
from ldlva_dist.index.graph import build_graph, read_graph
from ldlva_dist.packing.verify import require_sound
from ldlva_dist.run.preflight import checks as checks_of
from ldlva_dist.run.preflight import find_problems
from testing.toy_dataset import ROWS, TRAIN, toy_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    uri = toy_dataset(tmp_path)
    build_graph(Dataset.open(uri), 4, part_rows=25)
    return uri


def _rewrite(uri: str, **cells: tuple[int, Any]) -> None:
    """Write the manifest again with other cells: column=(row, value)."""
    table = pq.read_table(f"{uri}/manifest.parquet")
    for name, (row, value) in cells.items():
        values = table[name].to_pylist()
        values[row] = value
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
    pq.write_table(table, f"{uri}/manifest.parquet")


def _said(uri: str, k: int = 4, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        require_sound(Dataset.open(uri), k=k, **options)
    return str(error.value)


def test_a_sound_data_set_and_its_versions_are_let_through(dataset: str) -> None:
    require_sound(Dataset.open(dataset), k=4)
    new_version(Dataset.open(dataset), "v1", Change(line="nothing", columns=lambda block: {}))
    require_sound(Dataset.open(f"{dataset}/versions/v1"))


ROWS_WRONG = [
    ({"label": (3, 4)}, r"sample 3 \('k3'\): label must be a class index in 0\.\.3, got 4"),
    ({"label": (3, -1)}, r"sample 3 \('k3'\): label must be a class index in 0\.\.3, got -1"),
    ({"label": (3, None)}, r"row 3 \('k3'\) has no label"),
    ({"id": (3, None)}, r"row 3 \('k3'\) has no id"),
    ({"key": (3, None)}, r"row 3 \(None\) has no key"),
    ({"offset": (3, -512)}, r"sample 3 \('k3'\): its image lies in 1 bytes at byte -512 of a shard of 95 bytes"),
    ({"offset": (3, 95)}, r"sample 3 \('k3'\): its image lies"),
    ({"offset": (3, 1 << 40)}, r"sample 3 \('k3'\): its image lies"),
    ({"offset": (3, (1 << 63) - 1)}, r"sample 3 \('k3'\): its image lies"),
    ({"size": (3, 0)}, r"sample 3 \('k3'\): its image lies"),
    ({"size": (3, -1)}, r"sample 3 \('k3'\): its image lies"),
    ({"size": (3, (1 << 31) - 1)}, r"sample 3 \('k3'\): its image lies"),
    ({"shard": (3, 1)}, r"sample 3 \('k3'\): dataset.json has it in shard 0, got 1"),
    ({"shard": (3, -1)}, r"dataset.json has it in shard 0, got -1"),
    ({"valence": (3, 1e30)}, r"sample 3 \('k3'\): valence-arousal must be two numbers in \[-1, 1\], got 1e\+30, "),
    ({"valence": (3, np.nan)}, r"sample 3 \('k3'\): valence-arousal must be .* got none"),
    ({"arousal": (3, None)}, r"sample 3 \('k3'\): valence-arousal must be"),
    ({"split": (3, "test")}, r"sample 3 \('k3'\): it is in another split than dataset.json says, 'test'"),
    ({"id": (3, 4)}, r"the ids 0\.\.94 are not there in order"),
    ({"label": (0, 1), "checksum": (1, 1)}, "class counts are"),
    ({"valence": (3, 0.25)}, "does not have the content hash"),
    ({"key": (3, "k4")}, "does not have the content hash"),
]


@pytest.mark.parametrize(("cells", "said"), ROWS_WRONG, ids=[f"{c}-{i}" for i, (c, _) in enumerate(ROWS_WRONG)])
def test_a_row_that_cannot_be_is_named(dataset: str, cells: dict[str, tuple[int, Any]], said: str) -> None:
    _rewrite(dataset, **cells)
    assert re.search(said, _said(dataset))


def test_labels_and_rows_that_were_exchanged_are_seen(dataset: str) -> None:
    table = pq.read_table(f"{dataset}/manifest.parquet")
    label = table["label"].to_numpy().copy()
    label[[0, 1]] = label[[1, 0]]
    other = table.set_column(table.column_names.index("label"), "label", pa.array(label))
    pq.write_table(other, f"{dataset}/manifest.parquet")
    assert "content hash" in _said(dataset)
    pq.write_table(table.take([1, 0, *range(2, ROWS)]), f"{dataset}/manifest.parquet")
    assert "ids 0..94 are not there in order" in _said(dataset)
    pq.write_table(table.slice(0, 90), f"{dataset}/manifest.parquet")
    assert "the manifest has 90 rows, dataset.json says 95" in "".join(check_manifest(Dataset.open(dataset)))


def test_many_faults_of_a_kind_are_one_sentence_and_their_number(dataset: str) -> None:
    table = pq.read_table(f"{dataset}/manifest.parquet")
    wrong = table.set_column(table.column_names.index("label"), "label", pa.array(np.full(ROWS, 9, np.int16)))
    pq.write_table(wrong, f"{dataset}/manifest.parquet")
    first = check_manifest(Dataset.open(dataset))[0]
    assert first == f"sample 0 ('k0'): label must be a class index in 0..3, got 9 (and {ROWS - 1} more samples)"
    assert f"more: python jobs/make_shards.py verify {dataset})" in _said(dataset)


def test_a_quarantine_is_left_the_places_of_the_training_split_only(dataset: str) -> None:
    _rewrite(dataset, offset=(3, -512))
    require_sound(Dataset.open(dataset), quarantine=True)
    _rewrite(dataset, offset=(TRAIN, -512))
    assert f"sample {TRAIN} " in _said(dataset, quarantine=True)


@pytest.mark.parametrize("data", [b"", b"PAR1" + b"x" * 100 + b"PAR1", b"no parquet at all"])
def test_a_damaged_manifest_is_named(dataset: str, data: bytes) -> None:
    Path(dataset, "manifest.parquet").write_bytes(data)
    assert f"{dataset}/manifest.parquet is damaged" in _said(dataset)
    with pytest.raises(DataError, match=r"manifest\.parquet is damaged"):
        Dataset.open(dataset).columns(["label"], rows=1)


INFOS = [
    (lambda info: replace(info, class_counts={}), "the class counts of train are"),
    (lambda info: replace(info, class_counts={**info.class_counts, "test": (15, 0, 0, 1)}), "class counts of test"),
    (lambda info: replace(info, class_names=("a", "b")), "class counts of train"),
    (lambda info: replace(info, shards=info.shards[1:]), "the shards of train hold 0 rows, the split 60"),
    (lambda info: replace(info, shards=info.shards[::-1]), "not in the order of their ids"),
    (lambda info: replace(info, va_transform=None), "content hash"),
    (lambda info: replace(info, has_valence_arousal=False), "none, as dataset.json says"),
]


@pytest.mark.parametrize(("change", "said"), INFOS, ids=[said for _, said in INFOS])
def test_what_does_not_add_up_in_dataset_json_is_said(dataset: str, change: Callable[..., Any], said: str) -> None:
    write_info(dataset, change(Dataset.open(dataset).info))
    assert said in "\n".join(check_manifest(Dataset.open(dataset)))


GRAPHS = [
    ("ids", np.int32(-1), "sample 30 has neighbours that are no training samples"),
    ("ids", np.int32(TRAIN), "sample 30 has neighbours that are no training samples"),
    ("ids", np.int32(30), "sample 30 is among its own neighbours"),
    ("distances", np.float32(np.nan), "sample 30 has distances that are no numbers >= 0"),
    ("distances", np.float32(-1), "sample 30 has distances that are no numbers >= 0"),
    ("distances", np.float32(np.inf), "sample 30 has distances that are no numbers >= 0"),
]


@pytest.mark.parametrize(("name", "value", "said"), GRAPHS)
def test_a_graph_that_cannot_be_is_named(dataset: str, name: str, value: Any, said: str) -> None:
    _spoil(dataset, name, value)
    assert f"graph-K4/{name}-00001.npy is damaged: {said}" in _said(dataset)
    _before_there_were_checksums(dataset)
    assert f"graph-K4 is damaged: {said}" in _said(dataset)
    with pytest.raises(DataError, match=said):
        read_graph(Dataset.open(dataset), 28, 5, 2)
    read_graph(Dataset.open(dataset), 0, 25, 4)
    require_sound(Dataset.open(dataset), k=1)


def test_another_neighbour_than_was_written_is_seen(dataset: str) -> None:
    _spoil(dataset, "ids", np.int32(29))
    assert "ids-00001.npy is damaged: it does not have the checksum of graph.json" in _said(dataset)
    _before_there_were_checksums(dataset)
    require_sound(Dataset.open(dataset), k=4)


def _spoil(dataset: str, name: str, value: Any) -> None:
    path = f"{dataset}/graph-K4/{name}-00001.npy"
    array = np.load(path)
    assert array[5, 1] != value
    array[5, 1] = value
    np.save(path, array)


def _before_there_were_checksums(dataset: str) -> None:
    path = Path(dataset, "graph-K4", "graph.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "checksums": {}}))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((25, 4), np.int64),
        np.zeros((25, 4), ">i4"),
        np.zeros((24, 4), np.int32),
        np.zeros(100, np.int32),
        np.asfortranarray(np.zeros((25, 4), np.int32)),
        np.array([{}], dtype=object),
    ],
)
def test_a_part_of_another_form_is_named(dataset: str, array: Any) -> None:
    np.save(f"{dataset}/graph-K4/ids-00000.npy", array, allow_pickle=True)
    assert "ids-00000.npy is damaged: it must be an array of 25 x 4 int32" in _said(dataset)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 600), put=st.binary(max_size=6), cut=st.booleans())
def test_changed_bytes_of_a_graph_are_an_error_of_ours_or_change_nothing(
    dataset: str, at: int, put: bytes, cut: bool
) -> None:
    for name in ("ids-00000.npy", "distances-00002.npy"):
        path = Path(dataset, "graph-K4", name)
        whole, before = path.read_bytes(), read_graph(Dataset.open(dataset), 0, TRAIN, 4)
        path.write_bytes(whole[:at] + put + (b"" if cut else whole[at + len(put) :]))
        try:
            found = read_graph(Dataset.open(dataset), 0, TRAIN, 4)
        except DataError:
            continue
        finally:
            path.write_bytes(whole)
        np.testing.assert_array_equal(found, before)


def test_a_run_and_its_plan_stop_at_rows_that_cannot_be(dataset: str) -> None:
    config = RunConfig(
        data=DataConfig(dataset=dataset, batch_size=16),
        loss=LossConfig(recipe="official"),
        neighbors=NeighborConfig(num_neighbors=4),
        storage_path=f"{dataset}/runs",
    )
    opened = Dataset.open(dataset)
    assert find_problems(checks_of(config, opened)[-1:]) == []
    _rewrite(dataset, label=(3, 4))
    (problem,) = find_problems(checks_of(config, opened)[-1:])
    assert problem.exit_code == 3
    assert "sample 3 ('k3'): label must be a class" in problem.sentence
    assert len(checks_of(config, opened, sound=True)) == len(checks_of(config, opened)) - 1
