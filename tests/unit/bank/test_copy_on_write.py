"""What a bank held at a step is written whole while it goes on."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load

from ldlva_dist.bank.copy_on_write import CopyOnWriteRows
from ldlva_dist.bank.records import BankRows, BankSpec, blank
from ldlva_dist.checkpoint import tensor_file
from ldlva_dist.checkpoint.tensor_file import Column, TensorFile
from ldlva_dist.errors import NeighborServiceError

N, SPEC = 200, BankSpec(num_classes=3, feature_width=5, features_dtype="int8", momentum=0.5)


def _random(ids: np.ndarray, random: np.random.Generator) -> BankRows:
    records = blank(0, len(ids), SPEC).records
    records["versions"], records["scales"] = random.integers(0, 99, len(ids)), random.normal(size=len(ids))
    records["probs"], records["features"] = random.random((len(ids), 3)), random.integers(-9, 9, (len(ids), 5))
    return BankRows(ids=ids, records=records)


def _overwrite(live: BankRows, frozen: CopyOnWriteRows, random: np.random.Generator) -> None:
    outputs = _random(np.sort(random.choice(live.ids, 30, replace=False)), random)
    frozen.keep(outputs.ids)
    live.overwrite(outputs, SPEC.momentum)


def _file(frozen: CopyOnWriteRows) -> TensorFile:
    return TensorFile({name: frozen.column(name) for name in SPEC.record.names}, {"what": "a bank"})  # pyright: ignore[reportOptionalIterable]


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_a_file_is_what_the_rows_were_however_much_is_overwritten_while_it_is_read(piece):
    random = np.random.default_rng(piece)
    live = _random(np.arange(1000, 1000 + N), random)
    changed = _random(np.array([1003, 1100, 1199]), random)
    expected = live.records.copy()
    expected[changed.ids - 1000] = changed.records
    frozen = CopyOnWriteRows(live, changed)
    _overwrite(live, frozen, random)
    file, data = _file(frozen), b""
    while more := file.read(piece):
        data += more
        if random.random() < piece / 40:
            _overwrite(live, frozen, random)
    assert len(data) == file.size
    assert (live.records != expected).sum() > 100
    columns = load(data)
    assert sorted(columns) == ["features", "probs", "scales", "versions"]
    for name, column in columns.items():
        np.testing.assert_array_equal(column, expected[name])
    source = io.BufferedReader(_file(frozen))
    for _ in range(2):  # an object store reads it twice
        assert source.tell() == 0
        assert b"".join(iter(lambda: source.read(piece), b"")) == data
        source.seek(0)


def test_another_thread_reads_what_was_while_the_bank_goes_on():
    random = np.random.default_rng(0)
    live = _random(np.arange(20_000), random)
    expected, frozen = live.records.copy(), CopyOnWriteRows(live)
    _overwrite(live, frozen, random)
    with ThreadPoolExecutor() as pool:
        data = pool.submit(_file(frozen).read)
        while not data.done():
            _overwrite(live, frozen, random)
    for name, column in load(data.result()).items():
        np.testing.assert_array_equal(column, expected[name])


def test_rows_that_were_given_up_are_not_read():
    frozen = CopyOnWriteRows(blank(0, N, SPEC))
    file = _file(frozen)
    assert file.read(600)
    frozen.release()
    with pytest.raises(NeighborServiceError, match="after they were given up"):
        file.read(600)


def test_columns_come_back_piece_by_piece(monkeypatch):
    monkeypatch.setattr(tensor_file, "PIECE_BYTES", 100)
    random = np.random.default_rng(0)
    arrays = {
        "wide": random.normal(size=(9, 40)).astype(np.float32),
        "plain": random.integers(0, 9, 70),
        "none": np.zeros((0, 3), np.float16),
        "empty": np.zeros((4, 0), np.int8),
    }
    file = io.BytesIO(TensorFile({name: Column.of(array) for name, array in arrays.items()}, {"a": "b"}).read())
    metadata, stored = tensor_file.read_header(file)  # pyright: ignore[reportArgumentType]
    assert metadata == {"a": "b"}
    assert sorted(column.name for column in stored) == sorted(arrays)
    for column in stored:
        pieces = list(column.pieces(file))  # pyright: ignore[reportArgumentType]
        assert [first for first, _ in pieces] == list(np.cumsum([0, *(len(rows) for _, rows in pieces)])[: len(pieces)])
        rows = np.concatenate([np.zeros((0, *column.shape[1:]), column.dtype), *(rows for _, rows in pieces)])
        np.testing.assert_array_equal(rows, arrays[column.name])
        assert max((rows.nbytes for _, rows in pieces), default=0) <= 160
    assert file.read(1) == b""
