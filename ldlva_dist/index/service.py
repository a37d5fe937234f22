"""The index as actors without torch, on CPUs, whole GPUs or shares of one; and the graph built by them.

The actors belong to the process that started them: when it ends, however it ends, they end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import ray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import LdlvaError
from ldlva_dist.index.backends import K_MAX, Backend
from ldlva_dist.index.client import IndexClient
from ldlva_dist.index.graph import GRAPH_PART_ROWS, GraphInfo, build_graph, plan_graph, require_graph
from ldlva_dist.index.queries import KIND
from ldlva_dist.index.shard import IndexShard
from ldlva_dist.runtime.connect import connect
from ldlva_dist.runtime.placement import IndexPlace
from ldlva_dist.runtime.waiting import get_all

IndexActor = cast(Any, ray.remote)(concurrency_groups={"build": 1})(IndexShard)

SMALL_SAMPLES = 100_000
"""Samples below which starting actors takes longer than the search."""
INDEX_START_TIMEOUT_S = 120.0
GRAPH_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexService:
    """Handles to the shards of an index; travels to where its one client is."""

    shards: tuple[Any, ...]
    min_recall: float

    def client(self, timeout_s: float) -> IndexClient:
        """A client without a version; what an earlier one left is freed when this one builds."""
        return IndexClient(self.shards, min_recall=self.min_recall, timeout_s=timeout_s)

    def stop(self) -> None:
        """End the actors of this index."""
        for shard in self.shards:
            ray.kill(shard, no_restart=True)


def start_index(
    num_shards: int,
    *,
    backend: Backend = "auto",
    min_recall: float = 1.0,
    actor_options: Mapping[str, Any],
    start_limit_s: float = 0.0,
) -> IndexService:
    """Start the shards of an index, which hold nothing yet; the caller's process owns them.

    Args:
        num_shards: Actors.
        backend: What each of them searches with; "auto" is what suits the place where it runs.
        min_recall: Below 1 FAISS's index is approximate, and searched with an effort that finds this share.
        actor_options: Ray's options for each of them; Ray lets as many threads search as ``num_cpus`` says.
        start_limit_s: Longest wait, at least INDEX_START_TIMEOUT_S, in which a node for them may have to come first.
    """
    actor = IndexActor.options(**actor_options)
    shards = tuple(actor.remote(i, backend, min_recall=min_recall) for i in range(num_shards))
    service = IndexService(shards=shards, min_recall=min_recall)
    try:
        limit_s = max(start_limit_s, INDEX_START_TIMEOUT_S)
        get_all([shard.versions.remote() for shard in shards], limit_s, "to start", kind=KIND)
    except LdlvaError:
        service.stop()
        raise
    return service


def build_graph_by_size(
    dataset: Dataset,
    k_max: int = K_MAX,
    backend: Backend = "auto",
    *,
    num_shards: int | None = None,
    on_gpu: bool,
    place: Callable[[], IndexPlace],
) -> tuple[GraphInfo, int]:
    """Build the graph of a data set in this process where that is faster, or else by actors on the cluster.

    Args:
        dataset: A data set with valence-arousal.
        k_max: Neighbours K of each sample, or N - 1 where that is less.
        backend: Library that searches; "auto" is what suits the place where it runs.
        num_shards: Number of actors; None takes as many as the cluster holds, or none below SMALL_SAMPLES.
        on_gpu: Whether actors have a GPU or a share of one; then there is always one.
        place: Says where actors go, and how many there can be, once this process is connected to a cluster.

    Returns:
        The graph, and the number of actors that built it, 0 for this process.

    Raises:
        SettingError: for a data set without valence-arousal; it is said before a cluster starts. For more actors than
            the cluster can ever hold, as far as is known.
    """
    planned = plan_graph(dataset, k_max)
    if num_shards is None and planned.num_samples < SMALL_SAMPLES:
        num_shards = 1
    if num_shards == 1 and not on_gpu:
        return build_graph(dataset, k_max, backend), 0
    connect()
    where = place()
    num_shards = num_shards or where.num_actors
    where.require_reachable(num_shards)
    return build_graph_with_actors(dataset, k_max, backend, num_shards=num_shards, place=where), num_shards


def build_graph_with_actors(
    dataset: Dataset,
    k_max: int = K_MAX,
    backend: Backend = "auto",
    *,
    num_shards: int,
    place: IndexPlace,
    part_rows: int = GRAPH_PART_ROWS,
) -> GraphInfo:
    """The graph that ``graph.build_graph`` writes, by actors on the cluster that each hold a box of the plane."""
    graph = plan_graph(dataset, k_max, part_rows)
    service = start_index(num_shards, backend=backend, actor_options=place.options, start_limit_s=place.start_limit_s)
    try:
        client = service.client(GRAPH_TIMEOUT_S)
        client.build_from_dataset(dataset)
        client.write_graph(dataset.uri, graph)
    finally:
        service.stop()
    return require_graph(dataset, graph.num_neighbors)
