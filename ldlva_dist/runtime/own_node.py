"""What a pipeline may use of its worker's own node."""

from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def on_own_node() -> Any:
    """Ray's scheduling strategy for tasks on this process's node, or on another one while this one drains."""
    here = ray.get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(here, soft=True, _spill_on_unavailable=True)


def store_share(num_cpus: float) -> float:
    """Bytes of this node's object store that go with so many of its CPUs."""
    here = ray.get_runtime_context().get_node_id()
    [resources] = [node["Resources"] for node in ray.nodes() if node["NodeID"] == here]
    return share_of(resources, num_cpus)


def mean_store_share(num_cpus: float) -> float:
    """The same over all nodes with CPUs, so that the shares of all CPUs are what those nodes have."""
    there = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    names = "CPU", "object_store_memory"
    return share_of({name: sum(resources.get(name, 0.0) for resources in there) for name in names}, num_cpus)


def share_of(resources: Mapping[str, float], num_cpus: float) -> float:
    """Bytes of an object store that go with so many of the CPUs among its node's resources."""
    return resources.get("object_store_memory", 0.0) * num_cpus / max(resources.get("CPU", 0.0), num_cpus)
