"""Recipes that keep something of each sample, as runs: on any ranks, resumed, and what they score."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from ldlva_dist.analysis.scoring import score
from ldlva_dist.analysis.trained_run import read_stored_probabilities
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config import LossConfig, RobustConfig, RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.method.uncertainty_table import StartNoise
from ldlva_dist.run import launch
from testing.tiny_runs import losses, tiny_run

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def without_graph(faces: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Drawn faces of which nobody has looked for neighbours: this recipe needs none."""
    ignored = shutil.ignore_patterns("graph-*", "versions")
    return shutil.copytree(faces, str(tmp_path_factory.mktemp("data") / "faces"), ignore=ignored)


def _config(dataset: str, folder: Path, name: str, recipe: Literal["elr", "sop", "posterior"] = "elr") -> RunConfig:
    return replace(tiny_run(dataset, folder, name), loss=LossConfig(recipe=recipe))


def test_two_ranks_and_a_resumed_run_keep_the_averages_of_one_rank(without_graph: str, tmp_path: Path) -> None:
    info = Dataset.open(without_graph).info
    one = launch.fit(_config(without_graph, tmp_path, "one"))
    averages, lines = read_stored_probabilities(one.checkpoint, info), losses(one.run_uri)
    assert len(lines) == 20
    assert (averages.sum(axis=1) > 0).all()
    shutil.rmtree(one.checkpoint.uri)
    resumed = launch.fit(_config(without_graph, tmp_path, "one"))
    assert losses(resumed.run_uri) == lines
    np.testing.assert_array_equal(read_stored_probabilities(resumed.checkpoint, info), averages)
    two = _config(without_graph, tmp_path, "two")
    done = launch.fit(replace(two, placement=replace(two.placement, num_workers=2)))
    np.testing.assert_allclose(losses(done.run_uri), lines, rtol=2e-4)
    np.testing.assert_allclose(read_stored_probabilities(done.checkpoint, info), averages, atol=2e-4)
    noise = score(done.checkpoint, Dataset.open(without_graph), predict_training=True)["noise"]
    assert set(noise) == {"wrong_share", "one_minus_own_average", "one_minus_p_label", "bayes"}


def test_two_ranks_and_a_resumed_run_keep_the_noise_of_one_rank(without_graph: str, tmp_path: Path) -> None:
    """Of sparse over-parameterisation; its rates are such that a few steps show."""
    info, configs = Dataset.open(without_graph).info, {}
    for name in ("one", "two"):
        config = _config(without_graph, tmp_path, name, "sop")
        configs[name] = replace(config, robust=RobustConfig(sop_u_rate=0.1, sop_v_rate=0.2, sop_spread=0.05))

    def noise(done: launch.RunResult) -> np.ndarray:
        return done.checkpoint.read_logits(info.num_train, 1 + len(info.class_names)).numpy()

    one = launch.fit(configs["one"])
    values, lines = noise(one), losses(one.run_uri)
    start = StartNoise(deviation=0.05, seed=configs["one"].training.seed).of_rows(0, *values.shape).numpy()
    assert (np.abs(values - start).max(axis=1) > 1e-3).mean() > 0.5
    shutil.rmtree(one.checkpoint.uri)
    resumed = launch.fit(configs["one"])
    assert losses(resumed.run_uri) == lines
    np.testing.assert_array_equal(noise(resumed), values)
    done = launch.fit(replace(configs["two"], placement=replace(configs["two"].placement, num_workers=2)))
    np.testing.assert_allclose(losses(done.run_uri), lines, rtol=2e-4)
    np.testing.assert_allclose(noise(done), values, atol=2e-4)
    found = score(done.checkpoint, Dataset.open(without_graph), predict_training=True)["noise"]
    assert set(found) == {"wrong_share", "sparse_noise", "one_minus_p_label", "bayes"}


def test_posteriors_are_the_same_on_two_ranks_and_in_a_resumed_run(faces: str, tmp_path: Path) -> None:
    one = launch.fit(_config(faces, tmp_path, "one", "posterior"))
    lines, uncertainty_N = losses(one.run_uri), _uncertainty(one.checkpoint)
    noise_CC = one.checkpoint.read_weights()["noise_joint"]
    assert float(noise_CC.sum()) == pytest.approx(1.0, abs=1e-5)
    assert (noise_CC.diagonal() != noise_CC[0, 0]).any()
    shutil.rmtree(one.checkpoint.uri)
    resumed = launch.fit(_config(faces, tmp_path, "one", "posterior"))
    assert losses(resumed.run_uri) == lines
    np.testing.assert_array_equal(_uncertainty(resumed.checkpoint), uncertainty_N)
    np.testing.assert_array_equal(resumed.checkpoint.read_weights()["noise_joint"], noise_CC)
    two = _config(faces, tmp_path, "two", "posterior")
    done = launch.fit(replace(two, placement=replace(two.placement, num_workers=2)))
    np.testing.assert_allclose(losses(done.run_uri), lines, rtol=2e-4)
    np.testing.assert_allclose(_uncertainty(done.checkpoint), uncertainty_N, atol=2e-4)
    np.testing.assert_allclose(done.checkpoint.read_weights()["noise_joint"], noise_CC, atol=1e-5)
    noise = score(done.checkpoint, Dataset.open(faces))["noise"]
    assert set(noise) == {"wrong_share", "uncertainty", "one_minus_p_label", "bayes"}


def _uncertainty(checkpoint: Checkpoint) -> NDArray[np.float32]:
    return checkpoint.read_logits(checkpoint.facts["num_train"]).sigmoid().numpy()
