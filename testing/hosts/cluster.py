"""A cluster on hosts of their own: a head without CPUs, workers, a store, and a client that submits jobs."""

import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ldlva_dist import storage
from ldlva_dist.checkpoint.saved_files import checkpoint_steps
from ldlva_dist.config import RunConfig, to_json
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.graph import build_graph
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES
from ldlva_dist.runtime.placement import MARKET_TYPE, SPOT
from ldlva_dist.storage.s3.client import client
from testing.faults.cluster import OF_THE_CLUSTER, OF_THE_NODES, RANK
from testing.hosts.remote_store import RemoteStore
from testing.hosts.spaces import ROOT, Host, Switch, command_of, wait_for
from testing.local_packing import pack_here
from testing.s3_store import use_store

ADDRESSES = {"head": "10.77.0.1", "h1": "10.77.0.2", "h2": "10.77.0.3", "h3": "10.77.0.4"} | {
    "client": "10.77.0.8",
    "store": "10.77.0.9",
}
WORKERS = ("h1", "h2", "h3")
HEAD_PORT = 6379
STORE_LIMIT_S = 40
"""A call of the store is tried again for so long; a store that is full ends each of a run's starts only then."""
CHECKPOINT_LIMIT_S = 600.0
TOO_SLOW = "timed out during startup"
START_LIMIT_S, CLEAN_LIMIT_S = 600.0, 90.0
BUCKET, FACES = "s3://lab", "s3://lab/faces"
RAY = str(ROOT / ".venv" / "bin" / "ray")
SHARD = "BankShard"
OF_A_JOB = ("ray::", "python jobs/", f"{ROOT}/.venv/bin/python jobs/")
OF_NO_JOB = tuple(f"ray::{name}" for name in OF_THE_CLUSTER + OF_THE_NODES)


