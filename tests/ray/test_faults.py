"""Runs that something happens to, and the one that nothing does: in one file, so that it is made once.

One fault of the harness is here; `make soak` and bench/faults/soak.py draw many more.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from mlflow.tracking import MlflowClient
from safetensors.numpy import load

from ldlva_dist.bank.checkpoint_parts import unpack
from ldlva_dist.bank.service import find_service
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.records.uncertainty_history import read_history, write_history
from ldlva_dist.run import launch
from ldlva_dist.training import build
from testing.tiny_runs import long_run, losses, table
from testing.training_jobs import LIMIT_S, kill_job, terminate_a_training_worker, training_job, wait_until

KINDS = ("kill node",)
STEPS, KILL_AFTER = 60, 25


@pytest.fixture(scope="module")
def straight(cluster: None, faces: str, tmp_path_factory: pytest.TempPathFactory) -> launch.RunResult:
    """The long run that nothing happens to; what happens to others must leave no trace."""
    return launch.fit(long_run(faces, tmp_path_factory.mktemp("runs"), "straight"))


def test_a_run_that_loses_a_node_with_a_rank_or_a_bank_actor_ends_as_if_nothing_had_happened(
    straight: launch.RunResult, faces: str, root: Path
) -> None:
    """In a process of its own, because it has a cluster of several nodes."""
    command = [sys.executable, "-m", "bench.faults.soak", "--dataset", faces, "--straight", straight.run_uri]
    done = subprocess.run(
        [*command, "--runs", str(len(KINDS)), "--kinds", *KINDS],
        cwd=root,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["failures"] == [], done.stderr
    assert report["kinds"] == {kind: 1 for kind in KINDS if kind not in report["left_out"]}


def test_a_run_stopped_by_sigterm_and_one_with_a_damaged_checkpoint_go_on_as_if_nothing_had_been(
    straight: launch.RunResult, faces: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A worker is told to stop, a byte of the newest checkpoint changes, the run is started again and ends."""
    config, run = long_run(faces, tmp_path, "stopped"), tmp_path / "stopped"
    training = replace(config.training, evaluate_every_epochs=6.0, checkpoint_every_steps=6, num_to_keep=2)
    config = replace(config, training=training)

    with training_job(config, tmp_path) as job:
        wait_until(lambda: len(losses(str(run))) >= 8, job, "eight steps")
        terminate_a_training_worker()
        assert job.wait(timeout=LIMIT_S) == 130
    first = Checkpoint.newest(str(run))
    assert first is not None
    stopped_at = first.facts["step"]
    assert stopped_at >= 8
    said = (tmp_path / "stopped.log").read_text()
    assert (
        f"has saved after step {stopped_at} of 60 ({first.uri}); run the same command again to resume from there"
        in said
    )
    assert "Traceback" not in said

    _flip_a_byte(Path(first.uri) / "optimizer.safetensors")
    last = launch.fit(config)
    said = capfd.readouterr().err
    assert f"{first.uri}/optimizer.safetensors is damaged" in said
    before = (stopped_at - 1) // 6 * 6
    assert f"resuming from {run}/step-{before:08d}" in said
    assert losses(last.run_uri) == losses(straight.run_uri)
    assert len(losses(last.run_uri)) == 60
    there, here = straight.checkpoint, last.checkpoint
    for name in set(there.names()) - {"config.json", "model.safetensors"}:
        assert here.read(name) == there.read(name), name
    weights = load(here.read("model.safetensors"))
    for name, expected in load(there.read("model.safetensors")).items():
        # Each save averages BatchNorm's statistics over the ranks, and these saves came at other steps.
        rtol = 1e-5 if "running" in name else 0
        np.testing.assert_allclose(weights[name], expected, rtol=rtol, atol=rtol, err_msg=name)


def test_a_bank_on_the_workers_trains_the_same_bits_and_its_run_goes_on_with_actors(
    straight: launch.RunResult, faces: str, tmp_path: Path
) -> None:
    """Two ranks, whose bank a forward pass fills; the end of the run again with three actors."""
    config = long_run(faces, tmp_path, "workers")
    on_workers = replace(config, bank=replace(config.bank, place="workers", num_shards=1))
    first = launch.fit(on_workers)
    whole = losses(first.run_uri)
    assert whole == losses(straight.run_uri)
    _assert_same_learnt(first.checkpoint, straight.checkpoint)
    assert len(first.checkpoint.bank_files) == 2

    shutil.rmtree(first.checkpoint.uri)
    again = launch.fit(config)
    assert losses(again.run_uri) == whole
    _assert_same_learnt(again.checkpoint, straight.checkpoint)
    assert len(again.checkpoint.bank_files) == 3


