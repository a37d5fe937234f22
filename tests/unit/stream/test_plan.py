"""The plan: every position exactly once, the same global batches on any number of ranks."""

import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.config import DataConfig, RunConfig, from_json, to_json
from ldlva_dist.errors import SettingError
from ldlva_dist.stream.class_balance import Balance, class_quotas
from ldlva_dist.stream.manifest_columns import _count_classes
from ldlva_dist.stream.pipeline import task_ranges
from ldlva_dist.stream.plan import Plan, left_out, without_left_out
from ldlva_dist.training.inputs import make_plan

SHAPES = [
    ((47,) * 63 + (31,), 64, 256),
    ((100, 33, 7), 12, 16),
    ((1000,) * 3, 50, 64),
    ((5,), 5, 3),
    ((13,), 7, 256),
    ((61, 62, 63), 67, 8),  # a batch size with no divisor up to 64: one lane
]
LABELS = np.random.default_rng(0).choice(4, p=[0.6, 0.3, 0.09, 0.01], size=4000)


def _visits(plan: Plan, lane: int, superstep: int) -> list[tuple[int, int, int]]:
    """(epoch, id, times it came before) of one window in the order of training; labels are LABELS."""
    runs, order = plan.window(lane, superstep)
    rows = []
    for run in runs:
        ids, visits = plan.rows_of(run, LABELS[run.first_id : run.first_id + run.rows])
        assert len(ids) == run.count
        rows += zip([run.epoch] * len(ids), ids.tolist(), visits.tolist(), strict=True)
    assert sorted(order.tolist()) == list(range(len(rows)))
    return [rows[i] for i in order]


def _rows(plan: Plan, lane: int, superstep: int) -> list[tuple[int, int]]:
    """(epoch, id) of one window in the order of training."""
    return [row[:2] for row in _visits(plan, lane, superstep)]


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


