"""Every CPU, GPU and actor count in one place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.train import FailureConfig, ScalingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ldlva_dist.config import PlacementConfig
from ldlva_dist.errors import SettingError
from ldlva_dist.runtime import growth
from ldlva_dist.runtime.connect import connect as connect
from ldlva_dist.runtime.growth import Bundle

MARKET_TYPE, SPOT = "ray.io/market-type", "spot"
"""Ray's own label of nodes that may be taken away; our cluster files set it."""
FAISS, NO_FAISS = "ldlva-faiss", "none"
"""Label of our own for nodes whose image has no FAISS; our cluster files set it on trainers."""
NODE_ID = "ray.io/node-id"
"""Label that Ray gives every node."""
TRIAL_CPUS = 0.05
NODES_LIMIT_S = PlacementConfig().wait_for_workers_s
"""Longest wait for nodes of what is no run, and has no setting for it."""


def scaling(placement: PlacementConfig) -> ScalingConfig:
    """One training worker per GPU, or most of one, or ``num_workers`` CPU workers; two bounds make it elastic."""
    bounds = (placement.min_workers, placement.max_workers)
    return ScalingConfig(
        num_workers=bounds if placement.is_elastic else placement.max_workers,
        use_gpu=placement.use_gpu,
        resources_per_worker=_worker_bundle(placement),
        elastic_resize_monitor_interval_s=placement.elastic_resize_monitor_interval_s,
    )


def failures(placement: PlacementConfig) -> FailureConfig:
    """Restarts of the worker group."""
    return FailureConfig(max_failures=placement.max_failures)


def backend(placement: PlacementConfig) -> str:
    """The collective backend: NCCL between GPUs, gloo between CPUs; the uncertainty table always uses gloo."""
    return "cpu:gloo,cuda:nccl" if placement.use_gpu else "gloo"


def bank_actor(placement: PlacementConfig, num_bytes: int) -> dict[str, Any]:
    """A bank actor that holds so many bytes: spread over the nodes. Ray starts a lost one again, without its state."""
    resources = {"num_cpus": placement.shard_cpus, "memory": num_bytes}  # Ray does not spread what asks for nothing
    return {**resources, **steady_nodes(), "max_restarts": -1, "scheduling_strategy": "SPREAD"}


def index_actor(placement: PlacementConfig) -> dict[str, Any]:
    """An index actor, on a GPU or a share of one where that is asked for; one that is lost takes the run back."""
    resources: dict[str, Any] = {"num_cpus": placement.cpus_per_index, "num_gpus": placement.gpus_per_index}
    if not placement.gpus_per_index:
        # Ray hides GPUs only from those that ask for some; FAISS would take all that it sees.
        resources["runtime_env"] = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
    selector = {FAISS: f"!{NO_FAISS}"} | steady_nodes().get("label_selector", {})
    return {**resources, "label_selector": selector, "max_restarts": 0, "scheduling_strategy": "SPREAD"}


@dataclass(frozen=True, kw_only=True)
class IndexPlace:
    """Place of an index that is no run's."""

    options: Mapping[str, Any]
    """Ray's options for each of its actors."""
    num_actors: int
    """Actors that the nodes which are there hold, free or not; one at least."""
    start_limit_s: float
    """Longest wait for a node for them."""

    def require_reachable(self, num_actors: int) -> None:
        """SettingError where the cluster is known to be unable to hold so many."""
        each = {name: self.options.get(f"num_{name.lower()}s", 0.0) for name in growth.COUNTED}
        if any(each.values()):
            growth.require_reachable([each] * num_actors, asked_by="--num-shards and --gpus-per-shard")


def index_place(placement: PlacementConfig) -> IndexPlace:
    """As many actors as there are CPUs, or GPUs or shares of one where those are asked for."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Labels"].get(FAISS) != NO_FAISS]
    steady = [node for node in nodes if _is_steady(node)] or nodes
    held = sum(_index_actors_on(node["Resources"], placement) for node in steady)
    return IndexPlace(
        options=index_actor(placement), num_actors=max(1, held), start_limit_s=placement.wait_for_workers_s
    )


def _index_actors_on(node: Bundle, placement: PlacementConfig) -> int:
    """Ray takes a share of one GPU only, or whole ones."""
    cpus, gpus, share = node.get("CPU", 0.0), node.get("GPU", 0.0), placement.gpus_per_index
    by_cpus = int(cpus / (placement.cpus_per_index or 1.0) + 1e-6)
    if not share:
        return by_cpus
    by_gpus = int(gpus / share + 1e-6) if share >= 1 else int(gpus) * int(1 / share + 1e-6)
    return min(by_cpus, by_gpus) if placement.cpus_per_index else by_gpus


def manifest_task() -> dict[str, Any]:
    """A task that loads a block of the manifest: short, and never inside the resources of a trial."""
    return {"num_cpus": 0, "scheduling_strategy": "SPREAD"}


def quarantine_actor() -> dict[str, Any]:
    """The count of bad rows, asked only when there are some; it reads its list again."""
    return {"num_cpus": 0, "max_restarts": 3, "max_task_retries": 3}


def control_actor() -> dict[str, Any]:
    """What a run and its launching process talk through: on the launching node, so that they go together.

    Who waits for it waits on while Ray starts a lost one again.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}


