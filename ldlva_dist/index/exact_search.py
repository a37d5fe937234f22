"""Exact nearest neighbours among points that may lie on one another by the thousand.

N = all samples, M = those held here, n = queries, U = distinct points, d = dimensions, b = queries of one block,
q = candidate points per query, k = neighbours.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.errors import SettingError
from ldlva_dist.index.backends import KDTREE_MAX_DIMENSIONS, Index, Points, build_index, exhaustive_on_cpu
from ldlva_dist.index.nearest import Floats, Ids, Nearest, empty_result, pad_to
from ldlva_dist.index.ties import SamplesByPoint, z_order

BLOCK_PAIRS = 1 << 17
BLOCK_VALUES = 1 << 17
"""Numbers in float64 at a time that fit a core's cache."""
NEAR = 1e-9  # a candidate that is farther by less than this share is not yet known to be farther


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queries:
    ids: Ids
    """[n] where each begins to count round among samples that are equally far."""
    points: Points
    """[n, d]"""
    point: Ids
    """[n] number of the point that each sample lies on; -1 for queries that are no samples of the set."""

    def rows(self, rows_b: Ids) -> "_Queries":
        return _Queries(ids=self.ids[rows_b], points=self.points[rows_b], point=self.point[rows_b])

    @property
    def are_samples(self) -> bool:
        return bool(self.point[0] >= 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidates:
    """Distinct points, nearest first by squared distances in float64, whatever the index's own are."""

    point: Ids
    """[b, q]"""
    squared: Floats
    """[b, q]; of those that are farther than all that are asked for, what they are not below"""
    uneven: Ids
    """Queries some of whose candidates are equally far, or were out of order."""

    def rows(self, rows_s: Ids) -> "_Candidates":
        return _Candidates(point=self.point[rows_s], squared=self.squared[rows_s], uneven=self.uneven[:0])


class PointSet:
    """Some of N samples and their points, ready to be asked for neighbours. Only distinct points are indexed."""

    def __init__(
        self, ids_M: Ids, points_Md: Points, num_samples: int, make_index: Callable[[Points], Index] = build_index
    ) -> None:
        """``ids_M`` ascend; the points are finite and of one dtype in all sets of the N samples."""
        self.ids, self._samples = ids_M, SamplesByPoint(ids_M, points_Md, num_samples)
        self._distinct_Ud = points_Md[self._samples.row_U]
        in_few = points_Md.shape[1] <= KDTREE_MAX_DIMENSIONS
        self._columns_dU = list(self._distinct_Ud.astype(np.float64).T.copy()) if in_few else []
        self.index = make_index(self._distinct_Ud) if len(ids_M) else None
        self._exhaustive: Index | None = None

    def find(self, ids_n: Ids) -> tuple[NDArray[np.bool_], Ids]:
        """[n] which of the samples are held here, and the rows of those."""
        row_n = np.searchsorted(self.ids, ids_n)
        held_n = np.append(self.ids, -1)[row_n] == ids_n
        return held_n, row_n[held_n]

    def points(self, rows_n: Ids) -> Points:
        """[n, d] points of samples by row."""
        return self._distinct_Ud[self._samples.point_M[rows_n]]

    def bounds(self) -> Floats:
        """[2, d] the box around the points; where there are none, one that nothing reaches."""
        if not len(self.ids):
            return np.repeat([[np.inf], [-np.inf]], self._distinct_Ud.shape[1], axis=1)
        return np.stack([self._distinct_Ud.min(axis=0), self._distinct_Ud.max(axis=0)]).astype(np.float64)

    def search_samples(self, rows_n: Ids, k: int, *, exact: bool = False) -> Nearest:
        """The k nearest other samples of samples of the set, in the types of a graph: int32 and float32.

        With ``exact`` nothing is missed, also where the index is approximate. Float64 is kept of a block only: what a
        large answer would cost most is the first touch of its memory.
        """
        point_n = self._samples.point_M[rows_n]
        queries = _Queries(ids=self.ids[rows_n], points=self._distinct_Ud[point_n], point=point_n)
        shape = len(rows_n), max(0, min(k, len(self.ids) - 1))
        found = Nearest(ids=np.empty(shape, dtype=np.int32), squared=np.zeros(shape, dtype=np.float32))
        if found.ids.size:
            order_n, room = np.argsort(point_n), shape[1]
            crowded_n = self._samples.count_U[point_n[order_n]] > room
            for rows in _blocks(order_n[crowded_n], room):
                found.ids[rows] = self._samples.next_on(point_n[rows], queries.ids[rows], room)
            self._answer(found, queries, order_n[~crowded_n], exact=exact)
        return pad_to(found, k)

    def in_float64(self, rows_n: Ids, found: Nearest) -> Nearest:
        """What was found of samples of the set, with distances that can be compared with those of other sets."""
        row_nk = np.searchsorted(self.ids, found.ids)
        point_nk = self._samples.point_M[np.minimum(row_nk, len(self.ids) - 1)]
        squared_nk = np.where(found.ids < 0, np.inf, self._squared(self.points(rows_n), point_nk))
        return Nearest(ids=found.ids.astype(np.int64), squared=squared_nk)

    def search_points(self, points_nd: Points, ids_n: Ids, k: int, *, exact: bool = False) -> Nearest:
        """The k nearest samples of points that are no samples of the set; ties are counted from ``ids_n``."""
        queries = _Queries(ids=ids_n, points=points_nd, point=np.full(len(points_nd), -1))
        room = min(k, len(self.ids))
        if not len(points_nd) or room < 1:
            return empty_result(len(points_nd), k)
        found = Nearest(ids=np.empty((len(points_nd), room), dtype=np.int64), squared=np.empty((len(points_nd), room)))
        order_n = np.argsort(z_order(points_nd)) if points_nd.shape[1] == 2 else np.arange(len(points_nd))
        self._answer(found, queries, order_n, exact=exact)
        return pad_to(found, k)

    def free_exhaustive(self) -> None:
        """Free what more ties than the GPU can list needed."""
        self._exhaustive = None

    def _answer(self, found: Nearest, queries: _Queries, todo: Ids, *, exact: bool) -> None:
        """Fill in the queries ``todo``; those that are not sure are asked again with twice the candidates."""
        k, num_points = found.ids.shape[1], len(self._distinct_Ud)
        width = min(k + 1 + self._index_for(k, exact).spare, num_points)
        while len(todo):
            index = self._index_for(width, exact)
            todo = np.concatenate([self._fill(found, queries, rows, width, index) for rows in _blocks(todo, width)])
            width = min(2 * width, num_points)

    def _index_for(self, width: int, exact: bool) -> Index:
        """The index, with all effort where that is asked for; another one for more ties than the GPU can list."""
        assert self.index is not None, "a set without samples has no index"
        index = self.index.exhaustive if exact else self.index
        if width <= index.max_k:
            return index
        if self._exhaustive is None:
            self._exhaustive = build_index(self._distinct_Ud, exhaustive_on_cpu(self._distinct_Ud.shape[1]))
        return self._exhaustive

    def _fill(self, found: Nearest, queries: _Queries, rows_b: Ids, width: int, index: Index) -> Ids:
        """Fill in what the ``width`` nearest distinct points prove; the rows of the queries for which that is too few.

        Most queries are plain: one sample on each candidate, and no two equally far. In the others samples take turns.
        """
        asked = queries.rows(rows_b)
        begin = int(queries.are_samples)  # the first candidate is the sample itself
        end = begin + found.ids.shape[1]
        near = self._candidates(asked.points, width, end, index)
        is_plain_b = np.zeros(len(rows_b), dtype=bool)
        if width > end:
            is_plain_b = self._suffice(asked, near, near.squared[:, end - 1], index)
            is_plain_b &= near.point[:, 0] == asked.point if begin else True
            is_plain_b[near.uneven] = False
            if self._samples.some_share:
                is_plain_b[_rows_with(self._samples.count_U[near.point[:, :end]] > 1)] = False
            found.ids[rows_b] = self._samples.first_U[near.point[:, begin:end]]
            found.squared[rows_b] = near.squared[:, begin:end]
        special = np.flatnonzero(~is_plain_b)
        if not len(special):
            return special
        return self._take_turns(found, asked.rows(special), rows_b[special], near.rows(special), index)

    def _take_turns(self, found: Nearest, asked: _Queries, rows_b: Ids, near: _Candidates, index: Index) -> Ids:
        """Fill in queries with candidates that many samples share or that are equally far; the rows that need more."""
        k = found.ids.shape[1]
        others_bq = self._samples.count_U[near.point] - (near.point == asked.point[:, None])
        reached_bq = np.cumsum(others_bq, axis=1) >= k
        radius_b = near.squared[np.arange(len(rows_b)), reached_bq.argmax(axis=1)]
        is_sure_b = reached_bq[:, -1] & self._suffice(asked, near, radius_b, index)
        sure = np.flatnonzero(is_sure_b)
        if len(sure):
            within_bq = np.where(near.squared[sure] <= radius_b[sure, None], near.squared[sure], np.inf)
            turns = self._samples.by_turn(asked.ids[sure], near.point[sure], within_bq, k, skip_self=asked.are_samples)
            found.ids[rows_b[sure]], found.squared[rows_b[sure]] = turns.ids, turns.squared
        return rows_b[~is_sure_b]

    def _suffice(self, asked: _Queries, near: _Candidates, radius_b: Floats, index: Index) -> NDArray[np.bool_]:
        """[b] whether no point but the candidates can lie within the squared radius."""
        if near.point.shape[1] == len(self._distinct_Ud) or not index.exact:
            return np.ones(len(radius_b), dtype=bool)
        return radius_b * (1 + NEAR) + 2 * index.error(asked.points, radius_b) < near.squared[:, -1]

    def _candidates(self, points_bd: Points, width: int, wanted: int, index: Index) -> _Candidates:
        """The ``width`` points that the index finds, of which the first ``wanted`` are asked for."""
        found_bq, point_bq = index.search(points_bd, width)
        if wanted < width and index.exact and not self._columns_dU:
            squared_bq = self._squared_where_near(points_bd, point_bq, found_bq, wanted, index)
        else:
            squared_bq = self._squared(points_bd, point_bq)
        uneven = _rows_with(squared_bq[:, 1:] <= squared_bq[:, :-1])
        order = np.argsort(squared_bq[uneven], axis=1, kind="stable")
        point_bq[uneven] = np.take_along_axis(point_bq[uneven], order, axis=1)
        squared_bq[uneven] = np.take_along_axis(squared_bq[uneven], order, axis=1)
        return _Candidates(point=point_bq, squared=squared_bq, uneven=uneven)

    def _squared_where_near(
        self, points_bd: Points, point_bq: Ids, found_bq: NDArray[np.float32], wanted: int, index: Index
    ) -> Floats:
        """[b, q] squared distances of all that may be among the first ``wanted``; of others what they are not below.

        In many dimensions float64 costs more than the search. Most candidates are farther, by more than the index errs,
        than the last one that is wanted.
        """
        last_b1 = found_bq[:, [wanted - 1]].astype(np.float64)
        error_b1 = index.error(points_bd, last_b1[:, 0])[:, None]
        squared_bq = found_bq - error_b1
        row_e, column_e = np.nonzero(squared_bq[:, wanted:] <= last_b1 + error_b1)
        squared_bq[:, :wanted] = self._squared(points_bd, point_bq[:, :wanted])
        column_e += wanted
        squared_bq[row_e, column_e] = self._squared(points_bd[row_e], point_bq[row_e, column_e][:, None])[:, 0]
        return squared_bq

    def _squared(self, points_bd: Points, point_bq: Ids) -> Floats:
        """[b, q] the same number for a pair of points whoever of them asks, and whatever set they are in."""
        squared_bq = np.zeros(point_bq.shape)
        for axis, column_U in enumerate(self._columns_dU):
            squared_bq += np.square(column_U[point_bq] - points_bd[:, [axis]].astype(np.float64))
        if not self._columns_dU:
            for rows in _blocks(np.arange(len(point_bq)), point_bq.shape[1] * points_bd.shape[1], BLOCK_VALUES):
                points_r1d = points_bd[rows, None].astype(np.float64)
                squared_bq[rows] = squared_length(self._distinct_Ud[point_bq[rows]] - points_r1d)
        return squared_bq


def check_k(k: int, num_samples: int) -> None:
    """Refuse more neighbours than there are other samples."""
    if not 0 < k < num_samples:
        raise SettingError(
            f"neighbors.num_neighbors must be > 0 and < the number of training samples ({num_samples}), got {k}"
        )


def check_va(points_N2: Points) -> None:
    """Refuse samples without valence-arousal."""
    num_missing = np.count_nonzero(~np.isfinite(points_N2).all(axis=1))
    if num_missing:
        raise SettingError(
            "a recipe with neighbours (loss.recipe official, paper or posterior) must have valence-arousal for every "
            f"training sample, got none for {num_missing} of {len(points_N2)}"
        )


def squared_length(vectors: Floats) -> Floats:
    """Sums of squares over the last axis, always in the same order: what is shorter in every axis is not longer."""
    if vectors.shape[-1] <= KDTREE_MAX_DIMENSIONS:  # as the columns are added up there
        return np.square(vectors).sum(axis=-1)
    return np.einsum("...d,...d->...", vectors, vectors)


def _rows_with(mask_bq: NDArray[np.bool_]) -> Ids:
    """Rows with any true value; quick where there are few."""
    return np.unique(np.flatnonzero(mask_bq) // mask_bq.shape[1])


def _blocks(rows: Ids, width: int, values: int = BLOCK_PAIRS) -> Iterator[Ids]:
    size = max(1, values // width)
    return (rows[begin : begin + size] for begin in range(0, len(rows), size))
