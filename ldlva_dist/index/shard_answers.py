"""What the shards of an index say about themselves and to each other, and how their answers become that of one index.

N = all samples, S = shards, n = samples asked about, m = those of them that a shard holds, r = those that reach other
boxes, d = dimensions, k = neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.index.backends import Backend
from ldlva_dist.index.exact_search import Points, squared_length
from ldlva_dist.index.nearest import Floats, Ids, Nearest, merge


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFacts:
    """What a shard holds of one version."""

    num_samples: int
    bounds: Floats
    """[2, d] the box around its points."""
    backend: Backend
    num_cells: int
    """Cells of an IVF index; 0 for one that misses nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """What one version of an index is."""

    version: int
    num_samples: int
    shards: tuple[PartFacts, ...]
    recall: float = 1.0
    """Share of the true neighbours found, measured where shards look into cells; else nothing is missed."""
    probes: int = 0
    """Cells that each shard looks into; 0 without cells."""

    @property
    def bounds(self) -> Floats:
        """[S, 2, d] the box around each shard's points."""
        return np.stack([shard.bounds for shard in self.shards])


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer to a search."""

    version: int
    """Of the index that the whole answer is from."""
    ids: Ids
    """[n, k] nearest first, equally far ones by id."""
    squared: Floats
    """[n, k] squared Euclidean distances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A shard's answer about those samples of a question that it holds."""

    place: Ids
    """[m] where they stand in the question."""
    ids: NDArray[np.int32]
    """[m, k]"""
    squared: NDArray[np.float32]
    """[m, k]"""
    far: "Far"


@dataclass(frozen=True, slots=True, kw_only=True)
class Far:
    """Queries that reach the boxes of other shards, and the neighbours that are known so far."""

    shard: int
    place: Ids
    """[r]"""
    own: Ids
    """[r] their own ids."""
    points: Points
    """[r, d]"""
    known: Nearest
    """[r, k]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """What another shard's samples add to the far queries of one shard."""

    place: Ids
    """[r] of those that reach it."""
    found: Nearest
    """[r, k]"""


def join(
    ids_n: Ids, num_samples: int, answers: Sequence[Part | list[Help]]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Neighbour ids and squared distances [n, k] from the parts and the help of all shards, as one index has them."""
    parts = [answer for answer in answers if isinstance(answer, Part)]
    k = parts[0].ids.shape[1]
    ids_nk, squared_nk = np.empty((len(ids_n), k), dtype=np.int32), np.empty((len(ids_n), k), dtype=np.float32)
    for part in parts:
        ids_nk[part.place], squared_nk[part.place] = part.ids, part.squared

    far = np.sort(np.concatenate([part.far.place for part in parts]))
    best = Nearest(ids=np.empty((len(far), k), dtype=np.int64), squared=np.empty((len(far), k)))
    for part in parts:
        rows = np.searchsorted(far, part.far.place)
        best.ids[rows], best.squared[rows] = part.far.known.ids, part.far.known.squared
    for helped in (one for answer in answers if not isinstance(answer, Part) for one in answer):
        rows = np.searchsorted(far, helped.place)
        merged = merge(best.rows(rows), helped.found, ids_n[helped.place], num_samples)
        best.ids[rows], best.squared[rows] = merged.ids, merged.squared
    ids_nk[far], squared_nk[far] = best.ids, best.squared
    return ids_nk, squared_nk


def reached(points_nd: Points, radius_n: Floats, bounds_S2d: Floats) -> NDArray[np.bool_]:
    """[n, S] whether a box has room for a neighbour that is as near as the last one known."""
    reached = [box_distance(points_nd, bounds_2d) <= radius_n for bounds_2d in bounds_S2d]
    return np.stack(reached, axis=1) if reached else np.zeros((len(points_nd), 0), dtype=bool)


def box_distance(points_nd: Points, bounds_2d: Floats) -> Floats:
    """[n] never more than the squared distance of any point in the box, as both are rounded alike."""
    low_d, high_d = bounds_2d
    return squared_length(np.maximum(np.maximum(low_d - points_nd, points_nd - high_d), 0))
