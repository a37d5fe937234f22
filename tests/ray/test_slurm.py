"""cluster/slurm.sh inside an allocation of two nodes, which stand-ins for Slurm's commands make of this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 240
SRUN = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
printf 'node1\\nnode2\\n'
"""
TWO_NODES = """
import signal, sys, time
from ldlva_dist.runtime.connect import connect
connect()
import ray
try:  # around the line too that the test waits for: the signal may come right after it
    while sum(node["Alive"] for node in ray.nodes()) < 2:
        time.sleep(0.2)
    print("nodes:", ray.cluster_resources()["CPU"], flush=True)
    if sys.argv[1] == "stop":
        time.sleep(600)
except KeyboardInterrupt:
    sys.exit(130)
sys.exit(int(sys.argv[1]))
"""


@dataclass(frozen=True)
class Allocation:
    """What sbatch would give the script."""

    folder: Path
    environment: dict[str, str]

    def start(self, argument: str) -> subprocess.Popen[str]:
        """The script with a job that waits for both nodes."""
        command = [str(ROOT / "cluster" / "slurm.sh"), sys.executable, "-c", TWO_NODES, argument]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def left_over(self) -> list[str]:
        """Processes of the cluster that are still there."""
        marks = (str(self.folder), f"--port={self.environment['LDLVA_SLURM_PORT']}")
        lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        return [line for line in lines if any(mark in line for mark in marks)]


@pytest.fixture
def allocation() -> Iterator[Allocation]:
    # Sockets lie under the folder and their paths must be short.
    with TemporaryDirectory(prefix="ldlva-slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for command, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / command).write_text(text)
            (folder / command).chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))}
        yield Allocation(
            folder,
            kept
            | {
                "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "SLURM_JOB_ID": str(os.getpid()),
                "SLURM_JOB_NODELIST": "node[1-2]",
                "SLURM_CPUS_PER_TASK": "1",
                "SLURM_SUBMIT_DIR": str(ROOT),
                "LDLVA_SLURM_PORT": str(20000 + os.getpid() % 10000),
                "LDLVA_SLURM_TEMP": f"{folder}/ray",
            },
        )


def test_the_job_has_all_nodes_its_exit_code_is_the_scripts_and_nothing_is_left(allocation: Allocation) -> None:
    script = allocation.start("3")
    said, _ = script.communicate(timeout=LIMIT_S)
    assert script.returncode == 3, said
    assert "nodes: 2.0" in said
    assert not list(ROOT.glob(".slurm-token-*"))
    assert allocation.left_over() == []


def test_the_notice_before_the_time_is_over_reaches_the_job_whose_code_comes_back(allocation: Allocation) -> None:
    script = allocation.start("stop")
    assert script.stdout is not None
    said = []
    deadline = time.monotonic() + LIMIT_S
    while not any("nodes: 2.0" in line for line in said):
        assert time.monotonic() < deadline, said
        said.append(script.stdout.readline())
        assert said[-1], said
    script.send_signal(signal.SIGTERM)
    rest, _ = script.communicate(timeout=LIMIT_S)
    assert script.returncode == 130, [*said, rest]
    assert allocation.left_over() == []


def test_outside_an_allocation_the_script_says_so(allocation: Allocation) -> None:
    without = {key: value for key, value in allocation.environment.items() if not key.startswith("SLURM_")}
    done = subprocess.run(
        [str(ROOT / "cluster" / "slurm.sh"), "true"], env=without, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "start this with sbatch" in done.stderr
