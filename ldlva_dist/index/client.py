"""The one who builds and asks a sharded index; data of single samples stays with its actors.

N = samples, S = shards, n = queries, d = dimensions, k = neighbours.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from ray import ObjectRef

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import NeighborServiceError, SettingError
from ldlva_dist.index.backends import Points
from ldlva_dist.index.exact_search import check_k
from ldlva_dist.index.graph import GraphInfo, part_ids, write_part, writing
from ldlva_dist.index.nearest import Ids, Nearest, empty_result, merge_nearest
from ldlva_dist.index.plane_cut import load_box
from ldlva_dist.index.queries import BLOCKS_IN_FLIGHT, KIND, SampleQueries
from ldlva_dist.index.shard_answers import IndexFacts, IndexShardFacts, SearchResult, box_distance
from ldlva_dist.runtime.waiting import get_all

GRAPH_BLOCK_ROWS = 8192
PIECE_BYTES = 128 << 20
"""Of the object store that rows on their way, or blocks of questions, may take."""
HALVES = 2
"""Pieces are half of it, as Ray may free one only while the next comes."""
BLOCKS_ALIVE = BLOCKS_IN_FLIGHT + 3
RECALL_SAMPLE = 1000


class RowSource(Protocol):
    """Vectors [N, d] of all samples, float16 or float32, handed out range by range."""

    @property
    def bounds(self) -> Sequence[int]:
        """No piece goes over one of these ids, from 0 to N."""
        ...

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample's vector."""
        ...

    def piece(self, first: int, stop: int) -> ObjectRef[Any]:
        """A reference to those [stop - first, d] of the ids first..stop-1."""
        ...


