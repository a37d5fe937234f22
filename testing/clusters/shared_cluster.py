"""A local cluster for many tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray


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
