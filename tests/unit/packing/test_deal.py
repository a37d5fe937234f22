"""Which task reads what, and which shard a row goes to."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ldlva_dist.packing.passes.deal import MAX_SHARD_BYTES, SHARDS_PER_PART, Dealt, deal
from ldlva_dist.packing.sources.rows import Partition


def _deal(sizes: list[list[int]], split_of: int = 0, part: str = "train") -> Dealt:
    partitions = [Partition(part="test" if part == "test" else "train", first=0, rows=len(rows)) for rows in sizes]
    partition = np.repeat(np.arange(len(sizes)), [len(rows) for rows in sizes])
    size = np.array([size for rows in sizes for size in rows], dtype=np.int32)
    return deal(size, partition, np.full(len(size), split_of, dtype=np.int8), partitions)


@given(st.lists(st.lists(st.integers(1, 10_000), max_size=40), min_size=1, max_size=40))
def test_every_row_has_one_task_and_shards_hold_consecutive_rows_up_to_the_limit(sizes: list[list[int]]) -> None:
    dealt = _deal(sizes)
    flat = np.array([size for rows in sizes for size in rows])
    assert [begin for begin, _ in dealt.ranges] == [0, *(end for _, end in dealt.ranges)][:-1] or not len(flat)
    assert sum(end - begin for begin, end in dealt.ranges) == len(flat)
    assert all(stop <= first for (_, stop), (first, _) in zip(dealt.tasks, dealt.tasks[1:], strict=False))
    assert set(np.diff(dealt.shard_A, prepend=0).tolist()) <= {0, 1}
    assert len(dealt.shards) == len(np.unique(dealt.shard_A)) <= 2 * SHARDS_PER_PART + 1
    limit = -(-int(flat.sum()) // SHARDS_PER_PART)
    for shard in range(len(dealt.shards)):
        assert flat[dealt.shard_A == shard][:-1].sum() <= limit


def test_a_large_part_has_shards_of_at_most_128_mb() -> None:
    dealt = _deal([[1_000_000] * 2048] * 10)
    bytes_of_shard = np.bincount(dealt.shard_A) * 1_000_000
    assert bytes_of_shard.max() <= MAX_SHARD_BYTES + 1_000_000
    assert len(dealt.shards) == 160
    assert dealt.tasks == tuple((i, i + 1) for i in range(10))


def test_small_partitions_are_joined_until_a_shard_is_full() -> None:
    dealt = _deal([[10]] * 640)
    assert dealt.tasks == tuple((i, i + 10) for i in range(0, 640, 10))
    assert dealt.shards[-1] == "train-000063.tar"


def test_train_and_holdout_rows_of_a_task_go_to_shards_of_their_own() -> None:
    partitions = [Partition(part="train", first=0, rows=4), Partition(part="test", first=0, rows=1)]
    split = np.array([0, 1, 0, 1, 2], dtype=np.int8)
    dealt = deal(np.full(5, 1, dtype=np.int32), np.array([0, 0, 0, 0, 1]), split, partitions)
    assert dealt.tasks == ((0, 1), (1, 2))
    assert dealt.shards == (
        *("train-000000.tar", "train-000001.tar"),
        *("holdout-000000.tar", "holdout-000001.tar"),
        "test-000000.tar",
    )
    assert dealt.shard_A.tolist() == [0, 2, 1, 3, 4]
