"""A small cluster that things happen to: a head without CPUs, where the drivers are, and two nodes that may go."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psutil
import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2
from ray.util import placement_group_table

NUM_NODES = 2
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 150 << 20}
NOT_DEAD = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING")
OF_THE_CLUSTER = ("_AutoscalingCoordinatorActor", "_StatsActor", "_UsageCollectionActor")
"""Actors of which Ray Data keeps one for all jobs."""
OF_THE_NODES = ("IDLE", "DashboardAgent", "RuntimeEnvAgent")
"""What Ray's processes do that belong to no job."""
RANK, BANK, CONTROLLER, CONTROL = "TrainWorker", "BankShard", "TrainController", "RunControl"
"""In the names of actors' classes."""
STREAM_TASK = "ray::MapBatches"


class FaultCluster:
    """The cluster, what runs on it, and how a part of it is lost. Runs of one after the other share it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._own_job = ray.get_runtime_context().get_job_id()

    def pids(self, class_name: str) -> list[int]:
        """Processes of the living actors of a class, in the order of their start."""
        found = [a for a in self._actors("ALIVE") if class_name in a["ActorClassName"]]
        return [actor["Pid"] for actor in sorted(found, key=lambda a: (a["StartTime"], a["Pid"]))]

    def stream_tasks(self) -> list[int]:
        """Processes that read training data at this moment."""
        return [process.pid for process in self._processes() if _title(process).startswith(STREAM_TASK)]

    def nodes_of(self, class_name: str) -> list[str]:
        """Ids of the nodes, the head excepted, that hold living actors of a class."""
        held = {a["Address"]["NodeID"] for a in self._actors("ALIVE") if class_name in a["ActorClassName"]}
        return sorted(held & {node.node_id for node in self._cluster.worker_nodes})

    def replace_node(self, node_id: str) -> None:
        """Kill a node with everything that runs on it, and start another."""
        node = next(node for node in self._cluster.worker_nodes if node.node_id == node_id)
        self._cluster.remove_node(node, allow_graceful=False)
        self._cluster.add_node(**NODE)

    def drain_node(self, node_id: str, seconds: float) -> None:
        """Give notice that a node will be taken away, as a cloud does before it preempts a machine."""
        client = ray._raylet.GcsClient(address=self._cluster.address)  # pyright: ignore[reportAttributeAccessIssue]
        reason = cast(Any, autoscaler_pb2).DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + seconds) * 1000)
        accepted, why = client.drain_node(node_id, reason, "the machine is wanted elsewhere", deadline_ms)
        assert accepted, f"the drain was refused: {why}"

    def orphans(self, within_s: float) -> list[str]:
        """What is left of the jobs once they have had some seconds to go."""
        end = time.monotonic() + within_s
        while (left := self._what_is_left()) and time.monotonic() < end:
            time.sleep(0.2)
        return left

    def _what_is_left(self) -> list[str]:
        there = [a for state in NOT_DEAD for a in self._actors(state) if a["ActorClassName"] not in OF_THE_CLUSTER]
        actors = [f"actor {a['ActorClassName']} {a['State']}" for a in there]
        table: dict[str, Any] = placement_group_table()
        groups = [f"placement group {name}" for name, group in table.items() if group["state"] != "REMOVED"]
        titles = [_title(process) for process in self._processes()]
        others = tuple(f"ray::{name}" for name in OF_THE_CLUSTER + OF_THE_NODES)
        working = [title for title in titles if title.startswith("ray::") and not title.startswith(others)]
        return actors + groups + working

    def _actors(self, state: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = list(ray._private.state.actors(actor_state_name=state).values())  # pyright: ignore
        return [actor for actor in found if actor["JobID"] != self._own_job]

    def _processes(self) -> Iterator[psutil.Process]:
        for node in self._cluster.list_all_nodes():
            for raylet in node.all_processes.get("raylet", []):
                yield from psutil.Process(raylet.process.pid).children()


@contextmanager
def fault_cluster() -> Iterator[FaultCluster]:
    """Start one, and connect this process to its head; it is gone after the block."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own spelling)
    # What the two cost is not what is looked at: polls of the workers, and the watch over nodes that are taken away.
    os.environ |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
    # The dashboard is there because Ray Train's cleaner asks it who is alive.
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": None, "dashboard_agent_listen_port": None}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(NUM_NODES):
            cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield FaultCluster(cluster)
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process for as long as the block takes."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.NoSuchProcess:
        return ""
