"""A real store (Swift) for each file of tests, and a proxy in front of it that breaks what it is told to."""

import os
from collections.abc import Iterator

import pytest

from ldlva_dist.storage.s3.client import client
from testing.s3_store import FaultProxy, Swift, use_store

BUCKET = "s3://faces"


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    """The store, with a bucket; the environment is the one it is reached by."""
    before = dict(os.environ)
    with Swift(tmp_path_factory.mktemp("swift")) as store:
        use_store(store.endpoint)
        client().create_bucket(Bucket="faces")
        yield store
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def proxy(swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    with FaultProxy(swift, tmp_path_factory.mktemp("proxy") / "log") as between:
        yield between


@pytest.fixture
def faults(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    """The store through the proxy, which breaks nothing yet; no call tries longer than 5 s."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv("LDLVA_S3_LIMIT_S", "5")
    proxy.set()
    return proxy
