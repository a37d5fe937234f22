"""What a pipeline may use of its worker's own node."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def on_own_node() -> Any:
    """Ray's scheduling strategy for tasks on this process's node, or on another one while this has no CPU left."""
    here = ray.get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(here, soft=True, _spill_on_unavailable=True)


def store_share(num_cpus: float) -> float:
    """Bytes of this node's object store that go with so many of its CPUs."""
    here = ray.get_runtime_context().get_node_id()
    [resources] = [node["Resources"] for node in ray.nodes() if node["NodeID"] == here]
    return resources.get("object_store_memory", 0.0) * num_cpus / max(resources.get("CPU", 0.0), num_cpus)
