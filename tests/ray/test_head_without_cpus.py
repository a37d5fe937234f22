"""What a run cannot lose without rolling back stays off nodes without CPUs, where Ray would put what asks for none."""

import os
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError
from ray.util import placement_group_table, remove_placement_group

from ldlva_dist.config import PlacementConfig
from ldlva_dist.runtime import placement
from testing.clusters.joining_nodes import another_node

LIMIT_S = 120


class Service:
    """An actor of a run."""

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def process(self) -> int:
        return os.getpid()

    def end(self) -> None:
        os._exit(1)


def test_bank_shards_that_ask_for_no_cpu_and_trials_are_on_the_node_that_has_some(cluster: None) -> None:
    assert placement.NODE_ID not in placement.steady_nodes()["label_selector"], "every node has CPUs"
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


def test_bank_shards_that_are_started_again_stay_off_a_spot_node_that_joined_after_them(cluster: None) -> None:
    kind: Any = ray.remote(Service)
    here = ray.get_runtime_context().get_node_id()
    shards = [kind.options(**placement.bank_actor(PlacementConfig(), 1)).remote() for _ in range(4)]
    before = ray.get([shard.process.remote() for shard in shards], timeout=LIMIT_S)
    with another_node(8, labels={placement.MARKET_TYPE: placement.SPOT}):
        for shard in shards:
            with pytest.raises(RayActorError):
                ray.get(shard.end.remote(), timeout=LIMIT_S)
        retried = [shard.process.options(max_task_retries=-1).remote() for shard in shards]
        assert not set(ray.get(retried, timeout=LIMIT_S)) & set(before), "they were started again"
        assert set(ray.get([shard.node.remote() for shard in shards], timeout=LIMIT_S)) == {here}
        for shard in shards:
            ray.kill(shard)


def test_services_go_to_spot_nodes_where_no_other_node_has_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    spot = {"Alive": True, "NodeID": "a", "Labels": {placement.MARKET_TYPE: placement.SPOT}, "Resources": {"CPU": 8.0}}
    head = {"Alive": True, "NodeID": "b", "Labels": {}, "Resources": {}}
    monkeypatch.setattr(ray, "nodes", lambda: [spot, head])
    assert placement.steady_nodes() == {"label_selector": {placement.NODE_ID: "!in(b)"}}
    monkeypatch.setattr(ray, "nodes", lambda: [head])
    assert placement.steady_nodes() == {}
