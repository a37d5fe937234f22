"""What a command costs: seconds on the clock, and CPU seconds of its process and all that it started."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ldlva_dist.config.presets import demo

ROOT = Path(__file__).parents[1]
LOOK_EVERY_S = 0.2
LIMIT_S = 600.0
FACES = 640
"""Drawn for training, of which a tenth is the holdout."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds since a command began."""

    wall_s: float
    cpu_s: float
    """User and system time of the process and its descendants, also of those that have ended."""


def python_of(checkout: Path) -> str:
    """The interpreter of a checkout's own environment; this one where it has none."""
    own = checkout / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def run_job(checkout: Path, job: str, *arguments: str, until: Callable[[], bool] = lambda: False) -> tuple[Cost, Cost]:
    """Run a job of a checkout to its end: its cost when ``until`` first held (or at the end), and at the end.

    What a process spends in its last fifth of a second may be missing.

    Raises:
        RuntimeError: where it fails, or takes longer than ten minutes.
    """
    began, spent, first = time.monotonic(), {}, None
    command = [python_of(checkout), str(checkout / "jobs" / f"{job}.py"), *arguments]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    with subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            _look(tree, spent)
            cost = Cost(wall_s=time.monotonic() - began, cpu_s=sum(spent.values()))
            if first is None and until():
                first = cost
            if cost.wall_s > LIMIT_S:
                process.kill()
            time.sleep(LOOK_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    end = Cost(wall_s=time.monotonic() - began, cpu_s=sum(spent.values()))
    return first or end, end


def cpu_of(checkout: Path, job: str, *arguments: str, expected: int) -> float:
    """CPU seconds of a job that starts no processes and ends by itself.

    Raises:
        RuntimeError: where it ends with another exit code than expected.
    """
    command = [python_of(checkout), str(checkout / "jobs" / f"{job}.py"), *arguments]
    before = _children()
    done = subprocess.run(command, cwd=checkout, capture_output=True, timeout=LIMIT_S)
    if done.returncode != expected:
        raise RuntimeError(f"{' '.join(command)} must end with exit code {expected}, ended with {done.returncode}")
    return _children() - before


def small_faces(folder: str) -> str:
    """Drawn faces with a holdout and their graph, packed by this checkout; the data set's folder."""
    dataset = f"{folder}/faces"
    run_job(ROOT, "make_shards", "faces", "--output", dataset, "--train", str(FACES), "--test", "64")
    run_job(ROOT, "build_index", "--dataset", dataset)
    return dataset


def demo_run(dataset: str, folder: str, *, steps: int) -> tuple[str, ...]:
    """Arguments of a run of the demo's network and settings that ends after so many steps, on :func:`small_faces`."""
    epochs = f"{steps * demo().data.batch_size / (FACES * 0.9):.4f}"
    return ("demo", "--data.dataset", dataset, "--storage-path", folder, "--training.epochs", epochs)


def jobs_of(checkout: Path) -> Sequence[str]:
    """Names of the jobs of a checkout."""
    return sorted(path.stem for path in (checkout / "jobs").glob("*.py"))


def _look(tree: psutil.Process, spent: dict[tuple[int, float], float]) -> None:
    """Note what each process of the tree has spent; those that are gone keep what was noted last."""
    try:
        processes = [tree, *tree.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            times = process.cpu_times()
            spent[process.pid, process.create_time()] = times.user + times.system
        except psutil.NoSuchProcess:
            continue


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
