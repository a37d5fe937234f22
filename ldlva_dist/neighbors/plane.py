"""Exact nearest neighbours in the plane, among points that may lie on one another by the thousand.

N = samples, n = rows asked for, U = distinct points, b = rows of one block, q = candidate points per row,
e = (row, candidate) pairs, k = neighbours.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.errors import SettingError
from ldlva_dist.neighbors.index import Backend, Index, KDTreeIndex, build_index

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCK_PAIRS = 1 << 19
NEAR = 1e-9  # a candidate that is farther by less than this share is not yet known to be farther
ID_BITS = 31


class PlaneNeighbors:
    """The samples of one data set, ready to be asked for neighbours.

    Only distinct points are indexed. Their numbers follow a Z-order curve: queries in that order stay in cache.
    """

    def __init__(self, points_N2: NDArray[np.float32], backend: Backend = "auto") -> None:
        finite_N = np.isfinite(points_N2).all(axis=1)
        if not finite_N.all():
            raise SettingError(
                "a recipe with neighbours (loss.recipe official or paper) must have valence-arousal for every training "
                f"sample, got none for {np.count_nonzero(~finite_N)} of {len(points_N2)}"
            )
        code_N = _z_order(points_N2)
        self._num_samples = len(points_N2)
        self._members_N = np.argsort(code_N, kind="stable")  # by distinct point, then by id
        is_first_N = np.diff(code_N[self._members_N], prepend=code_N[self._members_N[:1]] + np.uint64(1)) != 0
        self._start_U = np.flatnonzero(is_first_N)
        self._count_U = np.diff(self._start_U, append=self._num_samples)
        self._point_N = np.empty(self._num_samples, dtype=np.int64)
        self._point_N[self._members_N] = np.cumsum(is_first_N) - 1
        self._member_key_N = self._point_N[self._members_N] * self._num_samples + self._members_N
        self._distinct_U2 = points_N2[self._members_N[self._start_U]].astype(np.float32)
        self._x_U, self._y_U = self._distinct_U2.astype(np.float64).T.copy()
        self._index: Index = build_index(self._distinct_U2, backend)

    def find(self, ids_n: Ids, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k nearest other samples of each, nearest first, ties by (id - own id) mod N; and squared distances."""
        check_k(k, self._num_samples)
        found_nk = np.empty((len(ids_n), k), dtype=np.int32)
        squared_nk = np.empty((len(ids_n), k), dtype=np.float32)
        order_n = np.argsort(self._point_N[ids_n], kind="stable")
        crowded_n = self._count_U[self._point_N[ids_n[order_n]]] > k
        for rows in _blocks(order_n[crowded_n], k):
            found_nk[rows], squared_nk[rows] = self._same_point(ids_n[rows], k), 0
        todo, width = order_n[~crowded_n], min(k + 2, len(self._start_U))
        while len(todo):
            late = []
            for rows in _blocks(todo, width):
                sure_b, found_bk, squared_bk = self._search(ids_n[rows], k, width)
                found_nk[rows[sure_b]], squared_nk[rows[sure_b]] = found_bk[sure_b], squared_bk[sure_b]
                late.append(rows[~sure_b])
            todo, width = np.concatenate(late), min(2 * width, len(self._start_U))
        return found_nk, squared_nk

    def _same_point(self, ids_b: Ids, k: int) -> Ids:
        """The next k ids on a point of more than k samples, round and round: all lie at distance zero."""
        point_b = self._point_N[ids_b]
        place_bk = (self._place_after(point_b, ids_b)[:, None] + np.arange(k)) % self._count_U[point_b][:, None]
        return self._members_N[self._start_U[point_b][:, None] + place_bk]

    def _place_after(self, point_e: Ids, ids_e: Ids) -> Ids:
        """How many samples on the point have an id <= the given one."""
        key_e = point_e * self._num_samples + ids_e
        return np.searchsorted(self._member_key_N, key_e, side="right") - self._start_U[point_e]

    def _search(self, ids_b: Ids, k: int, width: int) -> tuple[NDArray[np.bool_], Ids, Floats]:
        """Answers from the ``width`` nearest distinct points, and for which rows those are provably enough."""
        own_b = self._point_N[ids_b]
        point_bq, squared_bq = self._candidates(own_b, width)
        others_bq = self._count_U[point_bq] - (point_bq == own_b[:, None])
        reached_bq = np.cumsum(others_bq, axis=1) >= k
        radius_b = squared_bq[np.arange(len(ids_b)), reached_bq.argmax(axis=1)]
        margin_b = radius_b * (1 + NEAR) + 2 * self._index.error
        sure_b = reached_bq[:, -1] & ((margin_b < squared_bq[:, -1]) | (width == len(self._start_U)))

        found_bk = np.empty((len(ids_b), k), dtype=np.int64)
        squared_bk = np.empty((len(ids_b), k), dtype=np.float64)
        plain_b = sure_b & (self._count_U[point_bq[:, : k + 1]] == 1).all(axis=1)
        plain_b &= (np.diff(squared_bq[:, : k + 2]) > 0).all(axis=1)
        if plain_b.any():  # the first candidate is the sample itself
            found_bk[plain_b] = self._members_N[self._start_U[point_bq[plain_b, 1 : k + 1]]]
            squared_bk[plain_b] = squared_bq[plain_b, 1 : k + 1]
        mixed = np.flatnonzero(sure_b & ~plain_b)
        if len(mixed):
            squared_mq = np.where(squared_bq[mixed] <= radius_b[mixed, None], squared_bq[mixed], np.inf)
            found_bk[mixed], squared_bk[mixed] = self._merge(ids_b[mixed], point_bq[mixed], squared_mq, k)
        return sure_b, found_bk, squared_bk

    def _candidates(self, own_b: Ids, width: int) -> tuple[Ids, Floats]:
        """The nearest distinct points, ordered by squared distances in float64 whatever the backend's own are."""
        if width > self._index.max_k:
            self._index = KDTreeIndex(self._distinct_U2)  # more ties than the GPU can list
        _, point_bq = self._index.search(self._distinct_U2[own_b], width)
        squared_bq = np.square(self._x_U[point_bq] - self._x_U[own_b, None])
        squared_bq += np.square(self._y_U[point_bq] - self._y_U[own_b, None])
        odd = np.flatnonzero((squared_bq[:, 1:] < squared_bq[:, :-1]).any(axis=1))
        order = np.argsort(squared_bq[odd], axis=1, kind="stable")
        point_bq[odd] = np.take_along_axis(point_bq[odd], order, axis=1)
        squared_bq[odd] = np.take_along_axis(squared_bq[odd], order, axis=1)
        return point_bq, squared_bq

    def _merge(self, ids_b: Ids, point_bq: Ids, squared_bq: Floats, k: int) -> tuple[Ids, Floats]:
        """The first k samples on the candidate points (those at infinity do not count), by distance, then by offset.

        Of a point with more than k samples only the k that come first in the tie order can matter.
        """
        width = point_bq.shape[1]
        rank_bq = np.zeros(point_bq.shape, dtype=np.int64)
        np.cumsum(squared_bq[:, 1:] > squared_bq[:, :-1], axis=1, out=rank_bq[:, 1:])
        row_e, column_e = np.nonzero(np.isfinite(squared_bq))
        point_e, rank_e = point_bq[row_e, column_e], rank_bq[row_e, column_e]
        count_e = self._count_U[point_e]
        place_e = np.zeros_like(point_e)
        many = np.flatnonzero(count_e > k)
        place_e[many] = self._place_after(point_e[many], ids_b[row_e[many]])

        pair, turn = _ragged(np.minimum(count_e, k))
        place = (place_e[pair] + turn) % count_e[pair]
        other = self._members_N[self._start_U[point_e[pair]] + place]
        offset = (other - ids_b[row_e[pair]]) % self._num_samples
        key = ((row_e * (width + 1) + rank_e)[pair] << ID_BITS | offset)[offset > 0]
        key.sort()
        begin_b = np.searchsorted(key, np.arange(len(ids_b)) * (width + 1) << ID_BITS)
        key_bk = key[begin_b[:, None] + np.arange(k)]
        offset_bk, rank_bk = key_bk & ((1 << ID_BITS) - 1), (key_bk >> ID_BITS) % (width + 1)
        by_rank_bq = np.zeros((len(ids_b), width + 1))
        np.put_along_axis(by_rank_bq, rank_bq, squared_bq, axis=1)
        return (ids_b[:, None] + offset_bk) % self._num_samples, np.take_along_axis(by_rank_bq, rank_bk, axis=1)


