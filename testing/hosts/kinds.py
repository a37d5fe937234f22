"""The faults of hosts, one function each: strike a run at its moment, and say what was struck."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np

from ldlva_dist.config import RunConfig
from testing.faults.kinds import LEAVES
from testing.hosts import wrong_clock
from testing.hosts.cluster import ADDRESSES, WORKERS, HostCluster, SubmittedJob
from testing.hosts.remote_store import SLOW
from testing.hosts.spaces import command_of, wait_for

RANKS_LIMIT_S, NOTICE_S, SPARE_S, JOB_LIMIT_S, HEAD_LIMIT_S = 120.0, 20.0, 5.0, 600.0, 150.0
MOST_FAILURES = 5
EPOCHS, LONG_EPOCHS, LONGEST_EPOCHS = 30.0, 60.0, 110.0
"""Of a run of some 300 steps, and of longer ones, which still go on when what follows the strike is over: without its
head a run goes on for as long as nobody notices."""
GIVE_UP_S = 60.0
"""A job that is connected to a head which dies has ended so soon."""
SHORT_S, LONG_S, VERY_LONG_S = 1.0, 20.0, 300.0


@dataclass(kw_only=True)
class HostScene:
    """A run on hosts, and what a fault needs to get at it."""

    cluster: HostCluster
    config: RunConfig
    job: SubmittedJob
    random: np.random.Generator
    later: ExitStack = field(default_factory=ExitStack)
    """What ends the fault when the job that it struck has ended."""

    def pick(self) -> str:
        """A host with a rank, by lot, as soon as there is one."""
        names: list[str] = []
        wait_for(lambda: bool(names.extend(self.cluster.ranks()) or names), "rank", RANKS_LIMIT_S)
        return names[int(self.random.integers(len(names)))]

    def return_empty(self, name: str) -> None:
        """Switch a machine on again, with a node of Ray."""
        self.cluster.start_host(name)
        self.cluster.start_nodes(name)

    def wait(self, seconds: float) -> None:
        """Let a fault last, unless the job ends before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.job.process.poll() is None:
            time.sleep(0.1)


def pull_cable(scene: HostScene, seconds: float) -> str:
    """A node that Ray gave up meanwhile is started again by its service manager, when it has ended."""
    name = scene.pick()
    host = scene.cluster.hosts[name]
    host.plug(is_in=False)
    time.sleep(seconds)
    host.plug(is_in=True)
    scene.later.callback(partial(_start_again, scene.cluster, name))
    return f"cable of {name} for {seconds:g} s"


def silence(scene: HostScene) -> str:
    """What one host says to another is lost; what that one says comes."""
    name = scene.pick()
    others = [other for other in ("head", *WORKERS) if other != name]
    deaf = others[int(scene.random.integers(len(others)))]
    host = scene.cluster.hosts[name]
    host.silence(ADDRESSES[deaf])
    scene.wait(LONG_S)
    host.end_silence(ADDRESSES[deaf])
    scene.later.callback(partial(_start_again, scene.cluster, name))
    return f"from {name} to {deaf} for {LONG_S:g} s"


def power_off(scene: HostScene) -> str:
    name = scene.pick()
    scene.cluster.power_off(name)
    time.sleep(LONG_S)
    scene.return_empty(name)
    return f"{name} for {LONG_S:g} s"


def lose_head(scene: HostScene) -> str:
    """What is left of Ray on the other hosts ends by itself, and is started again with a new head."""
    scene.cluster.power_off("head")
    began = time.monotonic()
    scene.job.wait(HEAD_LIMIT_S)
    gave_up_s = time.monotonic() - began
    assert gave_up_s <= GIVE_UP_S, f"the job ended {gave_up_s:.0f} s after the head"
    wait_for(lambda: not any(_has_node(scene.cluster, name) for name in WORKERS), "end of the nodes", HEAD_LIMIT_S)
    scene.cluster.start_host("head")
    scene.cluster.start_nodes("head", *WORKERS)
    return "head"


def return_head(scene: HostScene) -> str:
    """What the head knew lies in a Redis elsewhere, and all others wait for it."""
    scene.cluster.power_off("head")
    time.sleep(LONG_S)
    scene.return_empty("head")
    return f"head for {LONG_S:g} s"


def slow_store(scene: HostScene) -> str:
    scene.cluster.store.set_faults(*SLOW)
    scene.later.callback(scene.cluster.store.set_faults)
    return "50 ms more for each answer"


def cut_store(scene: HostScene) -> str:
    host = scene.cluster.hosts["store"]
    host.plug(is_in=False)
    time.sleep(LONG_S)
    host.plug(is_in=True)
    return f"cable of the store for {LONG_S:g} s"


def fill_store(scene: HostScene) -> str:
    """Until the job has ended; then there is room again."""
    scene.cluster.store.fill()
    scene.later.callback(scene.cluster.store.empty)
    return "disk of the store"


def fill_host(scene: HostScene) -> str:
    """Sockets, logs and spilt objects of Ray lie on that disk."""
    name = scene.pick()
    ballast = scene.cluster.hosts[name].disk() / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass
    scene.wait(LONG_S)
    ballast.unlink(missing_ok=True)
    return f"disk of {name} for {LONG_S:g} s"


def shift_clock(scene: HostScene) -> str:
    """Of a host whose node starts anew; its store takes no signature of another hour."""
    name = scene.pick()
    shift = int(scene.random.choice([-3600, 3600]))
    scene.cluster.end_node(name)
    for other in WORKERS:
        if other not in (name, *scene.cluster.ranks()):
            scene.cluster.end_node(other)  # no place but this one is left for the lost rank
            scene.later.callback(partial(_start_again, scene.cluster, other))
    scene.cluster.begin_node(name, **wrong_clock.shifted_clock(scene.cluster.hosts[name].disk(), shift))
    scene.cluster.wait_for_node(name)
    scene.later.callback(partial(_renew_node, scene.cluster, name))
    return f"{name} by {shift} s"


