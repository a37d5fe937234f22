"""Whole small runs: any number of shards gives the same table, resumed equals uninterrupted.

That any number of ranks does is shown by test_elastic.py, micro-batches by test_exact.py.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from ldlva_dist import launch
from ldlva_dist.config import OptimConfig
from ldlva_dist.data.manifest import read_columns, read_info
from ldlva_dist.reporting.history import read_history, write_history
from ldlva_dist.reporting.metrics_log import read_metrics
from ldlva_dist.scoring import score
from ldlva_dist.training.exported import PREFIX, WITHOUT
from tests._jobs import kill_job, training_job, wait_until
from tests._runs import losses, table, tiny_run


def test_a_run_moves_the_table_and_writes_what_a_user_meets(alone: launch.RunResult) -> None:
    logits = table(alone.checkpoint_uri)
    assert np.abs(logits + 0.5).max() > 1e-3
    assert len(np.unique(logits)) > len(logits) // 2
    assert alone.checkpoint_uri.endswith("step-00000020")
    assert 0 <= alone.metrics["holdout_accuracy"] <= 1
    assert len(losses(alone.run_uri)) == 20
    assert {"config.json", "metrics.jsonl", "tensorboard"} <= set(os.listdir(alone.run_uri))


def test_the_dashboard_shows_gauges_that_a_run_exports(alone: launch.RunResult, root: Path) -> None:
    dashboard = (root / "cluster" / "grafana-dashboard.json").read_text()
    shown = set(re.findall(r"\bray_\w+", dashboard)) - {"ray_ldlva_"}
    logged = {name for line in read_metrics(alone.run_uri) for name in line}
    assert shown <= {f"ray_{PREFIX}{name}" for name in logged - set(WITHOUT)}
    assert {"ray_ldlva_loss", "ray_ldlva_holdout_accuracy", "ray_ldlva_staleness_p95"} <= shown
    queries = [target["expr"] for panel in json.loads(dashboard)["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 15
    assert all(query.endswith('{run=~"$run"}') for query in queries)


def test_the_history_of_the_uncertainties_ends_with_the_table(alone: launch.RunResult) -> None:
    logits = table(alone.checkpoint_uri)
    history = read_history(alone.run_uri, np.arange(len(logits)))
    assert history.epochs.tolist() == pytest.approx([0, alone.metrics["epoch"] / 2, alone.metrics["epoch"]])
    np.testing.assert_allclose(history.uncertainty[0], 1 / (1 + np.exp(0.5)), atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(history.uncertainty[-1], 1 / (1 + np.exp(-logits)), atol=0.5 / 255 + 1e-6, rtol=0)
    assert (history.uncertainty[1] != history.uncertainty[2]).any()


def test_a_checkpoint_is_judged_alike_by_one_task_and_by_three(alone: launch.RunResult, faces: str) -> None:
    by_one, by_three = (score(alone.checkpoint_uri, faces, num_tasks=tasks) for tasks in (1, 3))
    assert by_one["samples"] == 60
    assert by_one["given"]["confusion"] == by_three["given"]["confusion"]
    assert by_one["truth"]["kl"] == pytest.approx(by_three["truth"]["kl"], rel=1e-5)
    flipped = read_columns(faces, ["flipped"], rows=read_info(faces).num_train)["flipped"].to_numpy().astype(bool)
    logits = table(alone.checkpoint_uri)
    above = np.sign(logits[flipped][:, None] - logits[~flipped]).mean() / 2 + 0.5
    assert by_one["noise"]["wrong_share"] == pytest.approx(flipped.mean())
    assert by_one["noise"]["uncertainty"]["auroc"] == pytest.approx(above, abs=1e-3)
    assert by_one["noise"]["bayes"]["auroc"] > 0.9


def test_three_shards_train_bit_by_bit_like_two(alone: launch.RunResult, faces: str, tmp_path: Path) -> None:
    config = tiny_run(faces, tmp_path, "three-shards")
    result = launch.fit(replace(config, bank=replace(config.bank, num_shards=3)))
    assert losses(result.run_uri) == losses(alone.run_uri)
    np.testing.assert_array_equal(table(result.checkpoint_uri), table(alone.checkpoint_uri))


def test_a_killed_run_started_again_equals_the_uninterrupted_one_bit_by_bit(
    cluster: None, faces: str, tmp_path: Path
) -> None:
    """BatchNorm trains here, on two ranks; the job is killed after its first checkpoint.

    A forward pass fills the bank of a new run, and must not be made again: it would overwrite what the ranks wrote.
    The recipe is the paper's, whose centres are parameters; tests/s3/test_training.py does it for the official one.
    """
    config = tiny_run(faces, tmp_path, "straight")
    config = replace(
        config,
        model=replace(config.model, freeze_batchnorm=False),
        loss=replace(config.loss, recipe="paper"),
        bank=replace(config.bank, warm_start="forward"),
        optim=OptimConfig(name="adamw", lr=1e-3, schedule="cosine"),
        placement=replace(config.placement, num_workers=2),
    )
    straight = launch.fit(config)
    config = replace(config, name="killed", training=replace(config.training, tracker="mlflow"))
    with training_job(config, tmp_path) as job:
        wait_until((tmp_path / "killed" / "step-00000010" / "state.json").exists, job, "the first checkpoint")
        kill_job(job)
    # As if an evaluation had come between the checkpoint and the end.
    write_history(str(tmp_path / "killed"), np.zeros(9), step=15, epoch=1.5, rank=0, first_id=0)
    assert not (tmp_path / "killed" / "step-00000020").exists(), "the kill came too late to prove anything"
    killed = launch.fit(config)

    assert losses(killed.run_uri) == losses(straight.run_uri)
    np.testing.assert_array_equal(table(killed.checkpoint_uri), table(straight.checkpoint_uri))
    ids = np.arange(len(table(straight.checkpoint_uri)))
    there, here = (read_history(run.run_uri, ids) for run in (straight, killed))
    np.testing.assert_array_equal(here.epochs, there.epochs)
    np.testing.assert_array_equal(here.uncertainty, there.uncertainty)

    mlflow = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run = mlflow.get_run(json.loads((tmp_path / "killed" / "tracker-mlflow.json").read_text())["id"])
    assert (run.info.run_name, run.info.status) == ("killed", "FINISHED")
    told = mlflow.get_metric_history(run.info.run_id, "loss")
    assert {metric.step: metric.value for metric in told} == dict(enumerate(losses(straight.run_uri), 1))
    assert 20 <= len(told) <= 21, "only the step in which it was killed may be told twice"
    assert not (tmp_path / "killed" / "tensorboard").exists()
