"""The manifest as any program may have written it again: the same rows, or a DataError that names what is wrong."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.dataset import stored_rows
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import SCHEMA
from ldlva_dist.dataset.manifest_blocks import HASHED, ContentHash
from ldlva_dist.errors import DataError
from ldlva_dist.packing.verify import require_sound
from testing.toy_dataset import ROWS, toy_dataset

PLAIN = {"key": pa.string(), "split": pa.string()}
WIDE = {name: pa.int64() for name in ("shard", "offset", "size", "checksum", "label")}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.open(toy_dataset(tmp_path))


def _as(table: pa.Table, **kinds: pa.DataType) -> pa.Table:
    for name, kind in kinds.items():
        column = table[name].cast(pa.string()) if pa.types.is_dictionary(table[name].type) else table[name]
        cast = column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column.cast(kind)
        table = table.set_column(table.column_names.index(name), name, cast)
    return table


KINDS = {
    "pandas": {**PLAIN, "valence": pa.float64(), "arousal": pa.float64()},
    "polars": {"key": pa.large_string(), "split": pa.dictionary(pa.uint32(), pa.large_string())},
    "spark": {**PLAIN, **WIDE},
    "views": {"key": pa.string_view(), "split": pa.string_view()},
    "narrow": {"id": pa.uint8(), "label": pa.int8(), "offset": pa.int16(), "size": pa.uint8()},
    "encoded": {"key": pa.dictionary(pa.int32(), pa.string())},
}


@pytest.mark.parametrize("rows", [1, 7, 40, ROWS])
@pytest.mark.parametrize("compression", ["snappy", "none", "zstd"])
def test_row_groups_are_those_of_the_file(dataset: Dataset, rows: int, compression: str) -> None:
    before = dataset.columns(SCHEMA.names)
    path = f"{dataset.uri}/manifest.parquet"
    pq.write_table(before.append_column("__index_level_0__", before["id"]), path, rows, compression=compression)
    for first, count in ((0, ROWS), (0, 0), (0, 1), (38, 5), (94, 1), (6, 60)):
        assert dataset.columns(SCHEMA.names, first_id=first, rows=count).equals(before.slice(first, count))
    (block,) = dataset.blocks()
    assert block.equals(before.unify_dictionaries().combine_chunks())
    require_sound(dataset)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_other_kinds_of_the_same_columns_are_read_as_ours(dataset: Dataset, kinds: dict[str, pa.DataType]) -> None:
    before = dataset.columns(SCHEMA.names)
    path = f"{dataset.uri}/manifest.parquet"
    pq.write_table(_as(before, **kinds).select(SCHEMA.names[::-1]), path, 40)
    found = dataset.columns(SCHEMA.names)
    assert found.schema == SCHEMA
    assert found.to_pylist() == before.to_pylist()
    info = dataset.info
    digest = ContentHash(info.class_names, info.va_transform)
    for block in dataset.blocks():
        digest.update(block)
    assert digest.hexdigest() == info.content_hash
    require_sound(dataset)


def test_blocks_are_of_one_size_however_the_file_is_cut(dataset: Dataset) -> None:
    before = dataset.columns(SCHEMA.names)
    pq.write_table(_as(before, **PLAIN), f"{dataset.uri}/manifest.parquet", 7)
    with stored_rows.open_rows(f"{dataset.uri}/manifest.parquet", SCHEMA, SCHEMA.names) as file:
        blocks = list(file.blocks(SCHEMA.names, 40))
    assert [len(block) for block in blocks] == [40, 40, 15]
    assert pa.concat_tables(blocks).to_pylist() == before.to_pylist()


REFUSED = [
    ("label", pa.float64(), "column 'label' must be int16, got double"),
    ("label", pa.string(), "column 'label' must be int16, got string"),
    ("size", pa.float32(), "column 'size' must be int32, got float"),
    ("valence", pa.string(), "column 'valence' must be float, got string"),
    ("key", pa.binary(), "column 'key' must be string, got binary"),
]


@pytest.mark.parametrize(("name", "kind", "said"), REFUSED)
def test_a_column_of_another_kind_is_named(dataset: Dataset, name: str, kind: pa.DataType, said: str) -> None:
    pq.write_table(_as(dataset.columns(SCHEMA.names), **{name: kind}), f"{dataset.uri}/manifest.parquet")
    with pytest.raises(DataError, match=said):
        dataset.columns([name])


@pytest.mark.parametrize(
    ("name", "value"), [("label", 70_000), ("size", 1 << 40), ("checksum", -1), ("shard", -1 << 40)]
)
def test_a_number_that_does_not_fit_names_its_row(dataset: Dataset, name: str, value: int) -> None:
    table = _as(dataset.columns(SCHEMA.names), **WIDE)
    cells = table[name].to_numpy().copy()
    cells[41] = value
    table = table.set_column(table.column_names.index(name), name, pa.array(cells))
    pq.write_table(table, f"{dataset.uri}/manifest.parquet", 40)
    with pytest.raises(DataError, match=rf"row 41 \('k41'\): {name} must fit in u?int"):
        dataset.columns([name])


def test_a_column_that_stands_twice_is_named(dataset: Dataset) -> None:
    table = dataset.columns(SCHEMA.names)
    pq.write_table(table.append_column("label", table["label"]), f"{dataset.uri}/manifest.parquet")
    with pytest.raises(DataError, match="it has the column 'label' twice"):
        dataset.columns(["label"])


def test_ids_with_gaps_or_twice_are_refused_where_they_are_read(dataset: Dataset) -> None:
    table = dataset.columns(SCHEMA.names)
    for rows in ([*range(50), *range(51, ROWS)], [0, *range(ROWS)], [*range(40), 41, 40, *range(42, ROWS)]):
        pq.write_table(table.take(rows), f"{dataset.uri}/manifest.parquet", 30)
        with pytest.raises(DataError, match="are not there in order"):
            dataset.columns(["label"])
        with pytest.raises(DataError, match="are not there in order"):
            list(dataset.blocks(["label"]))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set whose manifest may be spoiled: whole.parquet is the same, in several row groups."""
    uri = toy_dataset(tmp_path_factory.mktemp("fuzz"))
    pq.write_table(Dataset.open(uri).columns(SCHEMA.names), f"{uri}/whole.parquet", 40)
    return uri


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.booleans(),
)
def test_changed_bytes_of_a_manifest_are_an_error_of_ours_or_change_nothing(
    stored: str, changes: list[tuple[int, int]], cut: bool
) -> None:
    whole = Path(stored, "whole.parquet").read_bytes()
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    Path(stored, "manifest.parquet").write_bytes(data[: changes[0][0] % len(data)] if cut else data)
    try:
        require_sound(Dataset.open(stored))
    except DataError:
        return
    before = pq.read_table(f"{stored}/whole.parquet")
    for name in HASHED:
        assert Dataset.open(stored).columns([name])[name].to_pylist() == before[name].to_pylist()


