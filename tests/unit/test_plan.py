"""The plan: every position exactly once, the same global batches on any number of ranks."""

from collections import defaultdict

import numpy as np
import pytest

from ldlva_dist.data.plan import Plan
from ldlva_dist.errors import SettingError

SHAPES = [
    ((47,) * 63 + (31,), 64, 256),
    ((100, 33, 7), 12, 16),
    ((1000,) * 3, 50, 64),
    ((5,), 5, 3),
    ((13,), 7, 256),
    ((61, 62, 63), 67, 8),  # a batch size with no divisor up to 64: one lane
]


def _rows(plan: Plan, lane: int, superstep: int) -> list[tuple[int, int]]:
    """(epoch, id) of one window in the order of training."""
    runs, order = plan.window(lane, superstep)
    rows = [(run.epoch, run.first_id + i) for run in runs for i in range(run.rows)]
    assert len(order) == len(rows)
    return [rows[i] for i in order]


def _global_batches(plan: Plan, world_size: int, supersteps: int) -> list[list[tuple[int, int]]]:
    """Global batches put together from what each rank's lanes give, by position."""
    batches: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
    for rank in range(world_size):
        lanes = [
            [row for u in range(supersteps) for row in _rows(plan, lane, u)] for lane in plan.lanes_of(rank, world_size)
        ]
        for step in range(supersteps * plan.steps_per_superstep):
            take = slice(step * plan.rows_per_step, (step + 1) * plan.rows_per_step)
            rows = [row for lane in lanes for row in lane[take]]
            for position, row in zip(plan.positions(rank, world_size).tolist(), rows, strict=True):
                assert position not in batches[step]
                batches[step][position] = row
    return [[batches[s][p] for p in sorted(batches[s])] for s in sorted(batches)]


@pytest.mark.parametrize(("shard_rows", "batch_size", "chunk_rows"), SHAPES)
def test_every_epoch_trains_every_row_exactly_once(
    shard_rows: tuple[int, ...], batch_size: int, chunk_rows: int
) -> None:
    plan = Plan(shard_rows, seed=3, batch_size=batch_size, chunk_rows=chunk_rows)
    supersteps = plan.steps_for(4) // plan.steps_per_superstep + 1
    by_epoch = defaultdict(list)
    for batch in _global_batches(plan, 1, supersteps):
        assert len(batch) == batch_size
        for epoch, sample in batch:
            by_epoch[epoch].append(sample)
    for epoch in range(4):
        assert sorted(by_epoch[epoch]) == list(range(plan.num_rows))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    plan = Plan((47,) * 9, seed=1, batch_size=24, chunk_rows=16)
    assert _global_batches(plan, world_size, 5) == _global_batches(plan, 1, 5)


def test_a_run_of_rows_never_leaves_its_shard() -> None:
    shard_rows = (100, 33, 7, 250)
    plan = Plan(shard_rows, seed=0, batch_size=8, chunk_rows=64)
    begins = np.cumsum(shard_rows) - shard_rows
    for lane in range(plan.num_lanes):
        for superstep in range(6):
            for run in plan.window(lane, superstep)[0]:
                assert begins[run.shard] <= run.first_id
                assert run.first_id + run.rows <= begins[run.shard] + shard_rows[run.shard]


def test_epochs_and_seeds_differ_in_order() -> None:
    first, second = (Plan((50,) * 10, seed=s, batch_size=10, chunk_rows=25) for s in (0, 1))
    assert _global_batches(first, 1, 2) != _global_batches(second, 1, 2)
    batches = _global_batches(first, 1, first.steps_for(2) // first.steps_per_superstep + 1)
    order = {e: [i for batch in batches for epoch, i in batch if epoch == e] for e in (0, 1)}
    assert order[0] != order[1]


def test_a_batch_larger_than_an_epoch_is_refused() -> None:
    with pytest.raises(SettingError, match=r"data\.batch_size must be <= the rows of one epoch \(20\), got 32"):
        Plan((10, 10), seed=0, batch_size=32, chunk_rows=8)
