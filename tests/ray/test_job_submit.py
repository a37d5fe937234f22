"""`ray job submit` against a head that cluster/local.sh starts: with its token it works, without one it is refused."""

import contextlib
import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from ldlva_dist.config import (
    DataConfig,
    ModelConfig,
    NeighborConfig,
    OptimConfig,
    PlacementConfig,
    RunConfig,
    SweepConfig,
    TrainingConfig,
    to_json,
)
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.graph import build_graph
from ldlva_dist.packing.passes.pack import pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.readers.folder import FolderSource
from ldlva_dist.packing.sources.rows import Part
from ldlva_dist.run.cli import parse_run

PROJECT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
READY_LIMIT_S, JOB_LIMIT_S, END_LIMIT_S, SWEEP_LIMIT_S = 240, 240, 60, 590
ALL_CPUS_ARE_FREE = """
import time, ray
ray.init()
end = time.monotonic() + 60
while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
    assert time.monotonic() < end, ray.available_resources()
    time.sleep(0.5)
"""


JOINED = """
from ldlva_dist.runtime.connect import connect
connect()
import ray
print("a task ran on", ray.get(ray.remote(ray.util.get_node_ip_address).remote(), timeout=60))
"""


@dataclass(frozen=True)
class Head:
    """A head that runs."""

    address: str
    gcs: str
    token: Path
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """cluster/local.sh with ports and a state folder of its own; ended by its own id."""
    # Sockets lie under the folder and their paths must be short: not pytest's.
    with tempfile.TemporaryDirectory(prefix="ldlva-", ignore_cleanup_errors=True) as folder:
        ports = free_ports(4)
        names = ("LDLVA_PORT", "LDLVA_DASHBOARD_PORT", "LDLVA_AGENT_PORT", "LDLVA_CLIENT_PORT")
        settings = {"LDLVA_STATE": f"{folder}/state", "LDLVA_RAY_TEMP": f"{folder}/ray", "LDLVA_NUM_CPUS": "2"}
        settings |= dict(zip(names, map(str, ports), strict=True))
        log = Path(folder) / "local.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(PROJECT / "cluster" / "local.sh")],
                env=without_token() | settings,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            wait_until_ready(process, log)
            gcs = f"127.0.0.1:{ports[0]}"
            yield Head(f"http://127.0.0.1:{ports[1]}", gcs, Path(folder) / "state" / "token", process)
        finally:
            end(process)


@pytest.fixture
def colours(cluster: None, tmp_path: Path) -> str:
    """A packed data set that is learnt in an epoch: 400 noisy images in seven colours, 70 more as holdout."""
    rng, names = np.random.default_rng(0), [f"colour {i:03b}" for i in range(1, 8)]
    rgb, va = np.array([[int(bit) for bit in name[-3:]] for name in names]) * 255, rng.uniform(-0.9, 0.9, (7, 2))
    tables: dict[Part, tuple[str, ...]] = {
        "train": (str(tmp_path / "train.csv"),),
        "holdout": (str(tmp_path / "holdout.csv"),),
    }
    for (part, (path,)), count in zip(tables.items(), (400, 70), strict=True):
        with open(path, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["subDirectory_filePath", "expression", "valence", "arousal"])
            for i in range(count):
                pixels = np.clip(rgb[i % 7] + rng.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"{part}{i}.png")
                table.writerow([f"{part}{i}.png", i % 7, *(va[i % 7] + rng.normal(0, 0.03, 2))])
    output = str(tmp_path / "colours")
    source = FolderSource(tables=tables, images=dict.fromkeys(tables, str(tmp_path)))
    pack(source, output, PackSettings(name="colours", class_names=tuple(names)))
    build_graph(Dataset.open(output), 4)
    return output


def submit(
    head: Head, command: Sequence[str], *, token: Path | None, limit_s: float, options: Sequence[str] = ()
) -> tuple[int, str]:
    """Submit a job from a copy of the project and wait for its end; exit code and output of `ray job submit`."""
    environment = without_token()
    if token:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    options = ["--address", head.address, "--working-dir", str(PROJECT), *options]
    done = subprocess.run(
        [str(RAY), "job", "submit", *options, "--", *command],
        env=environment,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        check=False,
    )
    return done.returncode, done.stdout


def stop_job(head: Head, job: str) -> None:
    """Stop a job, by Ray's REST interface: `ray job stop` takes seconds to start, in which a small run ends."""
    address = f"{head.address}/api/jobs/{job}"
    token = {"Authorization": f"Bearer {head.token.read_text()}"}
    urllib.request.urlopen(urllib.request.Request(f"{address}/stop", method="POST", headers=token), timeout=END_LIMIT_S)
    deadline, status = time.monotonic() + JOB_LIMIT_S, "RUNNING"
    while status in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline, f"{job} still runs"
        time.sleep(0.2)
        with urllib.request.urlopen(urllib.request.Request(address, headers=token), timeout=END_LIMIT_S) as answer:
            status = json.load(answer)["status"]


def test_a_job_submitted_with_the_token_succeeds_and_its_output_comes_back(head: Head) -> None:
    code, output = submit(head, ["python", "jobs/train.py", "--help"], token=head.token, limit_s=JOB_LIMIT_S)
    assert code == 0, output
    assert re.search(r"Job 'raysubmit_\w+' succeeded", output)
    assert "Train one run." in output


