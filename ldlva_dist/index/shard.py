"""One part of a sharded index, and how the parts together answer as one would.

A shard answers its own samples from its own points. A query whose last neighbour is farther than the box of another
shard's points is answered by that shard too, and the answers are merged. In the plane boxes do not overlap and few
queries reach another one; in a feature space cut by id all boxes overlap, and every shard is asked.

S = shards, n = samples asked about, m = those of them that a shard holds, r = those that reach other boxes,
d = dimensions, k = neighbours.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import NeighborServiceError
from ldlva_dist.index.backends import ApproximateIndex, Backend, Points, build_index, resolve_backend
from ldlva_dist.index.exact_search import PointSet
from ldlva_dist.index.nearest import Floats, Ids, Nearest
from ldlva_dist.index.plane_cut import Box, cut_dataset
from ldlva_dist.index.shard_answers import (
    BorderAnswer,
    BorderQueries,
    IndexShardFacts,
    LocalAnswer,
    join_answers,
    reaches_boxes,
)

Load = Callable[[], tuple[Ids, Points]]


class IndexShard:
    """Holds the old and the new version of its part for as long as both are needed."""

    def __init__(self, number: int, backend: Backend = "auto", *, min_recall: float = 1.0):
        self._number, self._min_recall = number, min_recall
        self._backend: Backend = backend
        self._sets: dict[int, PointSet] = {}
        self._coming: Points | None = None
        self._came = 0

    def versions(self) -> list[int]:
        """The versions held."""
        return sorted(self._sets)

    def cut(self, dataset: Dataset, num_boxes: int) -> list[Box]:
        """Where to cut a data set's plane."""
        return cut_dataset(dataset, num_boxes)

    def take_rows(self, first: int, stop: int, at: int, rows: Points) -> None:
        """Copy points of the samples at, at + 1, ... to those of first..stop-1; they come in the order of their ids.

        The first of them makes room for all.
        """
        if at == first:
            self._coming, self._came = np.empty((stop - first, rows.shape[1]), dtype=rows.dtype), 0
        if self._coming is None or at - first != self._came or not np.isfinite(rows).all():
            raise NeighborServiceError(f"rows of samples {at}.. must be given in their order, once each and finite")
        self._coming[at - first :][: len(rows)] = rows
        self._came += len(rows)

    def prepare_rows(self, version: int, num_samples: int, first: int, stop: int) -> IndexShardFacts:
        """Build a version beside the others of the samples first..stop-1, whose points were taken."""
        points, self._coming = self._coming, None
        if points is None or self._came != stop - first or len(points) != stop - first:
            raise NeighborServiceError(f"rows of samples {first}..{stop - 1} must be given, got {self._came}")
        return self.prepare(version, num_samples, lambda: (np.arange(first, stop), points))

    def prepare(self, version: int, num_samples: int, load: Load) -> IndexShardFacts:
        """Build a version beside the others from what ``load()`` gives: ids, ascending, and their points."""
        ids, points = load()
        backend = resolve_backend(self._backend, points.shape[1])
        make = partial(build_index, backend=backend, min_recall=self._min_recall)
        built = PointSet(ids, points, num_samples, make)
        self._sets[version] = built
        most_effort = built.index.most_effort if isinstance(built.index, ApproximateIndex) else 0
        return IndexShardFacts(num_samples=len(ids), bounds=built.bounds(), backend=backend, most_effort=most_effort)

    def set_effort(self, version: int, effort: int) -> None:
        """How much of an approximate index a version's searches look at from now on; others miss nothing anyway."""
        index = self._set(version).index
        if isinstance(index, ApproximateIndex):
            index.set_effort(effort)

    def keep(self, versions: Sequence[int]) -> None:
        """Free all other versions, and what exact searches of these needed."""
        self._sets = {version: held for version, held in self._sets.items() if version in versions}
        for held in self._sets.values():
            held.free_exhaustive()

    def search_local(self, version: int, ids_n: Ids, k: int, bounds_S2d: Floats, exact: bool = False) -> LocalAnswer:
        """The k nearest samples held here of those of the samples that are held here.

        Args:
            version: Version of the index.
            ids_n: Samples asked about, ascending.
            k: Neighbours of each.
            bounds_S2d: Boxes of all shards' points.
            exact: Whether to miss nothing, also where the index is approximate.
        """
        held = self._set(version)
        held_n, rows_m = held.find(ids_n)
        place_m = np.flatnonzero(held_n)
        found = held.search_samples(rows_m, k, exact=exact)
        others = np.arange(len(bounds_S2d)) != self._number
        border = np.flatnonzero(reaches_boxes(held.points(rows_m), found.radius, bounds_S2d[others]).any(axis=1))
        return LocalAnswer(
            place=place_m,
            ids=found.ids,
            squared=found.squared,
            border=BorderQueries(
                shard=self._number,
                place=place_m[border],
                ids=ids_n[place_m[border]],
                points=held.points(rows_m[border]),
                known=held.in_float64(rows_m[border], found.rows(border)),
            ),
        )

    def search_border(self, version: int, k: int, exact: bool, *parts: LocalAnswer) -> list[BorderAnswer]:
        """The k nearest samples held here of the other shards' border queries; one answer for each shard with any."""
        held = self._set(version)
        bounds_12d = held.bounds()[None]
        answers = []
        for border in (part.border for part in parts if part.border.shard != self._number and len(part.border.place)):
            rows_r = np.flatnonzero(reaches_boxes(border.points, border.known.radius, bounds_12d)[:, 0])
            found = held.search_points(border.points[rows_r], border.ids[rows_r], k, exact=exact)
            answers.append(BorderAnswer(place=border.place[rows_r], found=found))
        return answers

    def search_points(self, version: int, points_nd: Points, k: int) -> Nearest:
        """The nearest samples held here of new points; equally far ones by id."""
        return self._set(version).search_points(points_nd, np.zeros(len(points_nd), dtype=np.int64), k)

    def finish(self, then: Callable[..., Any], ids_n: Ids, num_samples: int, *answers: Any) -> tuple[Any, None]:
        """What ``then`` makes of the neighbour ids and squared distances [n, k] that all shards together found.

        The second value says that it is done to one who does not want to see the first.
        """
        return then(*join_answers(ids_n, num_samples, answers)), None

    def stack(self, *rows: NDArray[Any]) -> tuple[NDArray[Any], None]:
        """One array of several that follow each other."""
        return np.concatenate(rows), None

    def _set(self, version: int) -> PointSet:
        if version not in self._sets:
            raise NeighborServiceError(
                f"index version {version} is asked for, held are {self.versions()}: a lost shard comes back empty"
            )
        return self._sets[version]


def answer_in_process(
    shards: Sequence[IndexShard], version: int, ids_n: Ids, k: int, facts: Sequence[IndexShardFacts]
) -> list[Any]:
    """What all shards answer about some samples, one after the other in this process; for :func:`join_answers`."""
    bounds_S2d = np.stack([fact.bounds for fact in facts])
    parts = [shard.search_local(version, ids_n, k, bounds_S2d) for shard in shards]
    return [*parts, *(shard.search_border(version, k, False, *parts) for shard in shards)]
