"""RAY_ADDRESS: what no head answers at is said within seconds, in one sentence; what is no address, too."""

import socket
import time

import pytest

from ldlva_dist.errors import ClusterError, SettingError
from ldlva_dist.runtime import connect, placement


@pytest.mark.parametrize(
    "address",
    ["auto", "ray://127.0.0.1:10001", "http://127.0.0.1:8265", "head", "127.0.0.1:99999", "[::1:3", "a\nb:1"],
)
def test_what_is_no_address_of_a_head_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SettingError, match="RAY_ADDRESS must be HOST:PORT of a running head, or not set, got"):
        placement.connect()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_head_that_is_gone_is_said_at_once(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"{host}:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        began = time.monotonic()
        with pytest.raises(ClusterError, match=f"must name a running head, but nobody answers at {address}"):
            placement.connect()
        assert time.monotonic() - began < 30


def test_a_host_without_a_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "no.such.host.invalid:6379")
    with pytest.raises(ClusterError, match=r"no\.such\.host\.invalid is no name that can be resolved"):
        placement.connect()


def test_who_listens_and_is_no_head_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "HEAD_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert connect.why_no_head(address) == f"what listens at {address} does not answer as one does"
