"""Which samples lie on which distinct point, and the turns they take where they are equally far.

N = all samples, M = those held here, U = distinct points, d = dimensions, b = queries, q = candidate points per query,
e = (query, candidate) pairs, k = neighbours.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.index.nearest import Floats, Ids, Nearest

_ID_BITS = 31


class SamplesByPoint:
    """The samples on each distinct point. In the plane the points' numbers follow a Z-order curve."""

    def __init__(self, ids_M: Ids, points_Md: NDArray[np.floating[Any]], num_samples: int) -> None:
        order_M, is_first_M = _grouped(points_Md)
        self._num_samples = num_samples
        self._samples_M = ids_M[order_M]  # by point, then by id
        self._start_U = np.flatnonzero(is_first_M)
        self.count_U = np.diff(self._start_U, append=len(ids_M))
        """[U] samples on each point."""
        self.row_U = order_M[self._start_U]
        """[U] row of the one with the lowest id."""
        self.first_U = ids_M[self.row_U]
        """[U] lowest id on each point."""
        self.some_share = len(self.row_U) < len(ids_M)
        """Whether any point has more than one sample."""
        self.point_M = np.empty(len(ids_M), dtype=np.int64)
        """[M] number of the point that each sample lies on."""
        self.point_M[order_M] = np.cumsum(is_first_M) - 1
        self._key_M = self.point_M[order_M] * num_samples + self._samples_M

    def next_on(self, point_b: Ids, ids_b: Ids, k: int) -> Ids:
        """[b, k] the next ids after each query's own on its point of more than k samples, round and round."""
        place_bk = (self._place_after(point_b, ids_b)[:, None] + np.arange(k)) % self.count_U[point_b][:, None]
        return self._samples_M[self._start_U[point_b][:, None] + place_bk]

    def by_turn(self, ids_b: Ids, point_bq: Ids, squared_bq: Floats, k: int, *, skip_self: bool) -> Nearest:
        """The first k samples on the candidate points (those at infinity do not count), by distance, then by turn.

        A sample's turn is (its id - the query's) mod N. Of a point with more than k samples only the k whose turn comes
        first can matter.
        """
        width = point_bq.shape[1]
        rank_bq = np.zeros(point_bq.shape, dtype=np.int64)
        np.cumsum(squared_bq[:, 1:] > squared_bq[:, :-1], axis=1, out=rank_bq[:, 1:])
        row_e, column_e = np.nonzero(np.isfinite(squared_bq))
        point_e, rank_e = point_bq[row_e, column_e], rank_bq[row_e, column_e]
        count_e = self.count_U[point_e]
        place_e = np.zeros_like(point_e)
        many = np.flatnonzero(count_e > k)
        place_e[many] = self._place_after(point_e[many], ids_b[row_e[many]] - (not skip_self))

        pair, step = _ragged(np.minimum(count_e, k))
        place = (place_e[pair] + step) % count_e[pair]
        turn = (self._samples_M[self._start_U[point_e[pair]] + place] - ids_b[row_e[pair]]) % self._num_samples
        key = ((row_e * (width + 1) + rank_e)[pair] << _ID_BITS | turn)[turn >= skip_self]
        key.sort()
        begin_b = np.searchsorted(key, np.arange(len(point_bq)) * (width + 1) << _ID_BITS)
        key_bk = key[begin_b[:, None] + np.arange(k)]
        turn_bk, rank_bk = key_bk & ((1 << _ID_BITS) - 1), (key_bk >> _ID_BITS) % (width + 1)
        by_rank_bq = np.zeros((len(point_bq), width + 1))
        np.put_along_axis(by_rank_bq, rank_bq, squared_bq, axis=1)
        return Nearest(
            ids=(ids_b[:, None] + turn_bk) % self._num_samples,
            squared=np.take_along_axis(by_rank_bq, rank_bk, axis=1),
        )

    def _place_after(self, point_e: Ids, ids_e: Ids) -> Ids:
        """How many samples on the point have an id <= the given one."""
        key_e = point_e * self._num_samples + ids_e
        return np.searchsorted(self._key_M, key_e, side="right") - self._start_U[point_e]


def z_order(points_n2: NDArray[np.floating[Any]]) -> NDArray[np.uint64]:
    """One number per point of the plane: equal for equal points only, and close for close ones."""
    bits_n2 = (np.asarray(points_n2, dtype=np.float32) + np.float32(0)).view(np.uint32)  # -0 becomes 0
    ordered_n2 = np.where(bits_n2 >> 31, ~bits_n2, bits_n2 | np.uint32(1 << 31)).astype(np.uint64)
    for shift, mask in ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F)):
        ordered_n2 = (ordered_n2 | ordered_n2 << np.uint64(shift)) & np.uint64(mask)
    for shift, mask in ((2, 0x3333333333333333), (1, 0x5555555555555555)):
        ordered_n2 = (ordered_n2 | ordered_n2 << np.uint64(shift)) & np.uint64(mask)
    return ordered_n2[:, 0] << np.uint64(1) | ordered_n2[:, 1]


def _grouped(points_Md: NDArray[np.floating[Any]]) -> tuple[Ids, NDArray[np.bool_]]:
    """Rows in an order in which equal points follow each other, and which of them begin a point."""
    if points_Md.shape[1] == 2:
        code_M = z_order(points_Md)
    else:
        plain_Md = np.ascontiguousarray(points_Md + points_Md.dtype.type(0))  # -0 becomes 0
        code_M = plain_Md.view(f"V{plain_Md.itemsize * plain_Md.shape[1]}").ravel()
    order_M = np.argsort(code_M, kind="stable")
    is_first_M = np.ones(len(order_M), dtype=bool)
    is_first_M[1:] = code_M[order_M[1:]] != code_M[order_M[:-1]]
    return order_M, is_first_M


def _ragged(count_e: Ids) -> tuple[Ids, Ids]:
    """For counts [2, 3]: which entry [0, 0, 1, 1, 1], and its how many-th step [0, 1, 0, 1, 2]."""
    pair = np.repeat(np.arange(len(count_e)), count_e)
    return pair, np.arange(len(pair)) - (np.cumsum(count_e) - count_e)[pair]
