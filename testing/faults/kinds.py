"""The faults, one function each: strike a run at its moment, and say what was struck."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ldlva_dist.checkpoint.saved_files import SavedFiles
from ldlva_dist.checkpoint.state_file import STATE
from testing.faults.cluster import BANK, CONTROL, CONTROLLER, RANK, FaultCluster, stopped
from testing.s3_store import FaultProxy, Swift
from testing.training_jobs import wait_until

NOTICE_S = 10.0
LEAVES = r"a node goes in \d+ s: step (\d+) is saved, and Ray will start the workers again[\s\S]*resuming .*-0*\1$"
"""What a run says where a node goes: it goes on where it had stood still, so that no step is lost."""
SLOW_DOWN = {"kind": "status", "status": 503, "code": "SlowDown"}
STORE_FAULTS = {
    "503": [SLOW_DOWN | {"method": method, "times": 6} for method in ("PUT", "GET")],
    "reset": [{"kind": "reset", "method": method, "share": 0.5, "times": 6} for method in ("PUT", "GET")],
    "stall": [{"kind": "stall", "share": 0.5, "seconds": 8.0, "times": 2}, SLOW_DOWN | {"method": "PUT"}],
    "latency": [{"kind": "latency", "method": "PUT", "seconds": 1.0, "times": 4}],
}


@dataclass(kw_only=True)
class Scene:
    """A run, and what a fault needs to get at it."""

    cluster: FaultCluster
    run_uri: str
    random: np.random.Generator
    job: subprocess.Popen[bytes]
    swift: Swift | None = None
    """The store that the run is on, for faults of the store."""
    proxy: FaultProxy | None = None
    later: ExitStack = field(default_factory=ExitStack)
    """What ends the fault when the job that it struck has ended."""

    def pick(self, class_name: str, of: int = 1) -> int:
        """Process of an actor, by lot, as soon as so many are there."""
        pids: list[int] = []

        def are_there() -> bool:
            pids[:] = self.cluster.pids(class_name)
            return len(pids) >= of

        wait_until(are_there, self.job, f"{of} {class_name}")
        return pids[int(self.random.integers(len(pids)))]


def kill_rank(scene: Scene) -> str:
    return _kill(scene.pick(RANK, of=2), "rank")


def kill_stream_task(scene: Scene) -> str:
    """Tasks are short in a run of this size: one is caught as soon as it is seen."""
    tasks: list[int] = []
    wait_until(lambda: bool(tasks.extend(scene.cluster.stream_tasks()) or tasks), scene.job, "a task of the stream")
    return _kill(tasks[int(scene.random.integers(len(tasks)))], "task of the stream")


def kill_bank(scene: Scene) -> str:
    return _kill(scene.pick(BANK, of=2), "bank actor")


def kill_node(scene: Scene) -> str:
    nodes = scene.cluster.nodes_of(RANK) or scene.cluster.nodes_of(BANK)
    node = nodes[int(scene.random.integers(len(nodes)))]
    scene.cluster.replace_node(node)
    return f"node of {len(nodes)}"


def kill_driver(scene: Scene) -> str:
    scene.job.kill()
    return "driver"


def terminate_driver(scene: Scene) -> str:
    scene.job.terminate()
    return "driver"


def stop_rank(scene: Scene) -> str:
    return _hold(scene.pick(RANK, of=2), float(scene.random.uniform(1, 8)), "rank")


def stop_bank(scene: Scene) -> str:
    """For less than the limit of a lookup, so that the run waits; or for more, so that it starts again."""
    seconds = float(scene.random.choice([scene.random.uniform(1, 6), scene.random.uniform(16, 24)]))
    return _hold(scene.pick(BANK, of=2), seconds, "bank actor")


def kill_controller(scene: Scene) -> str:
    return _kill(scene.pick(CONTROLLER), "controller")


def kill_control(scene: Scene) -> str:
    return _kill(scene.pick(CONTROL), "actor that driver and workers talk through")


def fill_disk(scene: Scene) -> str:
    """Until the job has ended; then there is room again, and the same command goes on."""
    ballast = Path(scene.run_uri).parent / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            what = error.strerror
    scene.later.callback(ballast.unlink)
    return f"{what}, {ballast.stat().st_size >> 20} MiB of others"


def break_store(scene: Scene) -> str:
    """Answers that fail, break off or come late; or a store that is away for a while."""
    assert scene.proxy
    assert scene.swift
    name = str(scene.random.choice([*STORE_FAULTS, "outage"]))
    if name == "outage":
        scene.swift.kill()
        back = threading.Timer(float(scene.random.uniform(2, 8)), scene.swift.start)
        back.start()
        scene.later.callback(back.join)
    else:
        scene.proxy.set(*STORE_FAULTS[name])
        scene.later.callback(scene.proxy.set)
    return f"store: {name}"


def damage_checkpoint(scene: Scene) -> str:
    """The driver is killed; before the same command goes on, the newest checkpoint changes."""
    kill_driver(scene)
    scene.job.wait()
    scene.cluster.orphans(within_s=30)
    newest = SavedFiles.newest(scene.run_uri)
    assert newest is not None, "there is a checkpoint"
    name = str(scene.random.choice([*newest.names(), STATE]))
    how = str(scene.random.choice(["flip", "cut", "remove"]))
    path = Path(newest.uri, name)
    if how == "flip":
        data = bytearray(path.read_bytes())
        data[int(scene.random.integers(len(data)))] ^= 1
        path.write_bytes(data)
    elif how == "cut":
        os.truncate(path, int(scene.random.integers(path.stat().st_size)))
    else:
        path.unlink()
    return f"{how} {Path(newest.uri).name}/{name}"


def drain_node(scene: Scene) -> str:
    """Notice that a node of a rank goes; it goes when it was said, and another comes."""
    nodes = scene.cluster.nodes_of(RANK)
    node = nodes[int(scene.random.integers(len(nodes)))]
    scene.cluster.drain_node(node, NOTICE_S)
    end = time.monotonic() + NOTICE_S
    while time.monotonic() < end and scene.job.poll() is None:
        time.sleep(0.1)
    scene.cluster.replace_node(node)
    return f"node of {len(nodes)}"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A fault, and what comes of it."""

    strike: Callable[[Scene], str]
    exit_code: int = 0
    """Of the job that was struck. Other than 0, the same command goes on, and ends with 0."""
    place: Literal["disk", "small disk", "store"] = "disk"
    """Where the run is kept."""
    from_step: int = 0
    """The earliest moment; at step 0 the workers are starting."""
    until_step: int | None = None
    """The moment is before this one; None: before the run's last steps."""
    long: bool = False
    """Struck in a run of many more steps."""
    says: str = ""
    """Regular expression of what the job says of it."""


