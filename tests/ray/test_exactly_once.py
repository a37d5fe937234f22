"""A run that is killed again and again, and goes on with other numbers of workers, trains every position once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from ldlva_dist import launch
from ldlva_dist.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    NeighborConfig,
    OptimConfig,
    PlacementConfig,
    RunConfig,
    TrainingConfig,
)
from ldlva_dist.data.manifest import read_info
from ldlva_dist.data.plan import Plan
from ldlva_dist.reporting.ids_log import read_ids
from ldlva_dist.reporting.metrics_log import read_metrics
from ldlva_dist.training.inputs import make_plan

EPOCHS, BATCH, LIMIT_S = 9.0, 27, 180


def _config(faces: str, runs: Path) -> RunConfig:
    """About 90 steps of a tiny network, a checkpoint every four; ten steps are an epoch but for a few rows."""
    return RunConfig(
        name="killed",
        storage_path=str(runs),
        data=DataConfig(dataset=faces, batch_size=BATCH, chunk_rows=16, image_size=48),
        model=ModelConfig(name="resnet10", width=4, stem="small", calibration_hidden=(8, 4), freeze_batchnorm=True),
        loss=LossConfig(recipe="official"),
        neighbors=NeighborConfig(num_neighbors=4),
        optim=OptimConfig(name="sgd", lr=0.01),
        training=TrainingConfig(
            epochs=EPOCHS, evaluate_every_epochs=9, checkpoint_every_steps=4, log_every_steps=1, log_ids=True
        ),
        placement=PlacementConfig(cpus_per_worker=0.25, data_cpus_per_worker=0.25, max_failures=1),
    )


def test_every_position_is_trained_once_through_kills_and_changes_of_the_number_of_workers(
    faces: str, tmp_path: Path, root: Path
) -> None:
    """2 workers, their job killed; 1 worker, the job killed; 3 workers, one of them killed, then the job; 4 workers."""
    config, random = _config(faces, tmp_path), np.random.default_rng(2026)
    plan = make_plan(config, tuple(shard.rows for shard in read_info(faces).shards_of("train")))
    total = plan.steps_for(EPOCHS)
    assert total >= 89
    kills = (np.array([5, 22, 38, 54]) + random.integers(0, 10, size=4)).tolist()
    worlds: list[tuple[int, list[Callable[[subprocess.Popen[bytes]], None]]]] = [
        (2, [_kill_the_job]),
        (1, [_kill_the_job]),
        (3, [_kill_a_worker, _kill_the_job]),
        (4, []),
    ]
    for world_size, attacks in worlds:
        job = _start(replace(config, placement=replace(config.placement, num_workers=world_size)), root)
        for attack in attacks:
            _wait_for_step(tmp_path / "killed", kills.pop(0), job)
            attack(job)
        assert job.wait(timeout=LIMIT_S) == (-signal.SIGKILL if attacks else 0)
    _assert_exactly_once(read_ids(str(tmp_path / "killed")), plan, total)


def _assert_exactly_once(log: pa.Table, plan: Plan, total: int) -> None:
    """The log is the plan: every step, every position in it, once; and so every row once in each whole epoch."""
    assert log.num_rows == total * BATCH
    np.testing.assert_array_equal(log["step"], np.repeat(np.arange(total), BATCH))
    np.testing.assert_array_equal(log["position"], np.tile(np.arange(BATCH), total))
    lanes = log["id"].to_numpy().reshape(total, plan.num_lanes, plan.rows_per_step).swapaxes(0, 1)
    by_epoch: dict[int, list[int]] = {}
    for lane in range(plan.num_lanes):
        ids, epochs = [], []
        for superstep in range(-(-total // plan.steps_per_superstep)):
            runs, order = plan.window(lane, superstep)
            ids += np.concatenate([run.first_id + np.arange(run.rows) for run in runs])[order].tolist()
            epochs += np.repeat([run.epoch for run in runs], [run.rows for run in runs])[order].tolist()
        trained = lanes[lane].ravel().tolist()
        assert trained == ids[: len(trained)]
        for epoch, sample in zip(epochs, trained, strict=False):
            by_epoch.setdefault(epoch, []).append(sample)
    assert len(by_epoch) >= 8
    for epoch in range(7):
        assert sorted(by_epoch[epoch]) == list(range(plan.num_rows)), "no row is left out or comes twice"


def _start(config: RunConfig, root: Path) -> subprocess.Popen[bytes]:
    settings = Path(config.storage_path, f"workers-{config.placement.num_workers}.json")
    settings.write_text(launch.to_json(config))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, str(root / "jobs" / "train.py"), "--config", str(settings)]
    with open(settings.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(command, start_new_session=True, env=environment, stdout=log, stderr=log)


def _wait_for_step(run: Path, step: int, job: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + LIMIT_S
    while not any(line["step"] >= step for line in read_metrics(str(run))):
        assert job.poll() is None, f"the job ended before step {step}"
        assert time.monotonic() < end, f"step {step} was not there after {LIMIT_S} s"
        time.sleep(0.02)


def _kill_the_job(job: subprocess.Popen[bytes]) -> None:
    os.killpg(job.pid, signal.SIGKILL)


def _kill_a_worker(job: subprocess.Popen[bytes]) -> None:
    names = {process: process.name() for process in psutil.Process(job.pid).children(recursive=True)}
    workers = [process for process in names if "TrainWorker" in " ".join(process.cmdline())]
    assert workers, f"no training worker among {sorted(names.values())}"
    workers[0].kill()
