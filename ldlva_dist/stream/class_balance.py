"""Class balance of the plan: which rows of a chunk an epoch takes, how often, and for which time.

All rows of a class stand in a queue: the chunks in an order fixed by the seed, the rows of a chunk side by side. An
epoch takes the next ``quota`` rows of the queue, which goes round and round. So every epoch has the quota exactly, a
row stands in it quota // count or one more times, and thinned rows take turns. How many rows a chunk gives follows from
its class counts alone. k = chunks, C = classes, n = rows of one chunk, m = rows it gives.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


def class_quotas(counts: Sequence[int], balance: float) -> tuple[int, ...]:
    """Rows of each class in one epoch, as many in all as there are: proportional to ``count ** (1 - balance)``.

    0 leaves the classes as they are, 1 makes them equal but for one row. Only an empty class gets none.
    """
    counts_C = np.asarray(counts, dtype=np.float64)
    weight_C = np.where(counts_C > 0, np.maximum(counts_C, 1) ** (1 - balance), 0)
    # No class can be left out: weights are at most counts, so that the share of a class with a row is at least one row.
    exact_C = counts_C.sum() * weight_C / max(weight_C.sum(), 1)
    quota_C = np.floor(exact_C + 1e-9).astype(np.int64)
    largest_remainders = np.argsort(quota_C - exact_C, kind="stable")[: int(counts_C.sum()) - int(quota_C.sum())]
    quota_C[largest_remainders] += 1
    return tuple(quota_C.tolist())


@dataclass(frozen=True)
class Balance:
    """The queues of all classes."""

    counts_kC: NDArray[np.int32] = field(compare=False)
    """Rows of each class in each chunk."""
    balance: float
    """See :func:`class_quotas`."""
    seed: int
    digest: bytes = field(init=False)
    """Digest of the counts, in whose place it is compared and hashed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.blake2b(self.counts_kC.tobytes(), digest_size=16).digest())

    @cached_property
    def counts_C(self) -> NDArray[np.int64]:
        """[C] rows of each class."""
        return self.counts_kC.sum(axis=0, dtype=np.int64)

    @cached_property
    def quotas_C(self) -> NDArray[np.int64]:
        """[C] rows of each class in one epoch."""
        return np.asarray(class_quotas(self.counts_C.tolist(), self.balance), dtype=np.int64)

    @cached_property
    def _begins_kC(self) -> NDArray[np.int64]:
        """[k, C] place of the chunk's first row of each class in the class's queue."""
        order_k = np.random.default_rng((self.seed, 2)).permutation(len(self.counts_kC))
        ends_kC = np.cumsum(self.counts_kC[order_k], axis=0, dtype=np.int64)
        begins_kC = np.empty_like(ends_kC)
        begins_kC[order_k] = ends_kC - self.counts_kC[order_k]
        return begins_kC

    def rows_of_chunks(self, epoch: int) -> NDArray[np.int64]:
        """[k] rows that each chunk gives to an epoch."""
        begin_C = epoch * self.quotas_C
        return (self._passed(begin_C + self.quotas_C) - self._passed(begin_C)).sum(axis=1)

    def rows_of_chunk(
        self, chunk: int, epoch: int, labels_n: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What one chunk gives to an epoch; a row with a label below 0 is in no queue.

        Returns:
            The rows [m], counted from the chunk's first, no row a second time before all have come; and for each how
            often it came in the run before [m].
        """
        given = np.flatnonzero(labels_n >= 0)
        labels_n = labels_n[given]
        one_hot_nC = labels_n[:, None] == np.arange(len(self.quotas_C))
        rank_n = (np.cumsum(one_hot_nC, axis=0) - 1)[np.arange(len(labels_n)), labels_n]
        place_n = self._begins_kC[chunk, labels_n] + rank_n
        count_n, quota_n = self.counts_C[labels_n], self.quotas_C[labels_n]
        # The row comes at turns place, place + count, place + 2 count, ... of its class's endless queue.
        first_n = -(-(epoch * quota_n - place_n) // count_n)
        stop_n = -(-((epoch + 1) * quota_n - place_n) // count_n)
        times_n = stop_n - first_n
        rows = np.repeat(np.arange(len(labels_n)), times_n)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(times_n) - times_n, times_n)
        by_time = np.argsort(nth, kind="stable")
        return given[rows[by_time]], (first_n[rows] + nth)[by_time]

    def _passed(self, turns_C: NDArray[np.int64]) -> NDArray[np.int64]:
        """[k, C] rows that each chunk gave in the first ``turns_C`` turns of each class."""
        whole_C, rest_C = np.divmod(turns_C, np.maximum(self.counts_C, 1))
        return whole_C * self.counts_kC + np.clip(rest_C - self._begins_kC, 0, self.counts_kC)
