"""The neighbour service: a run's bank as named actors over id ranges. S = shards.

The actors belong to the process that started them: when it ends, however it ends, they end.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

import ray
from ray.exceptions import ActorAlreadyExistsError

from ldlva_dist.bank.records import BankSpec
from ldlva_dist.bank.shard import BankShard, ReloadBank, ShardFacts
from ldlva_dist.bank.static_rows import ShardRows, load_shard_rows
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import LdlvaError, NeighborServiceError, SettingError
from ldlva_dist.index.graph import require_graph
from ldlva_dist.runtime.waiting import get_all

# Ray need not keep an account of every call of every step.
BankActor: Any = cast(Any, ray.remote)(enable_task_events=False)(BankShard)

NAMESPACE = "ldlva-neighbors"
BANK_START_TIMEOUT_S = 120.0
NAME_TIMEOUT_S = 20.0  # actors of a driver that was killed go within a second or two


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborService:
    """Handles to the shards of one run's bank; travels to the workers."""

    name: str
    """One service of a cluster bears it."""
    shards: tuple[Any, ...]
    """Actor handles."""
    bounds: tuple[int, ...]
    """[S + 1] shard i holds the ids bounds[i]..bounds[i + 1] - 1."""
    spec: BankSpec
    """What they store and send."""
    num_bytes: int
    """Memory of all shards' arrays."""
    on_loss: Literal["rollback", "continue"] = "rollback"
    """What a client does about a lost shard: fail, or continue with it as soon as Ray has started it again."""

    def drain(self, timeout_s: float = 60.0) -> None:
        """Let the shards take what was sent before, and refuse everything after it."""
        get_all([shard.drain.remote() for shard in self.shards], timeout_s, "to drain")

    def stop(self) -> None:
        """End the actors of this service."""
        _kill(self.shards)


def shard_loads(dataset: Dataset, *, k: int, num_shards: int) -> list[Callable[[], ShardRows]]:
    """What loads the rows of each of ``num_shards`` equal id ranges of a data set with its neighbour graph.

    A bank of k = 0 neighbours needs no graph, nor does a data set without valence-arousal.
    """
    num_samples = dataset.info.num_train
    if not 0 < num_shards <= num_samples:
        raise SettingError(
            f"bank.num_shards must be > 0 and <= the number of training samples ({num_samples}), got {num_shards}"
        )
    if k and dataset.info.has_valence_arousal:
        require_graph(dataset, k)
    bounds = [num_samples * i // num_shards for i in range(num_shards + 1)]
    return [partial(load_shard_rows, dataset, start, stop, k) for start, stop in pairwise(bounds)]


def start_service(
    name: str,
    loads: Sequence[Callable[[], ShardRows]],
    spec: BankSpec,
    actor_options: dict[str, Any],
    reload: ReloadBank | None = None,
    *,
    start_limit_s: float = 0.0,
) -> NeighborService:
    """Start the shards of one run's bank and wait until they have loaded.

    Args:
        name: Of the service; SettingError where one of that name runs on the cluster.
        loads: Of each shard, in id order.
        spec: What they store.
        actor_options: Ray's options for each of them (resources, scheduling, restarts).
        reload: With it, clients continue after a loss (``bank.on_loss=continue``).
        start_limit_s: Longest wait, at least BANK_START_TIMEOUT_S, in which a node for them may have to come first.
    """
    shards: list[Any] = []
    try:
        for load in loads:
            options = actor_options | {"name": _actor_name(name, len(shards)), "namespace": NAMESPACE}
            shards.append(_start(name, options, load, spec, reload))
        service = _service_of(name, shards, max(start_limit_s, BANK_START_TIMEOUT_S))
    except LdlvaError:
        _kill(shards)
        raise
    return replace(service, on_loss="continue" if reload else "rollback")


def find_service(name: str) -> NeighborService:
    """A service that somebody on this cluster started; NeighborServiceError where there is none."""
    everything = cast(list[dict[str, str]], ray.util.list_named_actors(all_namespaces=True))
    named = {actor["name"] for actor in everything if actor["namespace"] == NAMESPACE}
    shards = []
    while (actor := _actor_name(name, len(shards))) in named:
        shards.append(ray.get_actor(actor, namespace=NAMESPACE))
    if not shards:
        raise NeighborServiceError(f"no neighbour service {name!r} runs on this cluster")
    return _service_of(name, shards)


def _actor_name(service: str, shard: int) -> str:
    return f"{service}#{shard}"


def _start(name: str, options: dict[str, Any], *arguments: Any) -> Any:
    """One actor, as soon as its name is free."""
    deadline = time.monotonic() + NAME_TIMEOUT_S
    while True:
        try:
            return BankActor.options(**options).remote(*arguments)
        except ActorAlreadyExistsError as e:
            if time.monotonic() > deadline:
                raise SettingError(
                    f"name must be new on this cluster: a run {name!r} is being trained, its neighbour service is there"
                ) from e
            time.sleep(0.5)


def _service_of(name: str, shards: Sequence[Any], limit_s: float = BANK_START_TIMEOUT_S) -> NeighborService:
    facts = cast(list[ShardFacts], get_all([shard.facts.remote() for shard in shards], limit_s, "to start"))
    return NeighborService(
        name=name,
        shards=tuple(shards),
        bounds=(facts[0].start, *(fact.stop for fact in facts)),
        spec=facts[0].spec,
        num_bytes=sum(fact.num_bytes for fact in facts),
    )


def _kill(shards: Sequence[Any]) -> None:
    for shard in shards:
        ray.kill(shard, no_restart=True)
