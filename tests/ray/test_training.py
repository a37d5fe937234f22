"""Whole small runs: any number of ranks or shards gives the same table, resumed equals uninterrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ldlva_dist import launch
from ldlva_dist.config import (
    BankConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    NeighborConfig,
    OptimConfig,
    PlacementConfig,
    RunConfig,
    TrainingConfig,
    UncertaintyConfig,
)
from ldlva_dist.data.manifest import read_columns, read_info
from ldlva_dist.scoring import score

STEPS, EPOCHS = 20, 2.0


def _config(faces: str, runs: Path, name: str) -> RunConfig:
    """Twenty steps of a tiny network with frozen BatchNorm: the global batch is then the same on any ranks."""
    return RunConfig(
        name=name,
        storage_path=str(runs),
        data=DataConfig(dataset=faces, batch_size=27, chunk_rows=16, image_size=48),
        model=ModelConfig(name="resnet10", width=4, stem="small", calibration_hidden=(16, 8), freeze_batchnorm=True),
        loss=LossConfig(recipe="official", gamma=0.05),
        neighbors=NeighborConfig(num_neighbors=4, timeout_s=60),
        bank=BankConfig(num_shards=2, probs_dtype="float32", features_dtype="float32"),
        uncertainty=UncertaintyConfig(lr=0.3125, momentum=0.9),
        optim=OptimConfig(name="sgd", lr=0.01),
        training=TrainingConfig(epochs=EPOCHS, evaluate_every_epochs=1.0, log_every_steps=1, num_to_keep=9),
        placement=PlacementConfig(cpus_per_worker=0.5, data_cpus_per_worker=0.5, max_failures=0),
    )


def _table(checkpoint_uri: str) -> np.ndarray:
    parts = [load_file(path) for path in sorted(Path(checkpoint_uri, "table").iterdir())]
    return np.concatenate([part["logits"] for part in sorted(parts, key=lambda part: part["first_id"].item())])


def _losses(run_uri: str) -> list[float]:
    return [json.loads(line)["loss"] for line in Path(run_uri, "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(cluster: None, faces: str, tmp_path_factory: pytest.TempPathFactory) -> launch.RunResult:
    """The run that others are compared with: one rank, two shards."""
    return launch.fit(_config(faces, tmp_path_factory.mktemp("runs"), "alone"))


def test_a_run_moves_the_table_and_writes_what_a_user_meets(alone: launch.RunResult) -> None:
    table = _table(alone.checkpoint_uri)
    assert np.abs(table + 0.5).max() > 1e-3
    assert len(np.unique(table)) > len(table) // 2
    assert alone.checkpoint_uri.endswith("step-00000020")
    assert 0 <= alone.metrics["holdout_accuracy"] <= 1
    assert len(_losses(alone.run_uri)) == STEPS
    assert {"config.json", "metrics.jsonl", "tensorboard"} <= set(os.listdir(alone.run_uri))


def test_a_checkpoint_is_judged_alike_by_one_task_and_by_three(alone: launch.RunResult, faces: str) -> None:
    by_one, by_three = (score(alone.checkpoint_uri, faces, num_tasks=tasks) for tasks in (1, 3))
    assert by_one["samples"] == 60
    assert by_one["given"]["confusion"] == by_three["given"]["confusion"]
    assert by_one["truth"]["kl"] == pytest.approx(by_three["truth"]["kl"], rel=1e-5)
    flipped = read_columns(faces, ["flipped"], rows=read_info(faces).num_train)["flipped"].to_numpy().astype(bool)
    table = _table(alone.checkpoint_uri)
    above = np.sign(table[flipped][:, None] - table[~flipped]).mean() / 2 + 0.5
    assert by_one["noise"]["wrong_share"] == pytest.approx(flipped.mean())
    assert by_one["noise"]["uncertainty"]["auroc"] == pytest.approx(above, abs=1e-3)
    assert by_one["noise"]["bayes"]["auroc"] > 0.9


@pytest.mark.parametrize(("world_size", "num_shards"), [(2, 1), (3, 3), (4, 2)])
def test_the_table_does_not_depend_on_ranks_or_shards(
    alone: launch.RunResult, faces: str, tmp_path: Path, world_size: int, num_shards: int
) -> None:
    config = _config(faces, tmp_path, f"ranks-{world_size}")
    config = replace(
        config,
        placement=replace(config.placement, num_workers=world_size),
        bank=replace(config.bank, num_shards=num_shards),
    )
    result = launch.fit(config)
    np.testing.assert_allclose(_table(result.checkpoint_uri), _table(alone.checkpoint_uri), atol=1e-5, rtol=0)
    np.testing.assert_allclose(_losses(result.run_uri), _losses(alone.run_uri), atol=1e-4, rtol=0)


def test_three_shards_train_bit_by_bit_like_two(alone: launch.RunResult, faces: str, tmp_path: Path) -> None:
    config = _config(faces, tmp_path, "three-shards")
    result = launch.fit(replace(config, bank=replace(config.bank, num_shards=3)))
    assert _losses(result.run_uri) == _losses(alone.run_uri)
    np.testing.assert_array_equal(_table(result.checkpoint_uri), _table(alone.checkpoint_uri))


def test_gradient_accumulation_changes_neither_table_nor_losses(
    alone: launch.RunResult, faces: str, tmp_path: Path
) -> None:
    config = _config(faces, tmp_path, "accumulated")
    result = launch.fit(replace(config, training=replace(config.training, gradient_accumulation_steps=3)))
    np.testing.assert_allclose(_table(result.checkpoint_uri), _table(alone.checkpoint_uri), atol=1e-5, rtol=0)


def test_a_killed_run_started_again_equals_the_uninterrupted_one_bit_by_bit(
    cluster: None, faces: str, tmp_path: Path, root: Path
) -> None:
    """BatchNorm trains here, on two ranks; the driver and all its processes are killed after the first checkpoint.

    The recipe is the paper's, whose centres are parameters; tests/s3/test_training.py does it for the official one.
    """
    config = _config(faces, tmp_path, "straight")
    config = replace(
        config,
        model=replace(config.model, freeze_batchnorm=False),
        loss=replace(config.loss, recipe="paper"),
        optim=OptimConfig(name="adamw", lr=1e-3, schedule="cosine"),
        placement=replace(config.placement, num_workers=2),
    )
    straight = launch.fit(config)
    config = replace(config, name="killed")
    (tmp_path / "config.json").write_text(launch.to_json(config))
    command = [sys.executable, str(root / "jobs" / "train.py"), "--config", str(tmp_path / "config.json")]

    first = subprocess.Popen(command, start_new_session=True, env=_environment())
    _wait_for(tmp_path / "killed" / "step-00000010" / "state.json", first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(timeout=60)
    assert not (tmp_path / "killed" / "step-00000020").exists(), "the kill came too late to prove anything"
    second = subprocess.run(command, timeout=500, check=False, capture_output=True, text=True, env=_environment())

    assert second.returncode == 0, second.stderr
    assert _losses(str(tmp_path / "killed")) == _losses(straight.run_uri)
    np.testing.assert_array_equal(_table(str(tmp_path / "killed" / "step-00000020")), _table(straight.checkpoint_uri))


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}


def _wait_for(path: Path, process: subprocess.Popen[bytes], limit_s: float = 300) -> None:
    end = time.monotonic() + limit_s
    while not path.exists():
        assert process.poll() is None, f"the run ended before {path.name} was there"
        assert time.monotonic() < end, f"{path} was not there after {limit_s} s"
        time.sleep(0.02)
