"""A run on several hosts, whose own names mean 127.0.1.1 to themselves. `make soak-hosts` strikes many more of them."""

import numpy as np

from testing.hosts.cluster import HostCluster
from testing.hosts.kinds import HOST_KINDS, HostScene
from tests.hosts.pairs import CLEAN_S, EVERY, LIMIT_S, assert_equal, configs

KINDS, SEED = ("cable out 1 s", "store slow"), 0
"""Faults that are over soon."""


def test_two_hosts_equal_one_through_faults_drawn_by_seed(hosts: HostCluster) -> None:
    """After each of the first checkpoints of the run on two hosts comes a fault."""
    one, two = configs("one", "two", epochs=4.0)
    alone, struck = hosts.submit_run(one), hosts.submit_run(two)
    random = np.random.default_rng(SEED)
    scene = HostScene(cluster=hosts, config=two, job=struck, random=random)
    with scene.later:
        for number, kind in enumerate(random.permutation(KINDS), start=1):
            hosts.wait_for_checkpoint(two, number * EVERY, struck)
            assert {*hosts.shards()} in ({"h1"}, {"h2"}, {"h1", "h2"}), "no bank on the head, none on a spot machine"
            HOST_KINDS[kind].strike(scene)
        assert [job.wait(LIMIT_S) for job in (alone, struck)] == [0, 0], alone.said + struck.said
    assert "Traceback" not in struck.said
    assert hosts.orphans(CLEAN_S) == []
    assert_equal(hosts, one, two)
