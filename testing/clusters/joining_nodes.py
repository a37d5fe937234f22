"""Nodes that join the tests' cluster for a while, and are lost."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import ray
from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams

JOIN_LIMIT_S = 60


@contextmanager
def another_node(
    num_cpus: int,
    resources: dict[str, float] | None = None,
    num_gpus: int = 0,
    labels: dict[str, str] | None = None,
) -> Iterator[Node]:
    """A node beside the first one, made as ``ray.cluster_utils.Cluster`` makes its nodes; gone after the block.

    Ray counts the CPUs and GPUs that it is told of.
    """
    address = ray.get_runtime_context().gcs_address
    parameters = RayParams(
        gcs_address=address,
        redis_address=address,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=resources,
        labels=labels,
        object_store_memory=150 * 2**20,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        include_log_monitor=False,  # pyright: ignore[reportArgumentType]
    )
    parameters.dashboard_agent_listen_port = None
    node = Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=True)
    try:
        services.wait_for_node(address, str(node.plasma_store_socket_name), JOIN_LIMIT_S)
        yield node
    finally:
        lose(node)


def lose(node: Node) -> None:
    """End a node with all that works on it; nothing to do where that was done."""
    if node.any_processes_alive():
        node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)


def training_workers(*, on: Node | None = None) -> list[psutil.Process]:
    """Training workers of another job on a node, or on the first one."""
    here = f"--node_id={on.node_id if on else ray.get_runtime_context().get_node_id()}"
    family = psutil.Process().children(recursive=True)
    (raylet,) = [process for process in family if process.name() == "raylet" and here in process.cmdline()]
    return [process for process in raylet.children(recursive=True) if "TrainWorker" in _command(process)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