def check_k(k: int, num_samples: int) -> None:
    """Refuse more neighbours than there are other samples."""
    if not 0 < k < num_samples:
        raise SettingError(
            f"neighbors.num_neighbors must be > 0 and < the number of training samples ({num_samples}), got {k}"
        )


def _blocks(rows: Ids, width: int) -> Iterator[Ids]:
    size = max(1, BLOCK_PAIRS // width)
    return (rows[begin : begin + size] for begin in range(0, len(rows), size))


def _ragged(count_e: Ids) -> tuple[Ids, Ids]:
    """For counts [2, 3]: which entry [0, 0, 1, 1, 1], and its how many-th turn [0, 1, 0, 1, 2]."""
    pair = np.repeat(np.arange(len(count_e)), count_e)
    return pair, np.arange(len(pair)) - (np.cumsum(count_e) - count_e)[pair]


def _z_order(points_N2: NDArray[np.float32]) -> NDArray[np.uint64]:
    """One number per point: equal for equal points only, and close for close ones."""
    bits_N2 = (np.asarray(points_N2, dtype=np.float32) + np.float32(0)).view(np.uint32)  # -0 becomes 0
    ordered_N2 = np.where(bits_N2 >> 31, ~bits_N2, bits_N2 | np.uint32(1 << 31)).astype(np.uint64)
    for shift, mask in ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F)):
        ordered_N2 = (ordered_N2 | ordered_N2 << np.uint64(shift)) & np.uint64(mask)
    for shift, mask in ((2, 0x3333333333333333), (1, 0x5555555555555555)):
        ordered_N2 = (ordered_N2 | ordered_N2 << np.uint64(shift)) & np.uint64(mask)
    return ordered_N2[:, 0] << np.uint64(1) | ordered_N2[:, 1]
