"""The plan: which rows global batch t trains on, as a pure function of :class:`Plan` and t.

A plan is made of shard sizes, seed, batch size, chunk rows, class balance, the most lanes and the fold that is left
out, all of which a run keeps to its end.
A shard is cut into *chunks* of up to ``chunk_rows`` consecutive rows, and these into *pieces* of half a window, the
unit of reading. Epoch e is a permutation of all pieces by (seed, e); its N rows are cut into L *lanes* of N/L rows (odd
rows go round the lanes from epoch to epoch). The permutation keeps every lane in one Lth of the data set, another one
each epoch, so that a batch, and a rank's share of it, has the mix of the whole even where the shards are in the order
of classes. For the same end, over some batches, a window's two pieces are of the first and of the second half of the
lane's Lth (bench/size/shuffle.py).
With class balance (class_balance.py) a chunk gives each row as often as the epoch wants it; what it gives is cut into
pieces. Rows that are left out are of no class, so that their chunks do not give them.
Lanes run on endlessly, and global batch t takes the next ``batch_size / L`` rows of every lane. A *superstep* is the
stretch of steps that uses up one *window* of every lane; rows are shuffled inside a window, epoch by epoch.
Nothing here knows how many workers there are: rank r of W merely serves lanes r, r + W, ... (DESIGN.md, section 1.2).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.errors import SettingError
from ldlva_dist.stream.class_balance import Balance

MAX_LANES = 64
"""Most lanes of a plan that does not say; every run that was begun before it could be said has them."""
PLAN_VERSION = 2
"""Version of the rules below; one more where the same step comes to hold other samples. A checkpoint remembers it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Consecutive ids of one shard, to be fetched by one ranged read."""

    epoch: int
    shard: int
    first_id: int
    rows: int
    """Ids it spans; without class balance it gives each of them once."""
    part: tuple[int, int, int] | None = None
    """With class balance: the chunk, and the part [begin, end) of the rows that it gives to the epoch."""

    @property
    def count(self) -> int:
        """Rows that it gives."""
        return self.part[2] - self.part[1] if self.part else self.rows


@dataclass(frozen=True)
class Plan:
    """The order in which samples 0..N-1 are trained on."""

    shard_rows: tuple[int, ...]
    """Rows of each training shard, in id order."""
    seed: int
    batch_size: int
    chunk_rows: int
    balance: Balance | None = None
    max_lanes: int = MAX_LANES
    """Lanes are no more than this: a rank serves whole ones, so there must be as many as ranks."""
    fold: tuple[int, int] | None = None
    """(k, K): rows k, k + K, k + 2 K, ... are left out, by the class balance, which must be there for that."""

    def __post_init__(self) -> None:
        if self.batch_size > self.num_rows:
            raise SettingError(
                f"data.batch_size must be <= the rows of one epoch ({self.num_rows}), got {self.batch_size}"
            )

    @cached_property
    def num_rows(self) -> int:
        """N, the rows of one epoch."""
        return sum(self.shard_rows) - len(left_out(self.fold, sum(self.shard_rows)))

    @cached_property
    def num_lanes(self) -> int:
        """L, the largest divisor of the batch size up to ``max_lanes``."""
        return max(n for n in range(1, self.max_lanes + 1) if self.batch_size % n == 0)

    @property
    def rows_per_step(self) -> int:
        """Rows that one lane gives to each global batch."""
        return self.batch_size // self.num_lanes

    @cached_property
    def steps_per_superstep(self) -> int:
        """Steps in one window; a small set's window is about one epoch of the lane, not many."""
        window = min(self.chunk_rows, -(-self.num_rows // self.num_lanes))
        return max(1, window // self.rows_per_step)

    @cached_property
    def window_rows(self) -> int:
        """Rows of a lane's window."""
        return self.steps_per_superstep * self.rows_per_step

    @cached_property
    def piece_rows(self) -> int:
        """Rows of a whole piece: half a window's."""
        return max(1, min(self.chunk_rows, self.window_rows) // 2)

    @cached_property
    def chunks(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(first id, rows, shard) of every chunk, in id order; only a shard's last one may have fewer rows."""
        rows = np.asarray(self.shard_rows, dtype=np.int64)
        shard, begin, end = _cut(rows, min(self.chunk_rows, self.window_rows))
        return (np.cumsum(rows) - rows)[shard] + begin, end - begin, shard

    def lanes_of(self, rank: int, world_size: int) -> range:
        """The lanes that one rank serves."""
        return range(rank, self.num_lanes, world_size)

    def positions(self, rank: int, world_size: int) -> NDArray[np.int32]:
        """[b] places in the global batch of the rank's rows, lane by lane."""
        lanes = np.arange(rank, self.num_lanes, world_size)[:, None]
        return (lanes * self.rows_per_step + np.arange(self.rows_per_step)).ravel().astype(np.int32)

    def epochs_at(self, step: int, rank: int, world_size: int) -> NDArray[np.int64]:
        """[b] the epoch that each of the rank's rows of a global batch belongs to."""
        places = range(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        return np.array([self._locate(lane, n)[0] for lane in self.lanes_of(rank, world_size) for n in places])

    def epoch_of(self, step: int) -> float:
        """Passes over the data that are done before this step."""
        return step * self.batch_size / self.num_rows

    def steps_for(self, epochs: float) -> int:
        """Steps in so many epochs, at least one."""
        return max(1, round(epochs * self.num_rows / self.batch_size))

    def window(self, lane: int, superstep: int) -> tuple[list[Run], NDArray[np.int64]]:
        """What one lane trains on in one superstep.

        Returns:
            The runs to fetch, and the order [steps_per_superstep * rows_per_step] in which the rows that they give
            (:meth:`rows_of`), numbered through all runs, are trained on.
        """
        runs = list(self._runs(lane, superstep * self.window_rows, self.window_rows))
        generator = np.random.default_rng((self.seed, 1, lane, superstep))
        order, begin = [], 0
        for epoch in sorted({run.epoch for run in runs}):
            rows = sum(run.count for run in runs if run.epoch == epoch)
            order.append(begin + generator.permutation(rows))
            begin += rows
        return runs, np.concatenate(order)

    def rows_of(self, run: Run, labels_n: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids that a run gives, and how often each came before; ``labels_n`` are those of the ids it spans."""
        if run.part is None or self.balance is None:
            return run.first_id + np.arange(run.rows), np.full(run.rows, run.epoch)
        chunk, begin, end = run.part
        labels_n = without_left_out(self.fold, run.first_id, labels_n)
        rows, visits = self.balance.rows_of_chunk(chunk, run.epoch, labels_n)
        return run.first_id + rows[begin:end], visits[begin:end]

    def _runs(self, lane: int, position: int, count: int) -> Iterator[Run]:
        """Cut rows [position, position + count) of the lane's endless stream into consecutive ids."""
        while count > 0:
            epoch, offset = self._locate(lane, position)
            begin, end = self._lane_bounds(lane, epoch)
            # Turned, so that the whole pieces, which come first, begin where a window begins.
            lead = -self._lane_start(lane, epoch) % self.window_rows
            turned = (offset - lead) % (end - begin)
            take = min(count, end - begin - max(offset, turned))
            yield from self._runs_in_epoch(epoch, begin + turned, take)
            position, count = position + take, count - take

    def _runs_in_epoch(self, epoch: int, begin: int, count: int) -> Iterator[Run]:
        chunk_u, begin_u, ends_u = _epoch_order(self, epoch)
        first_k, rows_k, shard_k = self.chunks
        u = int(np.searchsorted(ends_u, begin, side="right"))
        while count > 0:
            chunk, left = int(chunk_u[u]), int(ends_u[u]) - begin
            size = int(ends_u[u] - (ends_u[u - 1] if u else 0))
            skip, take = int(begin_u[u]) + size - left, min(count, left)
            first, rows, part = int(first_k[chunk]) + skip, take, None
            if self.balance:
                first, rows, part = int(first_k[chunk]), int(rows_k[chunk]), (chunk, skip, skip + take)
            yield Run(epoch=epoch, shard=int(shard_k[chunk]), first_id=first, rows=rows, part=part)
            begin, count, u = begin + take, count - take, u + 1

    def _lane_start(self, lane: int, epoch: int) -> int:
        """Rows that the lane gave before this epoch: N // L an epoch, and each odd row to the next lane round."""
        whole, odd = divmod(self.num_rows, self.num_lanes)
        return epoch * whole + (epoch * odd + self.num_lanes - 1 - lane) // self.num_lanes

    def _lane_rows(self, lane: int, epoch: int) -> int:
        return self._lane_start(lane, epoch + 1) - self._lane_start(lane, epoch)

    def _lane_bounds(self, lane: int, epoch: int) -> tuple[int, int]:
        """The lane's part [begin, end) of the epoch's N rows."""
        begin = sum(self._lane_rows(before, epoch) for before in range(lane))
        return begin, begin + self._lane_rows(lane, epoch)

    def _locate(self, lane: int, position: int) -> tuple[int, int]:
        """The (epoch, row in the lane's part of it) of a position in the lane's endless stream."""
        epoch = position * self.num_lanes // self.num_rows
        while self._lane_start(lane, epoch) > position:
            epoch -= 1
        while self._lane_start(lane, epoch + 1) <= position:
            epoch += 1
        return epoch, position - self._lane_start(lane, epoch)


def left_out(fold: tuple[int, int] | None, num_rows: int) -> range:
    """The ids that a fold leaves out.

    Args:
        fold: (k, K): ids k, k + K, k + 2 K, ..., 0 <= k < K; None leaves nothing out.
        num_rows: Ids are 0..num_rows - 1.
    """
    return range(0) if fold is None else range(fold[0], num_rows, fold[1])


def without_left_out(fold: tuple[int, int] | None, first_id: int, labels_n: NDArray[np.integer]) -> NDArray[np.integer]:
    """[n] labels of consecutive ids, -1 where a row is left out.

    Args:
        fold: See :func:`left_out`.
        first_id: The first of them, >= 0.
        labels_n: [n] class indices.
    """
    if fold is None:
        return labels_n
    labels_n = labels_n.copy()
    labels_n[(fold[0] - first_id) % fold[1] :: fold[1]] = -1
    return labels_n


@lru_cache(maxsize=4)
def _epoch_order(plan: Plan, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The epoch's pieces in their order: chunk, first of the chunk's rows, and the row of the epoch where each ends.

    Of every lane the whole pieces come first, by turns one of the first and one of the second half of its stretch.
    """
    given_k = plan.balance.rows_of_chunks(epoch) if plan.balance else plan.chunks[1]
    chunk_p, begin_p, end_p = _cut(given_k, plan.piece_rows)
    generator = np.random.default_rng((plan.seed, 0, epoch))
    stretch_p = (np.cumsum(end_p - begin_p) - 1) * plan.num_lanes // plan.num_rows
    turned_p = (stretch_p + generator.integers(plan.num_lanes)) % plan.num_lanes
    order_p = np.lexsort((generator.random(len(chunk_p)), turned_p))
    lane_ends = np.cumsum([plan._lane_rows(lane, epoch) for lane in range(plan.num_lanes)])
    chunk_p, begin_p, rows_p, lane_p = _cut_at(
        lane_ends, chunk_p[order_p], begin_p[order_p], (end_p - begin_p)[order_p]
    )
    kind_p = 2 * lane_p + (rows_p != plan.piece_rows)
    half_p = 2 * _ranks(kind_p, chunk_p * plan.num_rows + begin_p) // np.bincount(kind_p)[kind_p]
    turn_p = _ranks(2 * kind_p + half_p, generator.random(len(kind_p)))
    order_p = np.lexsort((half_p, turn_p, kind_p))
    return chunk_p[order_p], begin_p[order_p], np.cumsum(rows_p[order_p])


def _cut(rows: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(whose, begin, end) of the pieces of ``most``, the last maybe less, that each number of rows is cut into."""
    pieces = -(-rows // most)
    whose = np.repeat(np.arange(len(rows)), pieces)
    begin = (np.arange(len(whose)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * most
    return whose, begin, np.minimum(begin + most, rows[whose])


def _cut_at(
    cuts: NDArray[np.int64], chunk_p: NDArray[np.int64], begin_p: NDArray[np.int64], rows_p: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(chunk, begin, rows, and before which cut) of pieces laid end to end and cut at some places."""
    ends_p = np.cumsum(rows_p)
    end_q = np.union1d(ends_p, cuts)
    p_q, rows_q = np.searchsorted(ends_p, end_q), np.diff(end_q, prepend=0)
    begin_q = begin_p[p_q] + rows_p[p_q] - (ends_p[p_q] - end_q) - rows_q
    return chunk_p[p_q], begin_q, rows_q, np.searchsorted(cuts, end_q)


def _ranks(group_p: NDArray[np.int64], key_p: NDArray[Any]) -> NDArray[np.int64]:
    """The place of each by its key inside its group."""
    order = np.lexsort((key_p, group_p))
    sorted_groups, ranks = group_p[order], np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.searchsorted(sorted_groups, sorted_groups)
    return ranks
