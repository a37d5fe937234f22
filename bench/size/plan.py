"""Claim: jobs/plan.py is within 15 % of the steps, the memory and the checkpoint's bytes of the run that follows.

Two runs on drawn faces, each planned by jobs/plan.py and then trained by jobs/train.py with the same arguments, on one
local cluster: two workers with a ResNet-10 of width 16 (V = 128) on 48 px, two bank shards, 512 steps at most; and one
worker with a ResNet-18 (V = 512) on 112 px. Of the run: its last logged step, the bytes of its last checkpoint, the
largest private memory of a process of each role, and the samples per second of its log. Memory that was computed
without a probe is reported besides; object store and Ray's own processes are not compared.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import tyro

from bench.common import drawn_faces, report
from ldlva_dist.checkpoint.saved_files import newest_finished
from ldlva_dist.forecast.probe import speed
from ldlva_dist.forecast.watch import ROLES
from ldlva_dist.records.metrics_log import read_metrics
from testing.processes import PeakByRole

JOBS = Path(__file__).parents[2] / "jobs"
COMPARED = ("trainer", "bank shard", "stream task", "controller", "driver")
WITHIN = 0.15


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How long."""

    probe_seconds: float = 8.0
    small_epochs: float = 2.0
    large_steps: int = 24


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run."""

    name: str
    train: int
    pixels: int
    batch_size: int
    settings: tuple[str, ...]
    """After the data set."""


def main(arguments: Arguments) -> None:
    """Plan and train both, and print one JSON line."""
    cases = (
        Case(
            name="small",
            train=4096,
            pixels=48,
            batch_size=32,
            settings=("demo", "--model.width", "16", "--training.epochs", str(arguments.small_epochs)),
        ),
        Case(name="large", train=2048, pixels=112, batch_size=32, settings=large_settings(arguments.large_steps)),
    )
    with tempfile.TemporaryDirectory() as folder:
        ray.init(address="local", num_cpus=4, log_to_driver=False, logging_level=logging.ERROR)
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        results = {case.name: compare(case, f"{folder}/{case.name}", arguments) for case in cases}
        ray.shutdown()
    worst = max(abs(off) for result in results.values() for off in result["off"].values())
    report("plan", ok=worst <= WITHIN, worst_off=worst, **results)


def large_settings(steps: int) -> tuple[str, ...]:
    """ResNet-18 on the CPU, some steps of 2,048 samples, with several checkpoints: the copies of one are soon gone."""
    placement = ("--placement.no-use-gpu", "--placement.cpus-per-worker", "1")
    placement += ("--placement.data-cpus-per-worker", "1")
    size = ("--data.image-size", "112", "--training.epochs", str(steps * 32 / 2048))
    often = ("--training.log-every-steps", "5", "--training.checkpoint-every-steps", "8")
    return ("rafdb_resnet18", *placement, *size, *often)


def compare(case: Case, folder: str, arguments: Arguments) -> dict[str, Any]:
    """What was planned and what was, and by how much the first is off, as a share of the second."""
    dataset, (preset, *settings) = drawn_faces(folder, train=case.train, pixels=case.pixels), case.settings
    command = (preset, "--data.dataset", dataset, "--storage-path", f"{folder}/runs", "--name", case.name, *settings)
    run_job("plan", *command, "--probe-seconds", str(arguments.probe_seconds), "--json", f"{folder}/plan.json")
    planned = json.loads(Path(folder, "plan.json").read_text())
    memory = run_job("train", *command)
    lines = read_metrics(f"{folder}/runs/{case.name}")
    checkpoint = newest_finished(f"{folder}/runs/{case.name}")
    assert checkpoint is not None, "a run that ended has a checkpoint"
    size = sum(file.stat().st_size for file in Path(checkpoint).rglob("*") if file.is_file())
    pairs = {
        "steps": (planned["work"]["steps"], lines[-1]["step"]),
        "checkpoint_mb": (planned["checkpoint_bytes_in_all"] / 1e6, size / 1e6),
    }
    each = {role["name"]: role["each"] / 1e6 for role in planned["memory"]}
    pairs |= {f"{role}_mb": (each[role], memory[role] / 1e6) for role in COMPARED}
    return {
        "planned_and_real": {name: list(pair) for name, pair in pairs.items()},
        "off": {name: planned / real - 1 for name, (planned, real) in pairs.items()},
        "samples_per_second": [planned["samples_per_second"], speed(lines, case.batch_size)],
        "computed_mb": {role["name"]: role["computed"] / 1e6 for role in planned["memory"] if role["computed"]},
        "object_store_mb": [each["object store"]],
    }


def run_job(name: str, *arguments: str) -> dict[str, int]:
    """Run a job as a user does; the largest process of each role."""
    command = [sys.executable, str(JOBS / f"{name}.py"), *arguments]
    print("$ jobs/" + " ".join(command[1:]).rpartition("jobs/")[2], flush=True)
    job = subprocess.Popen(command)
    with PeakByRole(ROLES, job.pid) as watch:
        code = job.wait(timeout=570)
    if code:
        raise SystemExit(f"jobs/{name}.py ended with exit code {code}")
    return watch.peaks


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
