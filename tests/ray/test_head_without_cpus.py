"""What a run cannot lose without rolling back stays off nodes without CPUs, where Ray would put what asks for none."""

from typing import Any

import ray
from ray.util import placement_group_table, remove_placement_group

from ldlva_dist.config import PlacementConfig
from ldlva_dist.runtime import placement
from testing.clusters.joining_nodes import another_node

LIMIT_S = 120


class Service:
    """An actor of a run."""

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()


def test_bank_shards_that_ask_for_no_cpu_and_trials_are_on_the_node_that_has_some(cluster: None) -> None:
    assert placement.steady_nodes() == {}, "every node has CPUs"
    kind: Any = ray.remote(Service)
    with another_node(0):
        shards = [kind.options(**placement.bank_actor(PlacementConfig(), 1)).remote() for _ in range(4)]
        assert set(ray.get([shard.node.remote() for shard in shards], timeout=LIMIT_S)) == {
            ray.get_runtime_context().get_node_id()
        }
        for shard in shards:
            ray.kill(shard)
        group = placement.trial().to_placement_group()
        assert group.wait(LIMIT_S)
        nodes: dict[str, Any] = placement_group_table(group)
        assert set(nodes["bundles_to_node_id"].values()) == {ray.get_runtime_context().get_node_id()}
        remove_placement_group(group)
