"""The network interface of a worker's collectives: the one that bears the address by which Ray knows its node."""

import os
import socket
import sys
from typing import Any

import psutil
import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def take_node_interface() -> str | None:
    """Let gloo and NCCL of this process use the interface of Ray's node address, unless the user chose one.

    Gloo takes the address of the host's own name otherwise, which is 127.0.1.1 on many machines: the ranks of other
    hosts then wait for one that cannot be reached.

    Returns:
        The interface; None where none bears the address, as behind an address that is translated.
    """
    name = interface_of(ray.util.get_node_ip_address())
    for variable in VARIABLES if name else ():
        os.environ.setdefault(variable, str(name))
    return name


def interface_of(address: str) -> str | None:
    """Name of this host's interface that bears an IPv4 or IPv6 address; None where there is none."""
    families = (socket.AF_INET, socket.AF_INET6)
    for name, bound in psutil.net_if_addrs().items():
        if any(each.family in families and each.address.partition("%")[0] == address for each in bound):
            return name
    return None


def nodes_without_interface(limit_s: float) -> dict[str, str]:
    """Nodes whose collectives would not use Ray's network, by address, and why.

    Raises:
        GetTimeoutError: where a node does not answer in ``limit_s`` seconds.
    """
    # By value: a node need not have this program installed.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = [_task_on(node["NodeID"]).remote(node["NodeManagerAddress"]) for node in nodes]
        found = ray.get(asked, timeout=limit_s)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    return {node["NodeManagerAddress"]: why for node, why in zip(nodes, found, strict=True) if why}


def _task_on(node_id: str) -> Any:
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(why_unusable).options(num_cpus=0, scheduling_strategy=here, max_retries=0)


def why_unusable(address: str) -> str:
    """What keeps this host's collectives from the interface of ``address``; empty where nothing does."""
    name = interface_of(address)
    if name is None:
        return f"no interface bears {address}, by which Ray knows the node"
    for variable in VARIABLES:
        chosen = os.environ.get(variable, name).lstrip("=^").partition(":")[0]
        if not name.startswith(chosen) and chosen != name:
            return f"{variable} is {chosen}, and Ray's address {address} is on {name}"
    return ""