@pytest.mark.parametrize(("workers", "batch_size", "max_lanes"), [(96, 192, 96), (128, 128, 256), (48, 96, 48)])
def test_more_than_64_workers_do_equal_work_and_train_every_row_once(
    workers: int, batch_size: int, max_lanes: int
) -> None:
    plan = Plan((200,) * 4, seed=0, batch_size=batch_size, chunk_rows=16, max_lanes=max_lanes)
    assert {len(plan.positions(rank, workers)) for rank in range(workers)} == {batch_size // workers}
    batches = _global_batches(plan, workers, -(-plan.steps_for(1) // plan.steps_per_superstep) + 1)
    first = [sample for batch in batches for epoch, sample in batch if epoch == 0]
    assert sorted(first) == list(range(800))


def test_settings_of_before_lanes_could_be_said_give_the_plan_that_they_gave() -> None:
    saved = json.loads(to_json(RunConfig(data=DataConfig(batch_size=512))))
    del saved["data"]["max_lanes"]
    plan = make_plan(from_json(json.dumps(saved)), (9999,))
    assert plan == Plan((9999,), 0, 512, 128)
    assert plan.num_lanes == 64


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


@settings(max_examples=60, deadline=None)
@given(
    shard_rows=st.lists(st.integers(1, 90), min_size=1, max_size=12),
    batch_size=st.integers(1, 70),
    chunk_rows=st.integers(1, 40),
    seed=st.integers(0, 9),
    world_sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    balance=st.sampled_from([0.0, 0.5, 1.0]),
    fold=st.sampled_from([None, None, (0, 2), (2, 5)]),
)
def test_a_run_on_changing_numbers_of_ranks_trains_each_row_of_each_epoch_exactly_once(
    shard_rows: list[int],
    batch_size: int,
    chunk_rows: int,
    seed: int,
    world_sizes: list[int],
    balance: float,
    fold: tuple[int, int] | None,
) -> None:
    """Superstep u runs on world_sizes[u % n] ranks; the lanes' rows, put together, are whole epochs in order.

    Rows of a fold that is left out come never.
    """
    total = sum(shard_rows)
    kept = np.setdiff1d(np.arange(total), left_out(fold, total))
    if not len(kept):
        return
    batch_size = min(batch_size, len(kept))
    plan = _balanced(tuple(shard_rows), balance, fold, batch_size=batch_size, chunk_rows=chunk_rows, seed=seed)
    assert plan.num_rows == len(kept)
    by_epoch, last = defaultdict(list), {}
    for superstep in range(plan.steps_for(3) // plan.steps_per_superstep + 2):
        world_size = min(world_sizes[superstep % len(world_sizes)], plan.num_lanes)
        served = [lane for rank in range(world_size) for lane in plan.lanes_of(rank, world_size)]
        assert sorted(served) == list(range(plan.num_lanes))
        for lane in served:
            for epoch, sample in _rows(plan, lane, superstep):
                assert epoch >= last.get(lane, 0), "a lane goes from epoch to epoch"
                last[lane] = epoch
                by_epoch[epoch].append(sample)
    labels = LABELS[kept]
    counts: Any = np.bincount(labels, minlength=4)
    for epoch in range(3):
        assert np.isin(by_epoch[epoch], kept).all()
        times = np.bincount(by_epoch[epoch], minlength=total)[kept]
        quotas = np.bincount(labels, weights=times, minlength=4)
        assert tuple(quotas) == class_quotas(counts, balance)
        assert times.sum() == plan.num_rows
        low = quotas[labels] // counts[labels]
        assert ((times == low) | (times == low + 1)).all()


def _balanced(
    shard_rows: tuple[int, ...], balance: float, fold: tuple[int, int] | None = None, **settings: Any
) -> Plan:
    bare = Plan(shard_rows, **settings, fold=fold)
    if not balance and fold is None:
        return bare
    labels = LABELS[: sum(shard_rows)]
    counts = np.zeros((len(bare.chunks[0]), 4), dtype=np.int32)
    for sample, chunk in enumerate(np.repeat(np.arange(len(counts)), bare.chunks[1])):
        if fold is None or sample % fold[1] != fold[0]:
            counts[chunk, labels[sample]] += 1
    return replace(bare, balance=Balance(counts, balance, settings["seed"]))


def test_labels_of_left_out_rows_are_none_wherever_a_stretch_begins() -> None:
    labels = LABELS[:40]
    assert without_left_out(None, 7, labels) is labels
    for fold in ((0, 2), (4, 5), (2, 3)):
        for first in range(7):
            found = without_left_out(fold, first, labels)
            expected = [-1 if i % fold[1] == fold[0] else label for i, label in enumerate(labels.tolist(), first)]
            assert found.tolist() == expected
    assert labels.min() == 0, "the given labels stay as they are"


def test_left_out_rows_are_not_counted_in_any_block_of_the_manifest() -> None:
    """Two blocks, the second of which begins in the middle of a chunk."""
    fold, first_k = (1, 3), np.array([0, 10, 25])
    whole = _count_classes({"label": LABELS[:40].astype(np.int16)}, 0, first_k, 4, fold)
    cut = 30
    parts = [
        _count_classes({"label": LABELS[:cut].astype(np.int16)}, 0, first_k, 4, fold),
        _count_classes({"label": LABELS[cut:40].astype(np.int16)}, cut, first_k[2:], 4, fold),
    ]
    naive = np.zeros((3, 4), dtype=int)
    for sample, label in enumerate(LABELS[:40]):
        if sample % 3 != 1:
            naive[(sample >= 10) + (sample >= 25), label] += 1
    assert whole.tolist() == naive.tolist()
    parts[0][2] += parts[1][0]
    assert parts[0].tolist() == naive.tolist()


def test_thinned_rows_take_turns_and_every_coming_of_a_row_has_its_own_number() -> None:
    plan = _balanced((211, 89, 300), 1.0, batch_size=20, chunk_rows=16, seed=4)
    visits = defaultdict(list)
    for lane in range(plan.num_lanes):
        for superstep in range(plan.steps_for(9) // plan.steps_per_superstep + 2):
            for epoch, sample, visit in _visits(plan, lane, superstep):
                if epoch < 8:
                    visits[sample].append(visit)
    assert all(sorted(own) == list(range(len(own))) for own in visits.values())
    labels = LABELS[:600]
    times = np.array([len(visits[sample]) for sample in range(600)])
    for c, count in enumerate(np.bincount(labels)):
        assert set(times[labels == c]) <= {8 * 150 // count, 8 * 150 // count + 1}


def test_balanced_global_batches_do_not_depend_on_the_number_of_ranks() -> None:
    plan = _balanced((211, 89, 300), 0.7, batch_size=24, chunk_rows=16, seed=4)
    alone = _global_batches(plan, 1, 5)
    assert all(_global_batches(plan, world_size, 5) == alone for world_size in (2, 3, 4))


def test_a_rare_class_in_class_order_is_spread_over_the_epoch_not_read_in_one_go() -> None:
    """2,016 rows sorted by class; the 32 rows of the last one come 31 or 32 times each in an epoch."""
    counts = np.zeros((63, 2), dtype=np.int32)
    counts[:, 0], counts[62] = 32, (0, 32)
    plan = Plan((2016,), seed=0, batch_size=8, chunk_rows=32, balance=Balance(counts, 1.0, 0))
    labels = (np.arange(2016) >= 62 * 32).astype(int)
    times = np.zeros((8, 8, 32), dtype=int)
    for lane in range(8):
        for superstep in range(8):
            for run in plan.window(lane, superstep)[0]:
                if run.epoch == 0 and run.first_id == 62 * 32:
                    ids, _ = plan.rows_of(run, labels[run.first_id : run.first_id + run.rows])
                    np.add.at(times[lane, superstep], ids - run.first_id, 1)
    assert times.sum() == 1008
    assert times.max() <= 2
    assert (times.sum(axis=(0, 2)) > 0).all(), "no superstep without the rare class"


@pytest.mark.parametrize(
    ("counts", "balance", "quotas"),
    [
        ((60, 30, 10), 0.0, (60, 30, 10)),
        ((60, 30, 10), 1.0, (34, 33, 33)),
        ((6400, 100, 0), 0.5, (5778, 722, 0)),
        ((1_000_000, 1), 0.1, (999_997, 4)),
    ],
)
def test_quotas_are_exact_and_leave_no_class_out(
    counts: tuple[int, ...], balance: float, quotas: tuple[int, ...]
) -> None:
    assert class_quotas(counts, balance) == quotas
    assert sum(quotas) == sum(counts)


def test_the_lanes_read_in_different_stretches_of_the_data_set_at_any_time() -> None:
    """16 lanes over 3,200 pieces: what they read at one time is one of each half of each sixteenth of the ids."""
    plan = Plan((3200,) * 8, seed=0, batch_size=16, chunk_rows=16)
    for superstep in range(100):
        pieces = [run.first_id // 8 for lane in range(16) for run in plan.window(lane, superstep)[0]]
        assert sorted(piece // 100 for piece in pieces) == list(range(32))


def test_windows_do_not_cut_the_pieces() -> None:
    """Reads are as few as the pieces, but for some where a lane, an epoch or a shard ends."""
    plan = Plan((1001,) * 3, seed=1, batch_size=10, chunk_rows=16)
    assert plan.num_rows % plan.num_lanes, "a lane's epochs do not begin where its windows begin"
    supersteps = plan.steps_for(4) // plan.steps_per_superstep
    reads = sum(len(plan.window(lane, s)[0]) for lane in range(plan.num_lanes) for s in range(supersteps))
    assert reads < 1.05 * 4 * plan.num_rows / plan.piece_rows


def test_a_batch_of_a_set_in_class_order_has_the_mix_of_the_whole() -> None:
    plan = Plan((640,) * 10, seed=0, batch_size=64, chunk_rows=16)
    for batch in _global_batches(plan, 1, 6):
        classes = np.bincount([sample // 1600 for _, sample in batch], minlength=4)
        assert abs(classes - 16).max() <= 2


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_costs_do_not_grow_with_the_rows_of_a_hundred_million(balance: float) -> None:
    """What a step touches: a few runs a lane. An epoch's order is one permutation of the chunks."""
    shard_rows = (50_000,) * 2000
    bare = Plan(shard_rows, seed=0, batch_size=64, chunk_rows=256)
    counts = np.tile(np.array([[200, 56]], dtype=np.int32), (len(bare.chunks[0]), 1))
    plan = Plan(shard_rows, seed=0, batch_size=64, chunk_rows=256, balance=Balance(counts, balance, 0))
    plan = plan if balance else bare
    assert plan.num_rows == 100_000_000
    runs = [run for lane in range(64) for run in plan.window(lane, 5000)[0]]
    assert len(runs) <= 64 * 4
    assert sum(run.count for run in runs) == 64 * 256


@pytest.mark.parametrize(("shard_rows", "batch_size", "chunk_rows"), SHAPES)
@pytest.mark.parametrize("world_size", [1, 3])
def test_the_epoch_of_each_row_of_a_step_is_that_of_its_window(
    shard_rows: tuple[int, ...], batch_size: int, chunk_rows: int, world_size: int
) -> None:
    plan = Plan(shard_rows, seed=3, batch_size=batch_size, chunk_rows=chunk_rows)
    world_size = min(world_size, plan.num_lanes)
    batches = _global_batches(plan, world_size, supersteps=2)
    for step, batch in enumerate(batches):
        for rank in range(world_size):
            expected = [batch[place][0] for place in plan.positions(rank, world_size).tolist()]
            assert plan.epochs_at(step, rank, world_size).tolist() == expected


@given(begin=st.integers(0, 50), count=st.integers(0, 300), most=st.integers(1, 40))
def test_tasks_of_a_pipeline_have_every_superstep_once_and_the_first_has_one(begin: int, count: int, most: int) -> None:
    ranges = task_ranges(begin, begin + count, most)
    assert [superstep for ends in ranges for superstep in range(*ends)] == list(range(begin, begin + count))
    sizes = [stop - first for first, stop in ranges]
    assert sizes[:1] == [1] * bool(count)
    assert all(size in (min(2 * before, most), sizes[-1]) for before, size in pairwise(sizes))
