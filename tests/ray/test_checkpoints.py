"""Runs that are asked to stop, that find a damaged checkpoint, or whose loss is not finite."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from safetensors.numpy import load

from ldlva_dist import launch, placement
from ldlva_dist.attend import attend
from ldlva_dist.config import LossConfig, OptimConfig, RunConfig
from ldlva_dist.errors import DataError, RunStopped
from ldlva_dist.reporting.ids_log import read_ids
from ldlva_dist.reporting.metrics_log import read_metrics
from ldlva_dist.training.checkpoint import Checkpoint
from ldlva_dist.training.control import RunControl
from ldlva_dist.training.state import last_checkpoint
from tests._jobs import LIMIT_S, terminate_a_training_worker, training_job, wait_until
from tests._runs import long_run, losses

pytestmark = pytest.mark.usefixtures("cluster")


def _config(faces: str, runs: Path, name: str) -> RunConfig:
    """The long run with a checkpoint every six of its sixty steps."""
    config = long_run(faces, runs, name)
    training = replace(config.training, evaluate_every_epochs=6.0, checkpoint_every_steps=6, num_to_keep=2)
    return replace(config, training=training)


def test_a_run_stopped_by_sigterm_and_one_with_a_damaged_checkpoint_go_on_as_if_nothing_had_been(
    straight: launch.RunResult, faces: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A worker is told to stop, a byte of the newest checkpoint changes, the run is started again and ends."""
    config, run = _config(faces, tmp_path, "stopped"), tmp_path / "stopped"

    with training_job(config, tmp_path) as job:
        wait_until(lambda: _steps_done(run) >= 8, job, "eight steps")
        terminate_a_training_worker()
        assert job.wait(timeout=LIMIT_S) == 130
    first = last_checkpoint(str(run))
    assert first is not None
    stopped_at = Checkpoint(first).facts["step"]
    assert stopped_at >= 8
    said = (tmp_path / "stopped.log").read_text()
    assert f"has saved after step {stopped_at} of 60 ({first}); the same command goes on from there" in said
    assert "Traceback" not in said

    _flip_a_byte(Path(first) / "optimizer.safetensors")
    last = launch.fit(config)
    said = capfd.readouterr().err
    assert f"{first}/optimizer.safetensors is damaged" in said
    before = (stopped_at - 1) // 6 * 6
    assert f"going on from {run}/step-{before:08d}" in said
    assert losses(last.run_uri) == losses(straight.run_uri)
    assert len(losses(last.run_uri)) == 60
    there, here = Checkpoint(straight.checkpoint_uri), Checkpoint(last.checkpoint_uri)
    for name in set(there.names()) - {"config.json", "model.safetensors"}:
        assert here.read(name) == there.read(name), name
    weights = load(here.read("model.safetensors"))
    for name, expected in load(there.read("model.safetensors")).items():
        # Each save averages BatchNorm's statistics over the ranks, and these saves came at other steps.
        rtol = 1e-5 if "running" in name else 0
        np.testing.assert_allclose(weights[name], expected, rtol=rtol, atol=rtol, err_msg=name)


def test_a_loss_that_is_not_finite_ends_the_run_at_the_first_try_and_names_samples_and_checkpoint(
    faces: str, tmp_path: Path
) -> None:
    config = _config(faces, tmp_path, "sound")
    config = replace(
        config,
        loss=LossConfig(recipe="ce"),
        training=replace(config.training, epochs=0.3, checkpoint_every_steps=1, log_ids=True),
        placement=replace(config.placement, num_workers=1, max_failures=3),
    )
    sound = read_ids(launch.fit(config).run_uri).to_pydict()
    bad = replace(config, name="bad", optim=OptimConfig(name="sgd", lr=1e30, schedule="constant"))
    with pytest.raises(DataError, match=r"the loss of step \d is (nan|inf) on rank 0") as caught:
        launch.fit(bad)
    last = last_checkpoint(str(tmp_path / "bad"))
    assert last is not None
    step = Checkpoint(last).facts["step"]
    ids = [sample for sample, at in zip(sound["id"], sound["step"], strict=True) if at == step]
    assert f"the loss of step {step + 1} is" in str(caught.value)
    assert str(ids) in str(caught.value)
    assert f"the last good checkpoint is {last}." in str(caught.value)
    assert len(list((tmp_path / "bad" / "tensorboard").iterdir())) == 1, "each start of the workers opens a file"


def test_one_ctrl_c_asks_the_run_to_stop_and_the_second_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    control = _control()
    ray.get(control.tell.remote("a sentence of a worker"))
    before = signal.getsignal(signal.SIGINT)
    _interrupt_soon(signal.SIGINT)
    assert (
        attend(lambda: ray.get(control.stopping.remote(), timeout=LIMIT_S) or "saved", control, grace_s=60) == "saved"
    )
    assert signal.getsignal(signal.SIGINT) == before
    said = capfd.readouterr().err
    assert "a sentence of a worker" in said
    assert "a second signal ends at once" in said

    never = threading.Event()
    _interrupt_soon(signal.SIGINT, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on from the last checkpoint"):
        attend(lambda: never.wait(LIMIT_S), _control(), grace_s=60)
    _interrupt_soon(signal.SIGTERM)
    with pytest.raises(RunStopped, match=r"did not save and stop within 0.1 s \(training.stop_grace_s\)"):
        attend(lambda: never.wait(LIMIT_S), _control(), grace_s=0.1)
    never.set()


def _control() -> ray.actor.ActorHandle:
    return ray.remote(RunControl).options(**placement.control_actor()).remote()


def _interrupt_soon(*numbers: signal.Signals) -> None:
    """Send signals to this process, one after the other, once it waits for the run."""
    before = signal.getsignal(numbers[0])

    def send() -> None:
        end = time.monotonic() + LIMIT_S
        while signal.getsignal(numbers[0]) == before and time.monotonic() < end:
            time.sleep(0.01)
        for number in numbers:
            os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


def _steps_done(run: Path) -> int:
    return max((line["step"] for line in read_metrics(str(run))), default=0)


def _flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