def join_node(scene: HostScene) -> str:
    """A host that was off when the run began."""
    name = next(name for name in WORKERS if name not in scene.cluster.hosts)
    scene.return_empty(name)
    return name


def second_run(scene: HostScene) -> str:
    """It takes the third CPU; then a host of the first run is lost, which waits for its CPUs or those of the other."""
    config, training = scene.config, replace(scene.config.training, epochs=EPOCHS, evaluate_every_epochs=EPOCHS)
    config = replace(config, name=f"{config.name}-other", training=training)
    config = replace(config, placement=replace(config.placement, num_workers=1))
    name = scene.pick()
    other = scene.cluster.submit_run(config)
    scene.cluster.wait_for_checkpoint(config, 1, other)
    assert scene.job.process.poll() is None, f"the run ended before it was struck: {scene.job.said[-2000:]}"
    scene.cluster.power_off(name)
    assert other.wait(JOB_LIMIT_S) == 0, other.said[-2000:]
    scene.return_empty(name)
    return f"{name}, while another run has what is left"


def second_submitter(scene: HostScene) -> str:
    other = scene.cluster.submit_run(scene.config, f"{scene.config.name}-second")
    code = other.wait(RANKS_LIMIT_S)
    assert code == 1, f"exit code {code} of the second submitter: {other.said[-2000:]}"
    assert "another job is running in" in other.said, other.said[-2000:]
    assert "Traceback" not in other.said, other.said[-2000:]
    return "same name"


def give_notice(scene: HostScene) -> str:
    """A file says that the host will be taken away; it goes soon after what was said, and another comes.

    Its node is ended when the time is over, so that Ray need not find out.
    """
    name = scene.pick()
    notice = "/tmp/notice"
    agent = ["python", "cluster/drain.py", "--notice-file", notice, "--seconds", f"{NOTICE_S:g}"]
    with open(scene.cluster.folder / f"drain-{name}.log", "ab") as output:
        host = scene.cluster.hosts[name]
        host.popen(agent, scene.cluster.environment(), output)
    (host.disk() / "notice").touch()
    time.sleep(NOTICE_S + SPARE_S)
    scene.cluster.power_off(name)
    scene.return_empty(name)
    return f"{name}, {NOTICE_S:g} s before it goes"


@dataclass(frozen=True, kw_only=True)
class HostKind:
    """A fault, and what comes of it."""

    strike: Callable[[HostScene], str]
    exit_code: Literal[0, 2, 4] | None = 0
    """The job's own, by jobs/status.py. Other than 0, the same command goes on and ends with 0; None: its head is gone,
    and ``ray job submit`` says what it likes."""
    workers: int | tuple[int, int] = 2
    """With two numbers the run may change its size, and its losses are compared but for rounding."""
    max_failures: int = MOST_FAILURES
    """Starts after the first one; a store that is full would be waited for in each."""
    without: str | None = None
    """Host that is off when the run begins."""
    last_checkpoint: int = 6
    """By number. A run is struck right after one of the first so many, by lot."""
    is_submitted: bool = True
    """Whether its driver is on the head; else on a worker's host."""
    epochs: float = EPOCHS
    says: tuple[str, ...] = ()
    """Regular expressions of what the job says, without which the fault had not struck."""


HOST_KINDS = {
    "cable out 1 s": HostKind(strike=partial(pull_cable, seconds=SHORT_S)),
    "power off": HostKind(strike=power_off),
    "store cut": HostKind(strike=cut_store),
    "notice": HostKind(strike=give_notice, epochs=LONG_EPOCHS, says=(LEAVES,)),
    "one-way silence": HostKind(strike=silence),
    "store full": HostKind(strike=fill_store, exit_code=4, max_failures=0),
    "cable out 20 s": HostKind(strike=partial(pull_cable, seconds=LONG_S)),
    "second submitter": HostKind(strike=second_submitter, last_checkpoint=1),
    "node joins": HostKind(
        strike=join_node, workers=(2, 3), without="h3", last_checkpoint=2, says=("the cluster holds 3 workers now",)
    ),
    "store slow": HostKind(strike=slow_store),
    "head lost": HostKind(strike=lose_head, exit_code=None),
    "head lost, job elsewhere": HostKind(
        strike=lose_head, exit_code=4, is_submitted=False, epochs=LONGEST_EPOCHS, last_checkpoint=2
    ),
    "host full": HostKind(strike=fill_host),
    "second run": HostKind(strike=second_run, last_checkpoint=1, epochs=LONG_EPOCHS, says=("waiting for workers",)),
    "clock wrong": HostKind(strike=shift_clock, exit_code=2),
    "cable out 5 min": HostKind(strike=partial(pull_cable, seconds=VERY_LONG_S)),
}

NEEDS_REDIS = "head back"
"""Of a cluster of its own kind, so that it is not drawn with the others."""
HOST_KINDS[NEEDS_REDIS] = HostKind(strike=return_head, is_submitted=False)


def _has_node(cluster: HostCluster, name: str) -> bool:
    return any("raylet/raylet" in command_of(process) for process in cluster.hosts[name].processes())


def _start_again(cluster: HostCluster, name: str) -> None:
    """Start Ray on a host where it has ended."""
    if not _has_node(cluster, name):
        _renew_node(cluster, name)


def _renew_node(cluster: HostCluster, name: str) -> None:
    cluster.end_node(name)
    cluster.start_nodes(name)