class IndexClient:
    """Builds versions, one beside the other, and asks the newest whole one.

    An index has one client. Its builds and graphs belong into one thread; another one may search meanwhile.
    """

    def __init__(
        self, shards: Sequence[Any], *, min_recall: float, timeout_s: float, piece_bytes: int = PIECE_BYTES
    ) -> None:
        """Nothing is built yet.

        Args:
            shards: Actors of the index.
            min_recall: Share of the true neighbours that an approximate index must find.
            timeout_s: Longest wait for each build, each piece of rows and each block of answers.
            piece_bytes: About what rows and answers on their way take of the object store.
        """
        self._shards, self._min_recall, self._timeout_s = shards, min_recall, timeout_s
        self._piece_bytes = piece_bytes
        self._facts: IndexFacts | None = None
        self._swapping = threading.Lock()

    @property
    def facts(self) -> IndexFacts:
        """The version that answers come from; NeighborServiceError before the first one is built."""
        if self._facts is None:
            raise NeighborServiceError("an index must be built before it is asked, got none")
        return self._facts

    def build_from_dataset(self, dataset: Dataset) -> IndexFacts:
        """A new version of the training samples' valence-arousal, which the shards read themselves."""
        cut = self._shards[0].cut.options(concurrency_group="build").remote(dataset, len(self._shards))
        [boxes] = self._all([cut], "to cut the plane", [0])

        def begin(version: int) -> list[ObjectRef[Any]]:
            return [
                shard.prepare.options(concurrency_group="build").remote(
                    version, dataset.info.num_train, partial(load_box, dataset, box)
                )
                for shard, box in zip(self._shards, boxes, strict=True)
            ]

        return self._swap(self._prepare(dataset.info.num_train, begin))

    def build_from_rows(self, rows: RowSource, *, k: int) -> IndexFacts:
        """A new version of features, cut by id; one piece of them is on its way at a time.

        Args:
            rows: Of all samples.
            k: Neighbours that will be asked for: recall is measured with them.
        """
        num_samples = rows.bounds[-1]
        check_k(k, num_samples)
        return self._swap(self._with_effort(self._prepare(num_samples, partial(self._pass_rows, rows)), k))

    def search(self, points_nd: Points, k: int) -> SearchResult:
        """The k nearest samples of new points; all from one version."""
        with self._swapping:
            facts = self.facts
            if not np.isfinite(points_nd).all() or not 0 < k <= facts.num_samples:
                raise SettingError(
                    f"points to search must be finite and k in 1..{facts.num_samples}, got k {k} and "
                    f"{np.count_nonzero(~np.isfinite(points_nd))} values that are not finite"
                )
            distance_nS = np.stack([box_distance(points_nd, bounds) for bounds in facts.bounds], axis=1)
            is_nearest_nS = distance_nS.argmin(axis=1)[:, None] == np.arange(len(self._shards))
            best = empty_result(len(points_nd), k)
            self._improve(best, facts, points_nd, is_nearest_nS)
            self._improve(best, facts, points_nd, ~is_nearest_nS & (distance_nS <= best.radius[:, None]))
        return SearchResult(version=facts.version, ids=best.ids, squared=best.squared)

    def graph(self, ranges: Sequence[tuple[int, int]], k: int) -> list[ObjectRef[Any]]:
        """References to the neighbour ids [n, k] int32 of samples first..stop-1 for each (first, stop)."""
        check_k(k, self.facts.num_samples)
        size = _block_rows(self._piece_bytes, self.facts.bounds.shape[-1], k, len(self._shards))
        cuts = [cut for ends in ranges for cut in _cuts(ends, size)]
        rows = iter(self._queries(self.facts).ask(((np.arange(*cut), _ids) for cut in cuts), k))
        names = [number % len(self._shards) for number in range(len(ranges))]
        stacked = [
            self._shards[name].stack.options(num_returns=2).remote(*(next(rows) for _ in range(first, stop, size)))
            for name, (first, stop) in zip(names, ranges, strict=True)
        ]
        self._all([done for _, done in stacked], "to put rows together", names)
        return [ids for ids, _ in stacked]

    def graph_pieces(self, bounds: Sequence[int], k: int) -> Iterator[tuple[int, ObjectRef[Any]]]:
        """All samples' neighbour ids, piece by piece: the first id, and a reference to the rows [n, k] from there.

        No piece goes over one of the ids ``bounds``. Each is found when it is asked for.
        """
        for first, stop in _cuts(bounds, self._piece_bytes // HALVES // (k * np.dtype(np.int32).itemsize)):
            [rows] = self.graph([(first, stop)], k)
            yield first, rows
            del rows  # before the next comes

    def write_graph(self, dataset_uri: str, graph: GraphInfo) -> None:
        """Find all samples' neighbours and write them beside their data set, part by part."""
        parts = ((ids_n, partial(write_part, dataset_uri, graph, part)) for part, ids_n in enumerate(part_ids(graph)))
        with writing(dataset_uri, graph) as checksums:
            written = self._queries(self.facts).ask(parts, graph.num_neighbors)
            for of_part in self._all(written, "for the checksums of a graph"):
                checksums |= of_part

    def _pass_rows(self, rows: RowSource, version: int) -> list[ObjectRef[Any]]:
        """Give each shard its range of ids, and let all build when the last has come."""
        num_samples, num_shards = rows.bounds[-1], len(self._shards)
        ends = [num_samples * number // num_shards for number in range(num_shards + 1)]
        size = self._piece_bytes // HALVES // rows.row_bytes
        for number, (first, stop) in enumerate(pairwise(ends)):
            inside = [bound for bound in rows.bounds if first < bound < stop]
            for at, end in _cuts([first, *inside, stop], size):
                take = self._shards[number].take_rows.options(concurrency_group="build")
                self._all([take.remote(first, stop, at, rows.piece(at, end))], "to take rows", [number])
        return [
            shard.prepare_rows.options(concurrency_group="build").remote(version, num_samples, first, stop)
            for shard, (first, stop) in zip(self._shards, pairwise(ends), strict=True)
        ]

    def _prepare(self, num_samples: int, begin: Callable[[int], list[ObjectRef[Any]]]) -> IndexFacts:
        """Build a version beside the one in use, as ``begin`` lets the shards; what else they hold is freed first."""
        held = self._all([shard.versions.remote() for shard in self._shards], "for their versions")
        version = 1 + max((version for versions in held for version in versions), default=0)
        self._keep([self._facts.version] if self._facts else [])
        shards = cast(list[IndexShardFacts], self._all(begin(version), f"to build version {version}"))
        return IndexFacts(version=version, num_samples=num_samples, shards=tuple(shards))

    def _with_effort(self, facts: IndexFacts, k: int) -> IndexFacts:
        """Raise the effort by half until the recall measured against exhaustive search is enough; most misses none."""
        if not facts.most_effort:
            return facts
        size = min(RECALL_SAMPLE, facts.num_samples)  # always the same: a resumed run counts versions anew
        ids_n = np.sort(np.random.default_rng(0).choice(facts.num_samples, size, replace=False))
        radius_n1 = self._distances(facts, ids_n, k, exact=True)[:, -1:]
        effort, recall = 0, 0.0
        while recall < self._min_recall and effort < facts.most_effort:
            effort = min(effort + max(1, effort // 2), facts.most_effort)
            self._all([shard.set_effort.remote(facts.version, effort) for shard in self._shards], "to set the effort")
            recall = float((self._distances(facts, ids_n, k, exact=False) <= radius_n1).mean())
        return replace(facts, recall=recall, effort=effort)

    def _distances(self, facts: IndexFacts, ids_n: Ids, k: int, *, exact: bool) -> NDArray[np.float32]:
        [answer] = self._queries(facts).ask([(ids_n, _squared)], k, exact=exact)
        return self._all([answer], "for distances")[0]

    def _swap(self, facts: IndexFacts) -> IndexFacts:
        """From here on every answer is from the new version."""
        with self._swapping:
            self._facts = facts
            self._keep([facts.version])
        return facts

    def _keep(self, versions: list[int]) -> None:
        self._all([shard.keep.remote(versions) for shard in self._shards], "to free versions")

    def _improve(self, best: Nearest, facts: IndexFacts, points_nd: Points, asked_nS: NDArray[np.bool_]) -> None:
        """Merge in the answers of the shards that each query is to be asked of."""
        names = np.flatnonzero(asked_nS.any(axis=0)).tolist()
        rows = [np.flatnonzero(asked_nS[:, name]) for name in names]
        k = best.ids.shape[1]
        refs = [
            self._shards[name].search_points.remote(facts.version, points_nd[rows_m], k)
            for name, rows_m in zip(names, rows, strict=True)
        ]
        for rows_m, found in zip(rows, self._all(refs, "for neighbours", names), strict=True):
            merged = merge_nearest(best.rows(rows_m), found, np.zeros(len(rows_m), dtype=np.int64), facts.num_samples)
            best.ids[rows_m], best.squared[rows_m] = merged.ids, merged.squared

    def _queries(self, facts: IndexFacts) -> SampleQueries:
        return SampleQueries(
            shards=self._shards,
            version=facts.version,
            num_samples=facts.num_samples,
            bounds=facts.bounds,
            timeout_s=self._timeout_s,
        )

    def _all(self, refs: Sequence[ObjectRef[Any]], what: str, names: Sequence[int] | None = None) -> list[Any]:
        return get_all(refs, self._timeout_s, what, names, KIND)


def _block_rows(piece_bytes: int, width: int, k: int, num_shards: int) -> int:
    """Samples of one block of questions: all that are on their way, with their points, make half a piece."""
    answer = k * (np.dtype(np.int64).itemsize + np.dtype(np.float64).itemsize)
    row = width * np.dtype(np.float32).itemsize + 2 * num_shards * answer
    return max(1, min(GRAPH_BLOCK_ROWS, piece_bytes // HALVES // BLOCKS_ALIVE // row))


def _cuts(bounds: Sequence[int], size: int) -> list[tuple[int, int]]:
    """(first, stop) of pieces of at most ``size`` ids, and at least one, that go over none of the ``bounds``."""
    size = max(1, size)
    return [(at, min(at + size, stop)) for first, stop in pairwise(bounds) for at in range(first, stop, size)]


def _ids(ids_nk: NDArray[np.int32], squared_nk: NDArray[np.float32]) -> NDArray[np.int32]:
    return ids_nk


def _squared(ids_nk: NDArray[np.int32], squared_nk: NDArray[np.float32]) -> NDArray[np.float32]:
    return squared_nk
