"""A local cluster for many tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray

TAKE_LIMIT_S = 300.0


@contextmanager
def shared_cluster() -> Iterator[None]:
    """One node of four CPUs to which this process is connected; gone after the block."""
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=500 * 2**20,
    )
    yield
    ray.shutdown()


@contextmanager
def taken(cpus: float) -> Iterator[None]:
    """CPUs of the cluster that nobody else has for a while; within one node."""
    group = ray.util.placement_group([{"CPU": cpus}])
    try:
        ray.get(group.ready(), timeout=TAKE_LIMIT_S)
        yield
    finally:
        ray.util.remove_placement_group(group)
