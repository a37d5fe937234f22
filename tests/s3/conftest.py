"""One real store (Swift) for all files of tests, each in its own folder, and a proxy that breaks what it is told to."""

import os
from collections.abc import Iterator

import pytest

from ldlva_dist.storage.s3.client import client
from testing.clusters.shared_cluster import shared_cluster
from testing.s3_store import FaultProxy, Swift, use_store

BUCKET = "s3://faces"


@pytest.fixture(scope="package")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    """The store, with a bucket; the environment is the one it is reached by."""
    before = dict(os.environ)
    with Swift(tmp_path_factory.mktemp("swift")) as store:
        use_store(store.endpoint)
        client().create_bucket(Bucket="faces")
        yield store
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="package")
def proxy(swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    with FaultProxy(swift, tmp_path_factory.mktemp("proxy") / "log") as between:
        yield between


@pytest.fixture(scope="package")
def cluster(swift: Swift, proxy: FaultProxy) -> Iterator[None]:
    """A local cluster whose workers know the store through the proxy."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own spelling)
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    with shared_cluster():
        os.environ["AWS_ENDPOINT_URL"] = swift.endpoint
        yield


@pytest.fixture
def faults(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    """The store through the proxy, which breaks nothing yet; no call tries longer than 5 s."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv("LDLVA_S3_LIMIT_S", "5")
    proxy.set()
    return proxy
