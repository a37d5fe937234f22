"""The neighbour service: a run's bank as actors over id ranges. S = shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import ray

from ldlva_dist.data.manifest import read_info
from ldlva_dist.errors import LdlvaError, SettingError
from ldlva_dist.neighbors.answers import get_all
from ldlva_dist.neighbors.bank import BankShard, ShardFacts, load_rows
from ldlva_dist.neighbors.graph import require_graph
from ldlva_dist.neighbors.outputs import BankSpec

BankActor: Any = ray.remote(BankShard)

START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborService:
    """Handles to the shards of one run's bank; travels to the workers."""

    shards: tuple[Any, ...]
    """Actor handles."""
    bounds: tuple[int, ...]
    """[S + 1] shard i holds the ids bounds[i]..bounds[i + 1] - 1."""
    spec: BankSpec
    """What they store and send."""
    num_bytes: int
    """Memory of all shards' arrays."""

    def stop(self) -> None:
        """End the actors of this service."""
        _kill(self.shards)


def start_service(
    dataset_uri: str, *, k: int, num_shards: int, spec: BankSpec, actor_options: dict[str, Any]
) -> NeighborService:
    """Start the shards of one run's bank and wait until they have loaded; the caller's process owns them.

    Args:
        dataset_uri: A data set with its neighbour graph.
        k: Neighbours of each sample, at most the graph's K.
        num_shards: Actors; each holds an equal range of ids.
        spec: What they store.
        actor_options: Ray's options for each of them (resources, scheduling, restarts).
    """
    num_samples = read_info(dataset_uri).num_train
    if not 0 < num_shards <= num_samples:
        raise SettingError(
            f"bank.num_shards must be > 0 and <= the number of training samples ({num_samples}), got {num_shards}"
        )
    require_graph(dataset_uri, k)
    bounds = tuple(num_samples * i // num_shards for i in range(num_shards + 1))
    loads = [partial(load_rows, dataset_uri, bounds[i], bounds[i + 1], k) for i in range(num_shards)]
    shards = tuple(BankActor.options(**actor_options).remote(load, spec) for load in loads)
    try:
        facts = cast(list[ShardFacts], get_all([shard.facts.remote() for shard in shards], START_TIMEOUT_S, "to start"))
    except LdlvaError:
        _kill(shards)
        raise
    num_bytes = sum(fact.num_bytes for fact in facts)
    return NeighborService(shards=shards, bounds=bounds, spec=spec, num_bytes=num_bytes)


def _kill(shards: Sequence[Any]) -> None:
    for shard in shards:
        ray.kill(shard, no_restart=True)
