import os
from collections.abc import Iterator

import pytest
import ray

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own spelling)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One local cluster for all tests of this folder; never anybody else's."""
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=500 * 2**20,
    )
    yield
    ray.shutdown()
