import os
from collections.abc import Iterator

import pytest

from testing.hosts.cluster import WORKERS, HostCluster, host_cluster
from testing.hosts.spaces import why_no_hosts

SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
}
"""A host that is silent is given up after some 20 s, in place of a minute."""


@pytest.fixture(scope="package")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    """A head, workers of 2 CPUs, a store with a data set, a client: on hosts of their own. The last worker is spot."""
    if why := why_no_hosts():
        pytest.skip(why)
    before = dict(os.environ)
    folder, shared = tmp_path_factory.mktemp("hosts"), tmp_path_factory.mktemp("shared")
    cpus: dict[str, int] = dict.fromkeys(WORKERS, 2)
    with host_cluster(folder, cpus=cpus, settings=SOON, spot=WORKERS[-1:], shared=shared) as cluster:
        cluster.begin_node("head")
        cluster.draw_faces()
        cluster.wait_for_node("head")
        cluster.start_nodes(*WORKERS)
        yield cluster
    os.environ.clear()
    os.environ.update(before)
