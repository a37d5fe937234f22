"""The graph of a data set that rows were added to, made from the old one: bit for bit what a new search would give.

Old training samples keep their ids, and the new ones follow them. So a list changes only where a new sample is nearer
than its last neighbour, or as far and sooner by turn: the turns of old samples keep their order when N grows.
N = training samples, n = old ones of a part, m = those of them with a new neighbour, K = neighbours.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.exact_search import PointSet
from ldlva_dist.index.graph import GraphInfo, graph_infos, part_ids, read_part, write_part, writing
from ldlva_dist.index.nearest import Floats, Ids, Nearest, merge_nearest

BLOCK_ROWS = 1 << 16
"""Old samples whose lists are mended together; with K = 32 some 100 MB."""


def extend_graphs(old: Dataset, new: Dataset) -> None:
    """Give a data set the graphs of the one that its rows were added to. Imported graphs are left out.

    Args:
        old: Data set with graphs, or none.
        new: The same with more rows, and the same measure of distance.
    """
    graphs = [found for found in graph_infos(old.uri) if found[1].content_hash == old.info.content_hash]
    graphs = [(folder, graph) for folder, graph in graphs if not graph.imported]
    if not graphs:
        return
    points_N2 = new.va(0, new.info.num_train)
    everyone, added = (_points_from(points_N2, first) for first in (0, old.info.num_train))
    for folder, graph in graphs:
        grown = dataclasses.replace(graph, num_samples=len(points_N2), content_hash=new.info.content_hash, checksums={})
        with writing(new.uri, grown) as checksums:
            for part, ids_n in enumerate(part_ids(grown)):
                fresh = everyone.search_samples(ids_n[ids_n >= graph.num_samples], graph.num_neighbors)
                if ids_n[0] < graph.num_samples:
                    kept = _mended(folder, graph, part, points_N2, added)
                    fresh = Nearest(
                        ids=np.concatenate([kept.ids, fresh.ids]), squared=np.concatenate([kept.squared, fresh.squared])
                    )
                checksums |= write_part(new.uri, grown, part, fresh.ids, fresh.squared)


def _points_from(points_N2: NDArray[np.float32], first: int) -> PointSet:
    return PointSet(np.arange(first, len(points_N2)), points_N2[first:], len(points_N2))


def _mended(folder: str, graph: GraphInfo, part: int, points_N2: NDArray[np.float32], added: PointSet) -> Nearest:
    """The lists of one part of the old graph, with the new samples that belong there."""
    ids_nK, squared_nK = read_part(folder, graph, part)
    ids_nK, squared_nK = np.array(ids_nK), np.array(squared_nK)  # stored ones may be mapped, and read-only
    first = graph.rows_of(part).start
    for begin in range(0, len(ids_nK), BLOCK_ROWS):
        rows = slice(begin, begin + BLOCK_ROWS)
        own_n = np.arange(first + begin, first + begin + len(ids_nK[rows]))
        place_m, merged = _with_new(own_n, ids_nK[rows], points_N2, added)
        ids_nK[rows][place_m], squared_nK[rows][place_m] = merged.ids, merged.squared
    return Nearest(ids=ids_nK, squared=squared_nK)


def _with_new(
    own_n: Ids, ids_nK: NDArray[np.int32], points_N2: NDArray[np.float32], added: PointSet
) -> tuple[Ids, Nearest]:
    """Which of the samples ``own_n`` get a new neighbour, and the lists [m, K] of those."""
    points_n2, k = points_N2[own_n], ids_nK.shape[1]
    radius_n1 = _squared(points_n2, points_N2[ids_nK[:, -1:]])
    place_m = np.flatnonzero(added.search_points(points_n2, own_n, 1).squared <= radius_n1)
    known_mK = ids_nK[place_m].astype(np.int64)
    known = Nearest(ids=known_mK, squared=_squared(points_n2[place_m], points_N2[known_mK]))
    near = added.search_points(points_n2[place_m], own_n[place_m], k)
    return place_m, merge_nearest(known, near, own_n[place_m], len(points_N2))


def _squared(points_n2: NDArray[np.float32], others_nk2: NDArray[np.float32]) -> Floats:
    """[n, k] in float64, as ``exact_search`` has them: a graph stores them rounded, which hides what is nearer."""
    difference_nk2 = others_nk2.astype(np.float64) - points_n2[:, None].astype(np.float64)
    return np.square(difference_nk2[..., 0]) + np.square(difference_nk2[..., 1])
