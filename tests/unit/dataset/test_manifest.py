"""The manifest: ranges of ids, transforms, hashes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo, ShardInfo, SplitInfo, write_info
from ldlva_dist.dataset.manifest_blocks import ContentHash
from ldlva_dist.errors import DataError

INFO = DatasetInfo(
    name="toy",
    class_names=("a", "b"),
    splits={
        "train": SplitInfo(first_id=0, rows=7),
        "holdout": SplitInfo(first_id=7, rows=2),
        "test": SplitInfo(first_id=9, rows=0),
    },
    shards=(
        ShardInfo(name="train-000000.tar", split="train", first_id=0, rows=7, bytes=70),
        ShardInfo(name="holdout-000000.tar", split="holdout", first_id=7, rows=2, bytes=20),
    ),
    has_valence_arousal=True,
    va_transform={"mean": (0.5, 0.0), "std": (0.5, 2.0)},
    content_hash="abc",
    class_counts={"train": (3, 4), "holdout": (1, 1), "test": (0, 0)},
    source={"kind": "test"},
)


def _table(rows: int) -> pa.Table:
    ids = np.arange(rows)
    split = pa.DictionaryArray.from_arrays(np.where(ids < rows - 2, 0, 1), pa.array(manifest.SPLITS))
    columns = dict.fromkeys(("id", "shard", "offset", "size", "checksum", "label"), ids)
    va = {"valence": ids / rows, "arousal": -ids / rows}
    return pa.table({**columns, "key": [f"k{i}" for i in ids], **va, "split": split})


def test_info_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_info(str(tmp_path), INFO)
    assert Dataset.open(str(tmp_path)).info == INFO
    assert INFO.num_train == 7
    assert [shard.name for shard in INFO.shards_of("holdout")] == ["holdout-000000.tar"]


def test_a_folder_without_info_is_not_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no dataset\.json"):
        Dataset.open(str(tmp_path))


def test_another_format_is_refused(tmp_path: Path) -> None:
    write_info(str(tmp_path), replace(INFO, format_version=99))
    with pytest.raises(DataError, match="format_version 99"):
        Dataset.open(str(tmp_path))


@pytest.mark.parametrize(("first", "rows"), [(0, 9), (0, 0), (3, 4), (4, 1), (8, 1), (2, 5)])
def test_a_range_of_ids_is_read_across_row_groups(
    first: int, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "ROW_GROUP_ROWS", 4)
    manifest.write_manifest(str(tmp_path), _table(9))
    found = Dataset(str(tmp_path), INFO).columns(["id", "split"], first_id=first, rows=rows)
    assert found["id"].to_pylist() == list(range(first, first + rows))
    assert found["split"].to_pylist() == ["train" if i < 7 else "holdout" for i in range(first, first + rows)]


def test_ids_and_columns_that_do_not_exist_are_named(tmp_path: Path) -> None:
    manifest.write_manifest(str(tmp_path), _table(9))
    with pytest.raises(DataError, match=r"holds ids 0\.\.8, asked for 5\.\.9"):
        Dataset(str(tmp_path), INFO).columns(["id"], first_id=5, rows=5)
    with pytest.raises(DataError, match="no column 'votes'"):
        Dataset(str(tmp_path), INFO).columns(["votes"])


def test_valence_arousal_comes_in_the_scale_of_the_data_set(tmp_path: Path) -> None:
    manifest.write_manifest(str(tmp_path), _table(10))
    write_info(str(tmp_path), INFO)
    expected = [[(0.2 - 0.5) / 0.5, -0.2 / 2], [(0.3 - 0.5) / 0.5, -0.3 / 2]]
    np.testing.assert_allclose(Dataset.open(str(tmp_path)).va(2, 2), expected, rtol=1e-6)


def test_absent_valence_arousal_is_nan(tmp_path: Path) -> None:
    table = _table(4)
    for name in ("valence", "arousal"):
        table = table.set_column(table.column_names.index(name), name, pa.nulls(4, pa.float32()))
    manifest.write_manifest(str(tmp_path), table)
    write_info(str(tmp_path), replace(INFO, va_transform=None, has_valence_arousal=False))
    assert np.isnan(Dataset.open(str(tmp_path)).va(0, 4)).all()


def content_hash(
    table: pa.Table, class_names: tuple[str, ...], transform: Mapping[str, tuple[float, float]] | None
) -> str:
    digest = ContentHash(class_names, transform)
    digest.update(table)
    return digest.hexdigest()


def test_the_content_hash_depends_on_content_and_not_on_shards() -> None:
    table = _table(9)
    base = content_hash(table, ("a", "b"), None)
    assert content_hash(table.set_column(1, "shard", pa.array([0] * 9)), ("a", "b"), None) == base
    assert content_hash(table, ("b", "a"), None) != base
    assert content_hash(table, ("a", "b"), INFO.va_transform) != base
    for name in ("label", "valence", "checksum"):
        changed = table.set_column(table.column_names.index(name), name, pa.array(np.arange(9)[::-1]))
        assert content_hash(changed, ("a", "b"), None) != base