def test_a_job_that_fails_ends_the_submission_with_an_error(head: Head) -> None:
    code, output = submit(head, ["python", "jobs/train.py", "nonsense"], token=head.token, limit_s=JOB_LIMIT_S)
    assert code == 1
    assert "the first argument must be a preset" in output


def test_a_job_submitted_without_the_token_is_refused(head: Head) -> None:
    code, output = submit(head, ["python", "--version"], token=None, limit_s=JOB_LIMIT_S)
    assert code != 0
    assert "Missing authentication token" in output
    assert "submitted successfully" not in output


def test_a_job_submitted_with_another_token_is_refused(head: Head, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    code, output = submit(head, ["python", "--version"], token=tmp_path / "token", limit_s=JOB_LIMIT_S)
    assert code != 0
    assert "Invalid authentication token" in output
    assert "submitted successfully" not in output


def test_a_process_beside_the_head_joins_it_on_the_loopback(head: Head) -> None:
    """Ray would take 127.0.0.1 for another address of this machine, at which the head does not listen."""
    joining = {"RAY_ADDRESS": head.gcs, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.token)}
    command, environment = [sys.executable, "-c", JOINED], without_token() | joining
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=JOB_LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "a task ran on 127.0.0.1\n"


def test_the_token_can_be_read_by_its_owner_alone(head: Head) -> None:
    assert head.token.stat().st_mode & 0o777 == 0o600
    assert len(head.token.read_text()) == 64


def test_a_submitted_sweep_goes_on_after_a_stop_and_gives_losers_cpus_back(
    head: Head, colours: str, tmp_path: Path
) -> None:
    """The head has CPUs for one trial at a time; the second learns nothing, is stopped and gives its CPUs back."""
    config = RunConfig(
        name="search",
        storage_path=str(tmp_path),
        data=DataConfig(dataset=colours, batch_size=10, image_size=32, pad=0, erase_probability=0.0),
        model=ModelConfig(name="resnet10", width=8, stem="small", calibration_hidden=(16, 8)),
        neighbors=NeighborConfig(num_neighbors=4),
        optim=OptimConfig(name="adamw", lr=2e-3),
        training=TrainingConfig(epochs=8.0, evaluate_every_epochs=1.0),
        placement=PlacementConfig(num_workers=1, cpus_per_worker=1.0, data_cpus_per_worker=0.9),
        sweep=SweepConfig(num_samples=2, num_neighbors=(2, 4), lr=(1e-9, 2e-9), grace_epochs=1.0),
    )
    (tmp_path / "config.json").write_text(to_json(config))
    graphs = set(Path(colours).rglob("graph.json"))
    command = ["python", "jobs/sweep.py", "--config", str(tmp_path / "config.json")]
    stopped = ["--no-wait", "--submission-id", "to-be-stopped"]
    code, output = submit(head, command, token=head.token, limit_s=JOB_LIMIT_S, options=stopped)
    assert code == 0, output
    first = wait_for_one(tmp_path / "search" / "trials", "*/step-00000040/state.json").parents[1]
    stop_job(head, "to-be-stopped")
    assert not is_at_its_end(first), "the stop came too late to prove anything"
    before = [line for line in lines_of(first) if json.loads(line)["step"] <= 40]
    code, output = submit(head, command, token=head.token, limit_s=SWEEP_LIMIT_S)

    assert code == 0, output
    assert lines_of(first)[: len(before)] == before, "the first trial goes on from its checkpoint, speeds and all"
    assert is_at_its_end(first)
    assert output.count("stopped early") == 1, output
    best = parse_run(["--config", str(tmp_path / "search" / "best_config.json")], description="")
    assert best.optim.lr == config.optim.lr  # the other learnt nothing
    assert len(list((tmp_path / "search" / "trials").iterdir())) == 2
    assert set(Path(colours).rglob("graph.json")) == graphs, "the graph that was there serves all trials"
    code, output = submit(head, ["python", "-c", ALL_CPUS_ARE_FREE], token=head.token, limit_s=JOB_LIMIT_S)
    assert code == 0, output


def without_token() -> dict[str, str]:
    """The environment without any cluster or token of whoever runs the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LDLVA_"))}
    return environment | {"HOME": "/nonexistent"}  # no ~/.ray/auth_token


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_until_ready(process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while "The head is ready" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def is_at_its_end(run: Path) -> bool:
    last = json.loads(lines_of(run)[-1])
    return last["step"] == last["steps"]


def lines_of(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def wait_for_one(folder: Path, pattern: str) -> Path:
    deadline = time.monotonic() + JOB_LIMIT_S
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < deadline, f"{folder} has no {pattern} after {JOB_LIMIT_S} s"
        time.sleep(0.1)
    return found[0]


def end(process: subprocess.Popen[str]) -> None:
    """End the script, which ends its head; where that hangs both are killed, but nothing else."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=END_LIMIT_S)
    except subprocess.TimeoutExpired:
        for one in (process, *started):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(timeout=END_LIMIT_S)
