"""How accepted rows are dealt to tasks and shards. A = accepted rows in reading order, P = partitions.

A task reads whole partitions, each exactly once. It writes one shard of each split it meets; only a partition larger
than a shard may be is cut into equal parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.dataset.manifest import SPLITS
from ldlva_dist.packing.sources.rows import Partition

MAX_SHARD_BYTES = 128 << 20
SHARDS_PER_PART = 64


@dataclass(frozen=True)
class Dealt:
    """Who writes what."""

    tasks: tuple[tuple[int, int], ...]
    """Partitions [first, stop) of each task that has rows to write."""
    ranges: tuple[tuple[int, int], ...]
    """Accepted rows [begin, end) of each task."""
    shard_A: NDArray[np.int32]
    """Shard of each row, counted in id order over all splits."""
    shards: tuple[str, ...]
    """Their file names."""


def deal(
    size_A: NDArray[np.int32],
    partition_A: NDArray[np.int64],
    split_A: NDArray[np.int8],
    partitions: Sequence[Partition],
    held_bytes: Mapping[str, int] = MappingProxyType({}),
) -> Dealt:
    """Shards of at most min(128 MB, a 64th of the part) and one image; the same for the same rows.

    ``held_bytes`` are those of each part that the data set has already.
    """
    bytes_P = np.bincount(partition_A, weights=size_A, minlength=len(partitions)).astype(np.int64)
    ends_P = np.cumsum(np.bincount(partition_A, minlength=len(partitions)))
    limit = {
        part: max(1, min(MAX_SHARD_BYTES, -(-(total + held_bytes.get(part, 0)) // SHARDS_PER_PART)))
        for part, total in _part_bytes(bytes_P, partitions).items()
    }
    tasks, ranges, group_A, groups = [], [], np.zeros(len(size_A), dtype=np.int64), 0
    for first, stop in _runs(bytes_P, partitions, limit):
        begin, end = int(ends_P[first - 1]) if first else 0, int(ends_P[stop - 1])
        if begin == end:
            continue
        tasks.append((first, stop))
        ranges.append((begin, end))
        slot_n = _slots(size_A[begin:end], limit[partitions[first].part])
        group_A[begin:end] = groups + slot_n
        groups += int(slot_n[-1]) + 1
    found, shard_A = np.unique(split_A.astype(np.int64) * groups + group_A, return_inverse=True)
    return Dealt(tuple(tasks), tuple(ranges), shard_A.astype(np.int32), tuple(_names(found // max(groups, 1))))


def _part_bytes(bytes_P: NDArray[np.int64], partitions: Sequence[Partition]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for partition, size in zip(partitions, bytes_P.tolist(), strict=True):
        totals[partition.part] = totals.get(partition.part, 0) + size
    return totals


def _runs(bytes_P: NDArray[np.int64], partitions: Sequence[Partition], limit: dict[str, int]) -> list[tuple[int, int]]:
    """Consecutive partitions of one part that together fit into a shard, or one that does not."""
    runs: list[tuple[int, int]] = []
    size = 0
    for number, (partition, more) in enumerate(zip(partitions, bytes_P.tolist(), strict=True)):
        joins = number > 0 and partitions[number - 1].part == partition.part
        if joins and size + more <= limit[partition.part]:
            runs[-1] = (runs[-1][0], number + 1)
            size += more
        else:
            runs.append((number, number + 1))
            size = more
    return runs


def _slots(size_n: NDArray[np.int32], limit: int) -> NDArray[np.int64]:
    """[n] part of each row when a task's rows are cut into as few parts of equal size as keep to the limit."""
    ends_n = np.cumsum(size_n, dtype=np.int64)
    parts = -(-int(ends_n[-1]) // limit)
    slot_n = (ends_n - size_n) * parts // max(int(ends_n[-1]), 1)
    return np.unique(slot_n, return_inverse=True)[1].astype(np.int64)


def _names(splits: NDArray[np.int64]) -> list[str]:
    """File names of shards that belong to the splits ``splits`` (ascending), numbered in each."""
    first = np.searchsorted(splits, splits)
    return [
        f"{SPLITS[split]}-{number:06d}.tar"
        for number, split in enumerate(splits.tolist())
        for number in [number - int(first[number])]
    ]