@dataclass(kw_only=True)
class SubmittedJob:
    """A job that the client submitted, and what it said to who did."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        """All that came on the terminal."""
        return self.log.read_text(errors="replace")

    def wait(self, limit_s: float) -> int:
        """Exit code of ``ray job submit``."""
        return self.process.wait(limit_s)


@dataclass(kw_only=True)
class HostCluster:
    """The hosts by name, and the nodes of Ray on them."""

    folder: Path
    """For logs."""
    switch: Switch
    settings: Mapping[str, str]
    """Variables of the environment of every node."""
    hosts: dict[str, Host] = field(default_factory=dict)
    store: RemoteStore
    cpus: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(WORKERS, 1))
    """Of the workers' hosts, as Ray is told."""
    delays_ms: Mapping[str, float] = field(default_factory=dict)
    """Of the lines before some hosts, each way."""
    spot: tuple[str, ...] = ()
    """Hosts that bear the label of spot machines."""
    shared: Path | None = None
    """A folder that all hosts have in common."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def start_host(self, name: str, *, disk_mib: int = 1024) -> Host:
        """Switch on a machine, whose disk is empty."""
        self.hosts[name] = host = Host(name, ADDRESSES, self.switch, disk_mib=disk_mib, shared=self.shared)
        if name in self.delays_ms:
            host.slow_down(self.delays_ms[name], self.folder / f"line-{name}.log")
        return host

    def power_off(self, name: str) -> None:
        """Take the power from a machine."""
        self.hosts.pop(name).end()

    def environment(self, **others: str) -> dict[str, str]:
        """Of a process on a host."""
        return {
            "HOME": "/tmp/home",
            "PATH": f"{ROOT}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
            "RAY_JOB_STOP_WAIT_TIME_S": "90",
            "RAY_worker_maximum_startup_concurrency": "8",
            "RAY_grpc_keepalive_timeout_ms": "60000",
            "RAY_object_manager_pull_timeout_ms": "3000",
            "AWS_ENDPOINT_URL": self.store.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "bench:writer",
            "AWS_SECRET_ACCESS_KEY": "bench-secret",
            "AWS_EC2_METADATA_DISABLED": "true",
            "LDLVA_S3_LIMIT_S": str(STORE_LIMIT_S),
            **self.settings,
            **others,
        }

    def begin_node(self, name: str, **environment: str) -> None:
        """Begin to start Ray on a host, as its service manager does; the head has no CPUs."""
        options = [
            "--num-cpus",
            str(self.cpus.get(name, 0)),
            "--object-store-memory",
            str(150 << 20),
            "--disable-usage-stats",
            "--block",
        ]
        options += ["--node-ip-address", ADDRESSES[name]]
        options += ["--labels", f"{MARKET_TYPE}={SPOT}"] if name in self.spot else []
        if name == "head":
            options += ["--head", "--port", str(HEAD_PORT), "--dashboard-host", "0.0.0.0"]
        else:
            options += ["--address", f"{ADDRESSES['head']}:{HEAD_PORT}"]
        self._log(name).write_bytes(b"")
        with open(self._log(name), "ab") as output:
            start = ["python", "-m", "testing.hosts.start_ray", "start"]
            self.hosts[name].popen([*start, *options], self.environment(**environment), output)

    def wait_for_node(self, name: str) -> None:
        """Return once Ray has started there."""
        log = self._log(name)

        def is_up() -> bool:
            if TOO_SLOW in log.read_text():  # Ray gives a node's agent half a minute, which a busy machine may not have
                self.end_node(name)
                self.begin_node(name)
            return "Ray runtime started" in log.read_text()

        wait_for(is_up, f"Ray node on {name} ({log})", START_LIMIT_S)

    def end_node(self, name: str) -> None:
        """End Ray on a host, without notice, and all else that runs there."""
        self.hosts[name].kill("")
        wait_for(lambda: not self.hosts[name].processes(), f"end of Ray on {name}", START_LIMIT_S)

    def start_redis(self) -> None:
        """Let heads keep what they know in a Redis beside the store; before the first one is started."""
        command = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/tmp", "--save", ""]
        with open(self.folder / "redis.log", "wb") as output:
            self.hosts["store"].popen(command, self.environment(PATH=os.environ["PATH"]), output)
        self.settings = {**self.settings, "RAY_REDIS_ADDRESS": f"{ADDRESSES['store']}:6379"}

    def start_nodes(self, *names: str) -> None:
        """Start Ray on hosts; the head first, where it is among them."""
        for some in ([name for name in names if name == "head"], [name for name in names if name != "head"]):
            for name in some:
                self.begin_node(name)
            for name in some:
                self.wait_for_node(name)

    def draw_faces(self) -> None:
        """Put a data set of 270 training samples, with its graph, into the store."""
        folder = self.folder / "set"
        source = FacesSource(train=300, test=60, pixels=48, flip_share=0.3, seed=0)
        pack_here(source, folder, PackSettings(name="faces", class_names=REFERENCE_CLASSES))
        build_graph(Dataset.open(str(folder)), 4)
        self.upload(folder)

    def upload(self, folder: Path) -> None:
        """Put a packed data set into the store."""
        with self.hosts["client"].network():
            for path in filter(Path.is_file, folder.rglob("*")):
                storage.upload(str(path), f"{FACES}/{path.relative_to(folder)}")

    def write_settings(self, config: RunConfig) -> str:
        """Where a job finds the settings of a run."""
        uri = f"{BUCKET}/settings/{config.name}.json"
        with self.hosts["client"].network():
            storage.write_bytes(uri, to_json(config).encode())
        return uri

    def submit_run(self, config: RunConfig, label: str | None = None) -> SubmittedJob:
        """Submit jobs/train.py with the settings of a run."""
        command = ["python", "jobs/train.py", "--config", self.write_settings(config)]
        return self.submit(label or config.name, command)

    def start_run(self, config: RunConfig, name: str) -> SubmittedJob:
        """Start jobs/train.py on a worker's host, as one does who does not submit; it joins the head from there."""
        command = ["python", "jobs/train.py", "--config", self.write_settings(config)]
        address = f"{ADDRESSES['head']}:{HEAD_PORT}"
        log = self.folder / f"{config.name}.log"
        with open(log, "ab") as output:
            process = self.hosts[name].popen(command, self.environment(RAY_ADDRESS=address), output)
        return SubmittedJob(process=process, log=log)

    def wait_for_checkpoint(self, config: RunConfig, step: int, job: SubmittedJob) -> None:
        """Return once the run that a job makes has a checkpoint of this step, or of a later one.

        On a store, metrics are written when a run saves.
        """

        def is_there() -> bool:
            assert job.process.poll() is None, f"the job ended before step {step}: {job.said[-2000:]}"
            return max(checkpoint_steps(config.uri), default=0) >= step

        with self.hosts["client"].network():
            wait_for(is_there, f"checkpoint of step {step} of {config.name}", CHECKPOINT_LIMIT_S)

    def submit(self, label: str, command: Sequence[str]) -> SubmittedJob:
        """Submit a job from the client to the head, as a user does."""
        log = self.folder / f"{label}.log"
        submit = [RAY, "job", "submit", "--address", f"http://{ADDRESSES['head']}:8265", "--working-dir", "."]
        with open(log, "ab") as output:
            process = self.hosts["client"].popen([*submit, "--", *command], self.environment(), output)
        return SubmittedJob(process=process, log=log)

    def run_on(self, name: str, command: Sequence[str], limit_s: float) -> tuple[int, str]:
        """Exit code and output of a command on a host, with the environment of a node."""
        process = self.hosts[name].popen(command, self.environment(), subprocess.PIPE)
        said, _ = process.communicate(timeout=limit_s)
        return process.returncode, said.decode(errors="replace")

    def ranks(self) -> dict[str, int]:
        """How many training workers are on each host that has some."""
        counts = {name: sum(RANK in command_of(p) for p in self.hosts[name].processes()) for name in self._workers()}
        return {name: count for name, count in counts.items() if count}

    def shards(self) -> dict[str, int]:
        """How many actors of banks are on each host that has some."""
        counts = {name: sum(SHARD in command_of(p) for p in host.processes()) for name, host in self.hosts.items()}
        return {name: count for name, count in counts.items() if count}

    def orphans(self, limit_s: float = CLEAN_LIMIT_S) -> list[str]:
        """What is left of jobs on any host, once it has had some seconds to go."""
        left: list[str] = []

        def is_clean() -> bool:
            left[:] = self._left_over()
            return not left

        try:
            wait_for(is_clean, "end of what belongs to jobs", limit_s)
        except AssertionError:
            return left
        return []

    def _left_over(self) -> list[str]:
        found = [(name, command_of(each)) for name, host in self.hosts.items() for each in host.processes()]
        working = [(name, line) for name, line in found if line.startswith(OF_A_JOB)]
        return [f"{line[:80]} on {name}" for name, line in working if not line.startswith(OF_NO_JOB)]

    def _workers(self) -> list[str]:
        return [name for name in WORKERS if name in self.hosts]

    def _log(self, name: str) -> Path:
        return self.folder / f"ray-{name}.log"


