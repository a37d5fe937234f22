"""A run whose loss is not finite, and one that is asked to stop at the terminal."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config import LossConfig, OptimConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import DataError, RunStopped
from ldlva_dist.run import launch
from ldlva_dist.run.control import RunControl
from ldlva_dist.run.supervise import attend
from ldlva_dist.runtime import placement
from ldlva_dist.training.inputs import make_plan
from testing.exactly_once import ids_of
from testing.tiny_runs import tiny_run
from testing.training_jobs import LIMIT_S

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_loss_that_is_not_finite_ends_the_run_at_the_first_try_and_names_samples_and_checkpoint(
    faces: str, tmp_path: Path
) -> None:
    config = tiny_run(faces, tmp_path, "bad")
    config = replace(
        config,
        loss=LossConfig(recipe="ce"),
        optim=OptimConfig(name="sgd", lr=1e30, schedule="constant"),
        training=replace(config.training, epochs=0.3, checkpoint_every_steps=1),
        placement=replace(config.placement, max_failures=3),
    )
    with pytest.raises(DataError, match=r"the loss of step \d is (nan|inf) on rank 0") as caught:
        launch.fit(config)
    last = Checkpoint.newest(str(tmp_path / "bad"))
    assert last is not None
    step = last.facts["step"]
    plan = make_plan(config, tuple(shard.rows for shard in Dataset.open(faces).info.shards_of("train")))
    assert f"the loss of step {step + 1} is" in str(caught.value)
    assert str(ids_of(plan, step).tolist()) in str(caught.value)
    assert f"the last good checkpoint is {last.uri}." in str(caught.value)
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
    with pytest.raises(KeyboardInterrupt, match="run the same command again to resume from the last checkpoint"):
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