KINDS = {
    "kill node": Kind(strike=kill_node, from_step=1),
    "full disk": Kind(strike=fill_disk, exit_code=4, place="small disk", from_step=1),
    "broken store": Kind(strike=break_store, place="store"),
    "kill stream task": Kind(strike=kill_stream_task, until_step=1),
    "kill control actor": Kind(strike=kill_control),
    "stop bank": Kind(strike=stop_bank, from_step=1),
    "kill bank": Kind(strike=kill_bank, from_step=1),
    "damaged checkpoint": Kind(strike=damage_checkpoint, exit_code=-signal.SIGKILL, from_step=12),
    "stop rank": Kind(strike=stop_rank),
    "terminate driver": Kind(strike=terminate_driver, exit_code=130, from_step=1),
    "kill driver": Kind(strike=kill_driver, exit_code=-signal.SIGKILL),
    "node is taken away": Kind(strike=drain_node, from_step=1, long=True, says=LEAVES),
    "kill rank": Kind(strike=kill_rank),
    "kill controller": Kind(strike=kill_controller, exit_code=4, from_step=1),
}


def _kill(pid: int, what: str) -> str:
    os.kill(pid, signal.SIGKILL)
    return what


def _hold(pid: int, seconds: float, what: str) -> str:
    with stopped(pid):
        time.sleep(seconds)
    return f"{what} for {seconds:.1f} s"
