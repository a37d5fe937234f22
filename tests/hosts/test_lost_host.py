"""A host that is lost for good; `make hosts` runs it, `make test` does not, as Ray takes its time to give a host up."""

import time

from testing.hosts.cluster import HostCluster
from testing.hosts.remote_store import SLOW
from tests.hosts.pairs import CLEAN_S, EVERY, LIMIT_S, assert_equal, configs

CUT_S = 6.0


def test_two_hosts_equal_one_through_a_cut_cable_a_lost_host_and_a_slow_store(hosts: HostCluster) -> None:
    """A cable is out for a while, and nothing is lost. Then that host is switched off, for good.

    The other run goes on from its checkpoint, over a store that answers 50 ms later.
    """
    one, two = configs("alone", "struck", epochs=12.0)
    alone, struck = hosts.submit_run(one), hosts.submit_run(two)
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
    hosts.start_host(victim)  # for the tests after this one
    hosts.start_nodes(victim)

    assert "Traceback" not in struck.said
    assert hosts.orphans(CLEAN_S) == []
    assert_equal(hosts, one, two)
