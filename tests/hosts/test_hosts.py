"""Runs on several hosts, whose own names mean 127.0.1.1 to themselves. `make soak-hosts` strikes many more of them."""

import time
from dataclasses import replace

from ldlva_dist.config import RunConfig
from testing.faults.checks import find_faults, numbers_of
from testing.hosts.cluster import HostCluster
from testing.hosts.harness import HostHarness, differing
from testing.hosts.remote_store import SLOW

LIMIT_S, CUT_S, CLEAN_S = 600.0, 6.0, 60.0
EVERY = 15


def short(config: RunConfig, cpus_per_worker: float) -> RunConfig:
    """12 of the 30 epochs. A host of two CPUs holds both ranks where each has 0.75, and one where it has 1.25."""
    training = replace(config.training, epochs=12.0, evaluate_every_epochs=12.0, checkpoint_every_steps=EVERY)
    placement = replace(config.placement, cpus_per_worker=cpus_per_worker)
    return replace(config, training=training, placement=placement)


def test_two_hosts_equal_one_through_a_cut_cable_a_lost_host_and_a_slow_store(hosts: HostCluster) -> None:
    """A cable is out for a while, and nothing is lost. Then that host is switched off, for good.

    The other run goes on from its checkpoint, over a store that answers 50 ms later.
    """
    harness = HostHarness(hosts, ())
    one, two = short(harness.config("one"), 0.75), short(harness.config("two"), 1.25)
    alone = hosts.submit_run(one)
    struck = hosts.submit_run(two)
    hosts.wait_for_checkpoint(two, EVERY, struck)
    by_host = hosts.ranks()
    assert sum(count == 1 for count in by_host.values()) == 2, by_host
    victim = min(by_host, key=lambda name: by_host[name])
    hosts.hosts[victim].plug(is_in=False)
    time.sleep(CUT_S)
    hosts.hosts[victim].plug(is_in=True)
    hosts.wait_for_checkpoint(two, 2 * EVERY, struck)
    assert hosts.ranks()[victim] == 1, "the cut cost no rank"
    hosts.store.set_faults(*SLOW)
    hosts.power_off(victim)
    assert [job.wait(LIMIT_S) for job in (alone, struck)] == [0, 0], alone.said + struck.said
    hosts.store.set_faults()

    assert "Traceback" not in struck.said
    assert hosts.orphans(CLEAN_S) == []
    with hosts.hosts["client"].network():
        numbers = numbers_of(one.uri)
        assert find_faults(two, two.uri, numbers) == []
        assert differing(one.uri, two.uri, len(numbers.losses)) == []
