"""A training job in a process of its own, and its sudden end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import ray

from ldlva_dist.config import RunConfig, to_json

ROOT = Path(__file__).parents[1]
LIMIT_S = 300


@contextmanager
def training_job(config: RunConfig, folder: Path, script: str = "train.py") -> Iterator[subprocess.Popen[bytes]]:
    """A script of jobs on the tests' cluster; settings and output lie in ``folder``. It does not outlive the block."""
    settings, log = folder / f"{config.name}.json", folder / f"{config.name}.log"
    settings.write_text(to_json(config))
    command = [sys.executable, str(ROOT / "jobs" / script), "--config", str(settings)]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with open(log, "ab") as output:
        job = subprocess.Popen(command, start_new_session=True, env=environment, stdout=output, stderr=output)
    try:
        yield job
    finally:
        if job.poll() is None:
            kill_job(job)


def kill_job(job: subprocess.Popen[bytes]) -> None:
    """Kill the driver and every process that works for it, at one stroke."""
    workers = _workers_of_other_jobs()
    os.killpg(job.pid, signal.SIGKILL)
    for process in workers:
        process.kill()
    job.wait(timeout=60)


def terminate_a_training_worker() -> None:
    """Send a SIGTERM to one of the job's training workers and nothing else."""
    workers = _workers_of_other_jobs()
    training = [process for process in workers if "TrainWorker" in " ".join(process.cmdline())]
    assert training, f"no training worker among {sorted(process.name() for process in workers)}"
    training[0].terminate()


def wait_until(happened: Callable[[], bool], job: subprocess.Popen[bytes], what: str) -> None:
    """Return as soon as something happened in a job that runs."""
    end = time.monotonic() + LIMIT_S
    while not happened():
        assert job.poll() is None, f"the job ended before {what}"
        assert time.monotonic() < end, f"no {what} after {LIMIT_S} s"
        time.sleep(0.05)


def _workers_of_other_jobs() -> list[psutil.Process]:
    """Ray's workers under this process that do not work for this process: those of the job, which is the only one."""
    ours = ray.get_runtime_context().get_job_id()
    return [process for process in psutil.Process().children(recursive=True) if _job_of(process, ours) != ours]


def _job_of(process: psutil.Process, otherwise: str) -> str:
    try:
        return process.environ().get("RAY_JOB_ID", otherwise)
    except psutil.NoSuchProcess:
        return otherwise
