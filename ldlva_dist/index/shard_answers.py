"""What the shards of an index say about themselves and to each other, and how their answers become that of one index.

N = all samples, S = shards, n = samples asked about, m = those of them that a shard holds, r = those that reach other
boxes, d = dimensions, k = neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.index.backends import Backend, Points
from ldlva_dist.index.exact_search import squared_length
from ldlva_dist.index.nearest import Floats, Ids, Nearest, merge_nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexShardFacts:
    """What a shard holds of one version."""

    num_samples: int
    """Samples held."""
    bounds: Floats
    """[2, d] the box around its points."""
    backend: Backend
    most_effort: int
    """Effort with which an approximate index looks at every point; 0 for one that always does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """What one version of an index is."""

    version: int
    num_samples: int
    shards: tuple[IndexShardFacts, ...]
    recall: float = 1.0
    """Share of the true neighbours found, measured where an index is approximate; else nothing is missed."""
    effort: int = 0
    """Effort of each search: ``nprobe`` of IVF's lists, ``efSearch`` of HNSW in units of 32; 0 for exact indexes."""

    @property
    def most_effort(self) -> int:
        """Effort with which all shards look at every point."""
        return max(shard.most_effort for shard in self.shards)

    @property
    def compares_everything(self) -> bool:
        """Whether each search looks at every point, be it asked for or because no less finds enough."""
        return self.effort == self.most_effort

    @property
    def bounds(self) -> Floats:
        """[S, 2, d] the box around each shard's points."""
        return np.stack([shard.bounds for shard in self.shards])


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The answer to a search."""

    version: int
    """Version of the index that the whole answer is from."""
    ids: Ids
    """[n, k] nearest first, equally far ones by id."""
    squared: Floats
    """[n, k] squared Euclidean distances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAnswer:
    """A shard's answer about those samples of a question that it holds."""

    place: Ids
    """[m] place of each sample in the question."""
    ids: NDArray[np.int32]
    """[m, k]"""
    squared: NDArray[np.float32]
    """[m, k]"""
    border: "BorderQueries"
    """Those of the samples whose neighbours may lie in other shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BorderQueries:
    """Samples of one shard that reach the boxes of other shards, and their neighbours known so far."""

    shard: int
    place: Ids
    """[r] place of each sample in the question."""
    ids: Ids
    """[r] ids of the samples."""
    points: Points
    """[r, d]"""
    known: Nearest
    """[r, k]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BorderAnswer:
    """Nearest samples of another shard for the border queries of one."""

    place: Ids
    """[r] place in the question of each query that reaches the other shard's box."""
    found: Nearest
    """[r, k]"""


def join_answers(
    ids_n: Ids, num_samples: int, answers: Sequence[LocalAnswer | list[BorderAnswer]]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The answers of all shards about ``ids_n`` put together.

    Args:
        ids_n: Samples asked about.
        num_samples: N, for ties.
        answers: Local answers and border answers of all shards, in any order.

    Returns:
        Neighbour ids [n, k] and squared distances [n, k], as one index has them.
    """
    parts = [answer for answer in answers if isinstance(answer, LocalAnswer)]
    if len(parts) == 1:
        return parts[0].ids, parts[0].squared
    k = parts[0].ids.shape[1]
    ids_nk, squared_nk = np.empty((len(ids_n), k), dtype=np.int32), np.empty((len(ids_n), k), dtype=np.float32)
    for part in parts:
        ids_nk[part.place], squared_nk[part.place] = part.ids, part.squared

    place = np.sort(np.concatenate([part.border.place for part in parts]))
    best = Nearest(ids=np.empty((len(place), k), dtype=np.int64), squared=np.empty((len(place), k)))
    for part in parts:
        rows = np.searchsorted(place, part.border.place)
        best.ids[rows], best.squared[rows] = part.border.known.ids, part.border.known.squared
    for border in (one for answer in answers if not isinstance(answer, LocalAnswer) for one in answer):
        rows = np.searchsorted(place, border.place)
        merged = merge_nearest(best.rows(rows), border.found, ids_n[border.place], num_samples)
        best.ids[rows], best.squared[rows] = merged.ids, merged.squared
    ids_nk[place], squared_nk[place] = best.ids, best.squared
    return ids_nk, squared_nk


def reaches_boxes(points_nd: Points, radius_n: Floats, bounds_S2d: Floats) -> NDArray[np.bool_]:
    """[n, S] whether a box has room for a neighbour that is as near as the last one known."""
    reached = [box_distance(points_nd, bounds_2d) <= radius_n for bounds_2d in bounds_S2d]
    return np.stack(reached, axis=1) if reached else np.zeros((len(points_nd), 0), dtype=bool)


def box_distance(points_nd: Points, bounds_2d: Floats) -> Floats:
    """[n] never more than the squared distance of any point in the box, as both are rounded alike."""
    low_d, high_d = bounds_2d
    return squared_length(np.maximum(np.maximum(low_d - points_nd, points_nd - high_d), 0))
