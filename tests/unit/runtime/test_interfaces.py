"""Collectives use the interface that bears Ray's address of the node, whatever the host's name resolves to."""

import os
import socket
from types import SimpleNamespace

import psutil
import pytest
import ray

from ldlva_dist.runtime import interfaces
from ldlva_dist.runtime.interfaces import VARIABLES, interface_of, take_node_interface, why_unusable

LOOPBACK, POD = "lo", "eth7"


@pytest.fixture(autouse=True)
def two_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host as Debian makes it: its name is 127.0.1.1, its address is on another interface."""
    bound = {
        name: [SimpleNamespace(family=family, address=address)]
        for name, family, address in (
            (LOOPBACK, socket.AF_INET, "127.0.0.1"),
            ("eth0", socket.AF_INET6, "fe80::1%eth0"),
            (POD, socket.AF_INET, "10.8.0.3"),
        )
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: bound)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.8.0.3")
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")  # so that what the tested code sets goes again
        monkeypatch.delenv(variable)


def test_gloo_and_nccl_take_the_interface_of_rays_address() -> None:
    assert take_node_interface() == POD
    assert [os.environ[variable] for variable in VARIABLES] == [POD, POD]


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES[0], LOOPBACK)
    take_node_interface()
    assert [os.environ[variable] for variable in VARIABLES] == [LOOPBACK, POD]
    assert why_unusable("10.8.0.3") == f"GLOO_SOCKET_IFNAME is lo, and Ray's address 10.8.0.3 is on {POD}"


def test_a_node_whose_address_is_on_no_interface_is_told_of() -> None:
    assert interface_of("fe80::1") == "eth0"
    assert why_unusable("10.8.0.3") == ""
    assert "no interface bears 203.0.113.9" in why_unusable("203.0.113.9")
    assert interfaces.interface_of("203.0.113.9") is None