def model_actors(num_actors: int | None, *, cpus: float, gpus: float) -> tuple[int, dict[str, float]]:
    """How many actors hold a copy of a model (None: as many as the cluster holds), and what one of them asks for.

    A share of a GPU lets several actors use one. Where nodes may join, those that lack are asked for, and waited for.

    Args:
        num_actors: Actors that are wanted; None wants one at least.
        cpus: CPUs of each.
        gpus: GPUs, or share of one, of each.

    Raises:
        SettingError: if the cluster can never hold all of them, as far as is known.
        ClusterError: if it did not grow in time.
    """
    each = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
    request = growth.NodeRequest(f"model-actors-{ray.get_runtime_context().get_job_id()}")
    growth.wait_for_nodes(
        request,
        [each] * (num_actors or 1),
        NODES_LIMIT_S,
        asked_by="--num-actors, --cpus-per-actor and --gpus-per-actor",
    )
    request.cancel()  # the actors ask for themselves
    return num_actors or growth.fitting(each), {"num_cpus": cpus, "num_gpus": gpus}


def replica(*, cpus: float, gpus: float) -> dict[str, float]:
    """A replica of the endpoint, with a copy of the network."""
    return {"num_cpus": cpus, "num_gpus": gpus}


def version_task() -> dict[str, Any]:
    """A task that writes a version's manifest, row group by row group."""
    return {"num_cpus": 1, "max_retries": 0}


def trial() -> Any:
    """A Tune trial only launches a run; its workers ask for their own resources. Tune refuses a trial of nothing.

    It owns the run's services, which are lost with it, so it is kept off spot nodes as they are.
    """
    from ray.tune import PlacementGroupFactory  # slow to import, and needed by sweeps alone

    steady = steady_nodes()
    selectors: dict[str, Any] = {"bundle_label_selector": [steady["label_selector"]]} if steady else {}
    return PlacementGroupFactory([{"CPU": TRIAL_CPUS}], **selectors)


def cell_task() -> dict[str, Any]:
    """A task that only launches a run, as a trial does."""
    return {"num_cpus": TRIAL_CPUS, "max_retries": 0, **steady_nodes()}


