"""How many trials a sweep runs at a time, while nodes come and go."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ldlva_dist.config import PlacementConfig, RunConfig, SweepConfig
from ldlva_dist.run.sweep import FollowNodes, _search
from ldlva_dist.runtime.growth import NodeRequest
from testing.clusters.joining_nodes import another_node

PLACE = PlacementConfig(num_workers=1, cpus_per_worker=1.0, data_cpus_per_worker=0.9)
"""Two trials on the first node, of four CPUs."""


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_trials_follow_the_nodes(cluster: None, search: Any) -> None:
    config = RunConfig(placement=PLACE, sweep=SweepConfig(num_samples=8, search=search))
    follower = FollowNodes(config, _search(config), NodeRequest("sweep"))
    assert follower.search_alg.max_concurrent == 2
    with another_node(4):
        follower.look([])
        assert follower.search_alg.max_concurrent == 4, "a node joined"
        capped = replace(config, sweep=replace(config.sweep, max_concurrent_trials=3))
        assert FollowNodes(capped, _search(capped), NodeRequest("sweep")).search_alg.max_concurrent == 3
        ended: list[Any] = [SimpleNamespace(is_finished=lambda: True)] * 7
        follower.look(ended)
        assert follower.search_alg.max_concurrent == 1, "one is left"
    follower.look([])
    assert follower.search_alg.max_concurrent == 2, "the node left"
