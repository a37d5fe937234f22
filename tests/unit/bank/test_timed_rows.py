"""The same rows at four times: visible, previous, pending and as a snapshot. One rank writes its step to every row."""

import numpy as np
import pytest

from ldlva_dist.bank.graph_versions import GraphVersions
from ldlva_dist.bank.ledger import Ledger
from ldlva_dist.bank.records import BankSpec, Write, as_bytes, blank, encode_records
from ldlva_dist.bank.timed_rows import TimedRows
from ldlva_dist.errors import NeighborServiceError

N, SPEC = 6, BankSpec(num_classes=0, feature_width=1, features_dtype="float32")
GRAPHS = GraphVersions(np.zeros((N, 1), dtype=np.int32))


def rows_of(first: int = 0) -> TimedRows:
    ledger = Ledger(token="a", world_size=1, first=first)
    return TimedRows("bank", ledger, blank(0, N, SPEC), blank(0, 0, SPEC), SPEC)


def write_of(step: int) -> Write:
    records = encode_records(np.zeros((N, 0)), np.full((N, 1), step, np.float32), SPEC, step)
    return Write(step=step, positions=np.arange(N, dtype=np.int32), ids=np.arange(N), rows=as_bytes(records))


def read(rows: TimedRows, step: int) -> int:
    """The step whose writes a read sees."""
    assert rows.can_read(step)
    rows.require_read(step, 0)
    seen = np.unique(rows.records["versions"])
    rows.finish_read(step, 0)
    return int(seen.item())


def snapshot_of(rows: TimedRows, step: int) -> tuple[list[int], list[int]]:
    """The steps whose writes a snapshot has, and those that are pending in it."""
    rows.take_snapshot(step, GRAPHS)
    assert rows.snapshot
    kept = rows.snapshot.rows.read("versions", 0, N)
    return np.unique(kept).tolist(), np.unique(rows.snapshot.pending.records["versions"]).tolist()


def features_of(rows: TimedRows, step: int) -> list[float]:
    rows.keep_features(step)
    assert rows.kept_features
    halves = [rows.kept_features.features(*half) for half in ((0, 2), (2, N))]
    return np.concatenate(halves).ravel().tolist()


def test_a_row_is_seen_two_steps_after_it_was_written_and_as_of_a_step_before_and_after_others_went_on():
    rows = rows_of()
    for step in range(4):
        assert read(rows, step) == max(step - 2, -1)
        rows.write(0, write_of(step))
    assert rows.has_writes_before(4)
    assert not rows.has_writes_before(5)
    pending = snapshot_of(rows, 4)
    assert pending == ([2], [3])
    assert features_of(rows, 4) == [3] * N
    assert read(rows, 4) == 2
    assert rows.records["versions"].tolist() == [3] * N, "nobody can ask for them without the writes of step 3 now"
    assert rows.snapshot
    assert rows.snapshot.rows.read("versions", 0, N).tolist() == [2] * N, "kept before they were overwritten"
    assert snapshot_of(rows, 4) == pending, "the previous rows and the latest writes make the same"
    assert rows.kept_features
    assert rows.kept_features.features(0, N).ravel().tolist() == [3] * N, "still those of before step 4"
    assert features_of(rows, 4) == [3] * N


def test_a_time_that_is_over_is_refused():
    rows = rows_of()
    for step in range(4):
        read(rows, step)
        rows.write(0, write_of(step))
    with pytest.raises(NeighborServiceError, match="bank: rank 0 asked for step 3 twice or after it was over"):
        rows.require_read(3, 0)
    with pytest.raises(NeighborServiceError, match="rank 0 wrote step 3 twice or after it was over"):
        rows.write(0, write_of(3))
    with pytest.raises(NeighborServiceError, match="the snapshot of step 2 was asked for after it was over"):
        rows.take_snapshot(2, GRAPHS)
    with pytest.raises(NeighborServiceError, match="is to be filled before the first read and write"):
        rows.fill(np.arange(1), write_of(0).rows[:1])


def test_a_newer_snapshot_gives_up_the_older_one():
    rows = rows_of()
    rows.take_snapshot(0, GRAPHS)
    older = rows.snapshot
    rows.take_snapshot(0, GRAPHS)
    assert older
    with pytest.raises(NeighborServiceError, match="given up"):
        older.rows.read("versions", 0, 1)