def steady_nodes() -> dict[str, Any]:
    """Ray's options that keep an actor off spot nodes, whose loss rolls a run back, and off a head without CPUs.

    Ray would put actors that ask for none there too. A spot node may join later, and an actor be started again then;
    so they are named though none is there. Spot nodes are taken where there are no others.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    bare = [node["NodeID"] for node in nodes if not node["Resources"].get("CPU")]
    selector = {MARKET_TYPE: f"!{SPOT}"} if any(_is_steady(node) for node in nodes) else {}
    if 0 < len(bare) < len(nodes):
        selector[NODE_ID] = f"!in({','.join(bare)})"
    return {"label_selector": selector} if selector else {}


def _is_steady(node: Mapping[str, Any]) -> bool:
    return node["Labels"].get(MARKET_TYPE) != SPOT and bool(node["Resources"].get("CPU"))


def check_fits(placement: PlacementConfig, bank_shards: int, index_shards: int) -> None:
    """SettingError if the cluster can never hold one run with its smallest number of workers, as far as is known."""
    growth.require_reachable(run_bundles(placement, placement.min_workers, bank_shards, index_shards))
    most = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    if placement.data_cpus > most + 1e-6 and not growth.can_grow():
        raise SettingError(
            f"placement.data_cpus_per_worker must be <= the CPUs of the largest node ({most:g}), "
            f"got {placement.data_cpus:g}"
        )


def settle_data_cpus(placement: PlacementConfig, bank_shards: int, index_shards: int) -> PlacementConfig:
    """The same with a number of CPUs for each pipeline, by the nodes that are there.

    With GPUs, what is left for each of them on the nodes that have some: beside the workers, and beside those services
    that find no CPUs on other nodes. One at least.
    """
    if placement.data_cpus_per_worker is not None or not placement.use_gpu:
        return replace(placement, data_cpus_per_worker=placement.data_cpus)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    services = bank_shards * placement.shard_cpus + index_shards * placement.cpus_per_index + TRIAL_CPUS
    lacking = max(0.0, services - sum(node.get("CPU", 0.0) for node in nodes if not node.get("GPU")))
    left = [
        (node.get("CPU", 0.0) - lacking) / node["GPU"] - placement.cpus_per_worker for node in nodes if node.get("GPU")
    ]
    return replace(placement, data_cpus_per_worker=max(1.0, float(math.floor(min(left, default=1.0)))))


def count_workers(placement: PlacementConfig, bank_shards: int, index_shards: int) -> int:
    """Workers of one run, up to the largest number, that the cluster as it is holds beside pipelines and services."""
    return next(
        (
            workers
            for workers in range(placement.max_workers, 0, -1)
            if growth.has_room(run_bundles(placement, workers, bank_shards, index_shards))
        ),
        0,
    )


def check_memory(bank_bytes: int, num_shards: int) -> None:
    """SettingError if a run's bank is evidently larger than the memory that Ray counts on the nodes."""
    nodes = [node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]]
    if bank_bytes > sum(nodes) or bank_bytes / num_shards > max(nodes):
        raise SettingError(
            f"bank.num_shards={num_shards} and the bank's dtypes must fit the nodes' memory "
            f"({sum(nodes) / 2**30:.1f} GiB, the largest node {max(nodes) / 2**30:.1f} GiB), "
            f"got a bank of {bank_bytes / 2**30:.1f} GiB"
        )


def check_room(process_bytes: int, store_bytes: int) -> None:
    """SettingError if a run's processes and objects need more memory than Ray counts on all nodes together.

    Ray sets a part of it aside for objects; what they do not need processes may take.
    """
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    store = sum(node.get("object_store_memory", 0.0) for node in resources)
    memory = store + sum(node.get("memory", 0.0) for node in resources)
    for what, there, needed in (
        ("objects", store, store_bytes),
        ("processes and objects", memory, process_bytes + store_bytes),
    ):
        if needed > there:
            raise SettingError(
                f"the memory of all nodes for {what} must hold the run's ({needed / 2**30:.1f} GiB), "
                f"got {there / 2**30:.1f} GiB"
            )


def count_nodes() -> int:
    """Nodes of the cluster."""
    return sum(node["Alive"] for node in ray.nodes())


def count_processors() -> tuple[float, int]:
    """CPUs and GPUs of all nodes together."""
    total = ray.cluster_resources()
    return total.get("CPU", 0.0), int(total.get("GPU", 0.0))


def count_trials(placement: PlacementConfig, bank_shards: int, index_shards: int) -> int:
    """Trials that fit the cluster as it is side by side. Tune cannot see the workers of a trial, so it is told."""
    return growth.fitting(growth.total(trial_bundles(placement, bank_shards, index_shards)))


def trial_bundles(placement: PlacementConfig, bank_shards: int, index_shards: int) -> list[dict[str, float]]:
    """What one trial of a sweep needs at once: its run, and the trial itself."""
    return [*run_bundles(placement, placement.max_workers, bank_shards, index_shards), {"CPU": TRIAL_CPUS}]


def run_bundles(
    placement: PlacementConfig, workers: int, bank_shards: int, index_shards: int
) -> list[dict[str, float]]:
    """What each process of one run needs at once, so that neither workers nor pipelines wait for each other.

    Memory is not among it: not every autoscaler knows how much its nodes have.
    """
    worker = _worker_bundle(placement)
    bank = {"CPU": placement.shard_cpus}
    index = {"CPU": placement.cpus_per_index, "GPU": placement.gpus_per_index}
    bundles = [*[worker] * workers, *[bank] * bank_shards, *[index] * index_shards]
    return [{name: amount for name, amount in bundle.items() if amount} for bundle in bundles]


def _worker_bundle(placement: PlacementConfig) -> dict[str, float]:
    """What is reserved for a worker and its pipeline together, so that nobody takes the CPUs of a pipeline."""
    gpus = {"GPU": placement.gpus_per_worker} if placement.use_gpu else {}
    return {"CPU": placement.cpus_per_worker + placement.data_cpus} | gpus