def _assert_same_learnt(here: Checkpoint, there: Checkpoint) -> None:
    """The same weights, moments, uncertainties and bank, however the bank is cut."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert here.read(name) == there.read(name), name
    np.testing.assert_array_equal(table(here.uri), table(there.uri))
    info = Dataset.open(here.config.data.dataset).info
    spec = build.bank_spec(here.config, info)
    mine, theirs = (unpack(saved.bank_files, 0, info.num_train, spec) for saved in (here, there))
    assert mine.visible.records.tobytes() == theirs.visible.records.tobytes()
    assert mine.pending.records.tobytes() == theirs.pending.records.tobytes()


def test_a_killed_run_started_again_equals_the_uninterrupted_one_bit_by_bit(
    straight: launch.RunResult, faces: str, tmp_path: Path
) -> None:
    """The job is killed after its first checkpoint; tests/s3/test_training.py does it for the official recipe."""
    config = long_run(faces, tmp_path, "killed")
    config = replace(config, training=replace(config.training, tracker="mlflow"))
    with training_job(config, tmp_path) as job:
        wait_until((tmp_path / "killed" / "step-00000020" / "state.json").exists, job, "the first checkpoint")
        kill_job(job)
    # As if an evaluation had come between the checkpoint and the end.
    write_history(str(tmp_path / "killed"), np.zeros(9), step=30, epoch=3.0, rank=0, first_id=0)
    assert not (tmp_path / "killed" / "step-00000040").exists(), "the kill came too late to prove anything"
    killed = launch.fit(config)

    assert losses(killed.run_uri) == losses(straight.run_uri)
    np.testing.assert_array_equal(table(killed.checkpoint.uri), table(straight.checkpoint.uri))
    ids = np.arange(len(table(straight.checkpoint.uri)))
    there, here = (read_history(run.run_uri, ids) for run in (straight, killed))
    np.testing.assert_array_equal(here.epochs, there.epochs)
    np.testing.assert_array_equal(here.uncertainty, there.uncertainty)

    mlflow = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run = mlflow.get_run(json.loads((tmp_path / "killed" / "tracker-mlflow.json").read_text())["id"])
    assert (run.info.run_name, run.info.status) == ("killed", "FINISHED")
    told = mlflow.get_metric_history(run.info.run_id, "loss")
    assert {metric.step: metric.value for metric in told} == dict(enumerate(losses(straight.run_uri), 1))
    assert STEPS <= len(told) <= STEPS + 1, "only the step in which it was killed may be told twice"
    assert not (tmp_path / "killed" / "tensorboard").exists()


def test_a_run_goes_on_without_a_restart_and_says_what_it_does_not_know(
    straight: launch.RunResult, faces: str, tmp_path: Path
) -> None:
    config = long_run(faces, tmp_path, "went-on")
    config = replace(config, bank=replace(config.bank, on_loss="continue"))
    with _killer(f"{tmp_path}/went-on") as killed:
        result = launch.fit(config)
    assert killed
    assert killed[0] < STEPS - 5, "the kill came too late to prove anything"
    mine, theirs = read_metrics(result.run_uri), read_metrics(straight.run_uri)
    assert [line["step"] for line in mine] == list(range(1, STEPS + 1))
    before = killed[0] - 1
    assert [line["loss"] for line in mine[:before]] == [line["loss"] for line in theirs[:before]]
    assert [line["staleness_mean"] for line in mine[killed[0] :]] != [
        line["staleness_mean"] for line in theirs[killed[0] :]
    ]


@contextmanager
def _killer(run_uri: str) -> Iterator[list[int]]:
    """Kill the second bank actor once the run has logged a step; yields the steps it had logged by then."""
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            steps = [line["step"] for line in read_metrics(run_uri)]
            if steps and steps[-1] >= KILL_AFTER:
                facts = ray.get(find_service(run_uri).shards[1].facts.remote(), timeout=20)
                os.kill(facts.pid, signal.SIGKILL)  # pyright: ignore[reportAttributeAccessIssue]
                killed.append(steps[-1])
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    yield killed
    thread.join(timeout=300)


def _flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
