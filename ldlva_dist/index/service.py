"""The index as actors without torch, on CPUs, whole GPUs or shares of one; and the graph built by them.

The actors belong to the process that started them: when it ends, however it ends, they end.
"""

from dataclasses import dataclass
from typing import Any, cast

import ray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import LdlvaError
from ldlva_dist.index.backends import Backend
from ldlva_dist.index.client import IndexClient
from ldlva_dist.index.graph import GRAPH_PART_ROWS, K_MAX, GraphInfo, plan_graph, require_graph
from ldlva_dist.index.queries import KIND
from ldlva_dist.index.shard import IndexShard
from ldlva_dist.runtime.waiting import get_all

IndexActor = cast(Any, ray.remote)(concurrency_groups={"build": 1})(IndexShard)

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
    num_shards: int, *, backend: Backend = "auto", min_recall: float = 1.0, actor_options: dict[str, Any]
) -> IndexService:
    """Start the shards of an index, which hold nothing yet; the caller's process owns them.

    Args:
        num_shards: Actors.
        backend: What each of them searches with; "auto" is what suits the place where it runs.
        min_recall: Below 1 FAISS on the CPU searches an IVF index, with an ``nprobe`` that finds this share.
        actor_options: Ray's options for each of them; ``num_cpus`` is also how many threads search.
    """
    threads = max(1, int(actor_options.get("num_cpus", 1)))
    actor = IndexActor.options(**actor_options)
    shards = tuple(actor.remote(i, backend, min_recall=min_recall, threads=threads) for i in range(num_shards))
    service = IndexService(shards=shards, min_recall=min_recall)
    try:
        get_all([shard.versions.remote() for shard in shards], INDEX_START_TIMEOUT_S, "to start", kind=KIND)
    except LdlvaError:
        service.stop()
        raise
    return service


def build_graph_with_actors(
    dataset: Dataset,
    k_max: int = K_MAX,
    backend: Backend = "auto",
    *,
    num_shards: int,
    actor_options: dict[str, Any],
    part_rows: int = GRAPH_PART_ROWS,
) -> GraphInfo:
    """The graph that ``graph.build_graph`` writes, by actors on the cluster that each hold a box of the plane."""
    graph = plan_graph(dataset, k_max, part_rows)
    service = start_index(num_shards, backend=backend, actor_options=actor_options)
    try:
        client = service.client(GRAPH_TIMEOUT_S)
        client.build_from_dataset(dataset)
        client.write_graph(dataset.uri, graph)
    finally:
        service.stop()
    return require_graph(dataset, graph.num_neighbors)