@contextmanager
def host_cluster(
    folder: Path,
    *,
    cpus: Mapping[str, int] | None = None,
    settings: Mapping[str, str] | None = None,
    delays_ms: Mapping[str, float] | None = None,
    spot: tuple[str, ...] = (),
    shared: Path | None = None,
) -> Iterator[HostCluster]:
    """Hosts without nodes of Ray yet, and the store with a bucket; all gone after the block.

    Args:
        folder: For logs.
        cpus: Of the workers' hosts, as Ray is told; one each by default.
        settings: Further variables of the environment of every node.
        delays_ms: Of slow lines before some hosts, each way.
        spot: Hosts that bear the label of spot machines.
        shared: A folder that all hosts but the store's have in common.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        switch = Switch()
        stack.callback(switch.end)
        hosts = {"store": Host("store", ADDRESSES, switch)}
        stack.callback(lambda: [host.end() for host in hosts.values()])
        store = RemoteStore(hosts["store"], folder / "store.log")
        made = HostCluster(folder=folder, switch=switch, settings=settings or {}, store=store, hosts=hosts)
        made.cpus, made.delays_ms, made.spot, made.shared = cpus or made.cpus, delays_ms or {}, spot, shared
        for name in ADDRESSES:
            if name != "store":
                made.start_host(name)
        use_store(store.endpoint)
        with made.hosts["client"].network():
            client().create_bucket(Bucket="lab")
        yield made
