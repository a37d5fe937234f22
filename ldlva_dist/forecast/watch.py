"""Private memory of a run's processes, by role, on every node; the pages that processes share do not count.

Shared are the object store, and libraries that are mapped from files: the store is counted by itself.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ldlva_dist.errors import ClusterError

ROLES = {
    "ray::RayTrainWorker": "trainer",
    "ray::BankShard": "bank shard",
    "ray::IndexShard": "index shard",
    "ray::MapBatches": "stream task",
    "ray::TrainController": "controller",
}
"""Role of a process, by the name that Ray gives it."""
DRIVER, OTHERS, STORE = "driver", "Ray's own", "object store"
EVERY_S, LIMIT_S = 0.1, 30.0


@dataclass(kw_only=True)
class Peak:
    """Of the processes of one role on one node."""

    processes: int = 0
    """Most at one time."""
    largest: int = 0
    """Bytes of the largest one."""
    together: int = 0
    """Bytes of all at one time."""

    def take(self, sizes: list[int]) -> None:
        """One look."""
        self.processes = max(self.processes, len(sizes))
        self.largest = max(self.largest, *sizes)
        self.together = max(self.together, sum(sizes))

    def join(self, other: "Peak") -> None:
        """With another node's; they need not have been at one time."""
        self.processes += other.processes
        self.largest = max(self.largest, other.largest)
        self.together += other.together


Peaks = dict[str, Peak]


@dataclass
class Watch:
    """Looks at some processes now and then, from a thread of its own."""

    peaks: Peaks = field(default_factory=dict)
    _roles: dict[int, str] = field(default_factory=dict)
    _done: threading.Event = field(default_factory=threading.Event)

    def start(self, parent: psutil.Process, *, itself: str | None = None) -> None:
        """Look at the children of a process, and at itself where that has a role, until :meth:`stop`."""
        threading.Thread(target=self._watch, args=(parent, itself), name="watch-memory", daemon=True).start()

    def stop(self) -> Peaks:
        """What was seen."""
        self._done.set()
        return self.peaks

    def _watch(self, parent: psutil.Process, itself: str | None) -> None:
        while True:
            sizes = self._sizes(parent.children() if itself is None else [])
            if itself is not None:
                sizes[itself] = [_private_bytes(parent)]
            for role, bytes_now in sizes.items():
                self.peaks.setdefault(role, Peak()).take(bytes_now)
            if self._done.wait(EVERY_S):
                return

    def _sizes(self, processes: Iterable[psutil.Process]) -> dict[str, list[int]]:
        sizes: dict[str, list[int]] = {}
        for process in processes:
            try:
                title, size = process.cmdline()[:1], _private_bytes(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            sizes.setdefault(self._role(process.pid, title[0] if title else ""), []).append(size)
        return sizes

    def _role(self, pid: int, title: str) -> str:
        """A worker that rests between two tasks keeps its role."""
        role = next((role for name, role in ROLES.items() if title.startswith(name)), None)
        if role is None:
            return self._roles.get(pid, OTHERS)
        self._roles[pid] = role
        return role


class NodeWatch:
    """Looks at the workers of the node it is an actor on."""

    def __init__(self) -> None:
        self._watch = Watch()
        raylet = psutil.Process().parent()
        assert raylet is not None, "an actor has a raylet"
        self._watch.start(raylet)

    def stop(self) -> Peaks:
        """What was seen since the start."""
        return self._watch.stop()


NodeActor: Any = cast(Any, ray.remote)(NodeWatch)


@contextmanager
def watching(peaks: Peaks) -> Iterator[None]:
    """Fill ``peaks`` with what this process and all nodes needed while the block was open.

    Other jobs that run on the cluster meanwhile are counted with it.

    Raises:
        ClusterError: where a node does not answer.
    """
    mine, store = Watch(), _StoreWatch()
    mine.start(psutil.Process(), itself=DRIVER)
    store.start()
    nodes = [_start(node["NodeID"]) for node in ray.nodes() if node["Alive"]]
    try:
        yield
        try:
            seen = cast(list[Peaks], ray.get([node.stop.remote() for node in nodes], timeout=LIMIT_S))
        except RayError as error:
            raise ClusterError(f"the memory of a node could not be watched: {error}") from error
    finally:
        mine.stop()
        store.stop()
        for node in nodes:
            ray.kill(node)
    for part in [mine.peaks, *seen]:
        for role, peak in part.items():
            peaks.setdefault(role, Peak()).join(peak)
    peaks[STORE] = Peak(processes=len(nodes), largest=store.peak, together=store.peak)


def _start(node_id: str) -> Any:
    """The watch of one node."""
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return NodeActor.options(num_cpus=0, scheduling_strategy=here).remote()


class _StoreWatch:
    """The most that the object stores of all nodes held."""

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="watch-store", daemon=True).start()

    def stop(self) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S):
            name = "object_store_memory"
            self.peak = max(
                self.peak, int(ray.cluster_resources().get(name, 0) - ray.available_resources().get(name, 0))
            )


def _private_bytes(process: psutil.Process) -> int:
    memory = process.memory_info()
    return memory.rss - memory.shared