STRANGE = {
    pa.int8(): 1,
    pa.uint64(): 1 << 63,
    pa.float16(): 1.0,
    pa.float64(): 0.5,
    pa.bool_(): True,
    pa.null(): None,
    pa.string(): "x",
    pa.large_string(): "\0",
    pa.string_view(): "train",
    pa.binary(): b"\xff",
    pa.date32(): 1,
    pa.timestamp("us"): 1,
    pa.decimal128(5, 2): 1,
    pa.list_(pa.int64()): [1],
    pa.struct([("label", pa.int16())]): {"label": 1},
    pa.dictionary(pa.int8(), pa.string()): "x",
}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(SCHEMA.names),
    kind=st.sampled_from(list(STRANGE)),
    rows=st.sampled_from([0, 1, ROWS - 1, ROWS, ROWS + 1]),
)
def test_other_columns_are_read_as_they_are_meant_or_refused(
    stored: str, name: str, kind: pa.DataType, rows: int
) -> None:
    table = pq.read_table(f"{stored}/whole.parquet").take(np.arange(rows) % ROWS)
    strange = pa.array([STRANGE[kind]] * rows, kind)
    pq.write_table(table.set_column(table.column_names.index(name), name, strange), f"{stored}/manifest.parquet")
    try:
        require_sound(Dataset.open(stored))
    except DataError:
        return
    assert name in ("offset", "size")  # of which the content hash knows nothing
    assert Dataset.open(stored).columns([name])[name].to_pylist() == [1] * ROWS
