"""The one who builds and asks a sharded index; data of single samples stays with its actors.

N = samples, S = shards, n = queries, d = dimensions, k = neighbours.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray import ObjectRef

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import NeighborServiceError, SettingError
from ldlva_dist.index.backends import Points
from ldlva_dist.index.exact_search import check_k
from ldlva_dist.index.graph import GraphInfo, part_ids, write_part, writing
from ldlva_dist.index.nearest import Ids, Nearest, empty_result, merge_nearest
from ldlva_dist.index.plane_cut import load_box
from ldlva_dist.index.queries import KIND, SampleQueries
from ldlva_dist.index.shard import Load, load_id_range
from ldlva_dist.index.shard_answers import IndexFacts, IndexShardFacts, SearchResult, box_distance
from ldlva_dist.runtime.waiting import get_all

GRAPH_BLOCK_ROWS = 8192
RECALL_SAMPLE = 1000


class IndexClient:
    """Builds versions, one beside the other, and asks the newest whole one.

    An index has one client. Its builds and graphs belong into one thread; another one may search meanwhile.
    """

    def __init__(self, shards: Sequence[Any], *, min_recall: float, timeout_s: float) -> None:
        """``timeout_s`` limits the wait for each build and for each block of answers."""
        self._shards, self._min_recall, self._timeout_s = shards, min_recall, timeout_s
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
        loads = [(partial(load_box, dataset, box), []) for box in boxes]
        return self._swap(self._prepare(dataset.info.num_train, loads))

    def build_from_rows(self, bounds: Sequence[int], parts: Sequence[Any], *, k: int) -> IndexFacts:
        """A new version of features, cut by id.

        Args:
            bounds: Part i holds the ids bounds[i]..bounds[i + 1] - 1; from 0 to N.
            parts: [n, d] float16 or float32 each, or references to such arrays.
            k: Neighbours that will be asked for: recall is measured with them.
        """
        num_samples, num_shards = bounds[-1], len(self._shards)
        check_k(k, num_samples)
        refs = [part if isinstance(part, ObjectRef) else ray.put(part) for part in parts]
        loads: list[tuple[Load, list[Any]]] = []
        for number in range(num_shards):
            first, stop = num_samples * number // num_shards, num_samples * (number + 1) // num_shards
            met = [i for i in range(len(refs)) if bounds[i] < stop and bounds[i + 1] > first]
            loads.append((partial(load_id_range, first, stop, [bounds[i] for i in met]), [refs[i] for i in met]))
        return self._swap(self._with_nprobe(self._prepare(num_samples, loads), k))

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
        cuts = [
            (at, min(at + GRAPH_BLOCK_ROWS, stop))
            for first, stop in ranges
            for at in range(first, stop, GRAPH_BLOCK_ROWS)
        ]
        rows = iter(self._queries(self.facts).ask(((np.arange(*cut), _ids) for cut in cuts), k))
        names = [number % len(self._shards) for number in range(len(ranges))]
        stacked = [
            self._shards[name]
            .stack.options(num_returns=2)
            .remote(*(next(rows) for _ in range(first, stop, GRAPH_BLOCK_ROWS)))
            for name, (first, stop) in zip(names, ranges, strict=True)
        ]
        self._all([done for _, done in stacked], "to put rows together", names)
        return [ids for ids, _ in stacked]

    def write_graph(self, dataset_uri: str, graph: GraphInfo) -> None:
        """Find all samples' neighbours and write them beside their data set, part by part."""
        parts = ((ids_n, partial(write_part, dataset_uri, graph, part)) for part, ids_n in enumerate(part_ids(graph)))
        with writing(dataset_uri, graph) as checksums:
            written = self._queries(self.facts).ask(parts, graph.num_neighbors)
            for of_part in self._all(written, "for the checksums of a graph"):
                checksums |= of_part

    def _prepare(self, num_samples: int, loads: Sequence[tuple[Load, Sequence[Any]]]) -> IndexFacts:
        """Build a version beside the one in use; whatever else the shards hold is freed first."""
        held = self._all([shard.versions.remote() for shard in self._shards], "for their versions")
        version = 1 + max((version for versions in held for version in versions), default=0)
        self._keep([self._facts.version] if self._facts else [])
        refs = [
            shard.prepare.options(concurrency_group="build").remote(version, num_samples, load, *arrays)
            for shard, (load, arrays) in zip(self._shards, loads, strict=True)
        ]
        shards = cast(list[IndexShardFacts], self._all(refs, f"to build version {version}"))
        return IndexFacts(version=version, num_samples=num_samples, shards=tuple(shards))

    def _with_nprobe(self, facts: IndexFacts, k: int) -> IndexFacts:
        """Double ``nprobe`` until the recall measured against exhaustive search is high enough."""
        nlist = max(shard.nlist for shard in facts.shards)
        if not nlist:
            return facts
        size = min(RECALL_SAMPLE, facts.num_samples)
        ids_n = np.sort(np.random.default_rng(facts.version).choice(facts.num_samples, size, replace=False))
        radius_n1 = self._distances(facts, ids_n, k, exact=True)[:, -1:]
        nprobe, recall = 0, 0.0
        while recall < self._min_recall and nprobe < nlist:
            nprobe = min(max(1, 2 * nprobe), nlist)
            self._all([shard.set_nprobe.remote(facts.version, nprobe) for shard in self._shards], "to set nprobe")
            recall = float((self._distances(facts, ids_n, k, exact=False) <= radius_n1).mean())
        return replace(facts, recall=recall, nprobe=nprobe)

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


def _ids(ids_nk: NDArray[np.int32], squared_nk: NDArray[np.float32]) -> NDArray[np.int32]:
    return ids_nk


def _squared(ids_nk: NDArray[np.int32], squared_nk: NDArray[np.float32]) -> NDArray[np.float32]:
    return squared_nk
