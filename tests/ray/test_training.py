"""What a whole small run leaves behind.

That any number of ranks gives the same is shown by test_elastic.py, micro-batches by test_exact.py, shards by
test_feature_graphs.py, and that a resumed run is the uninterrupted one by faults/.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from ldlva_dist.analysis import scoring
from ldlva_dist.analysis.scoring import score
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.records.prometheus import PREFIX, WITHOUT
from ldlva_dist.records.uncertainty_history import read_history
from ldlva_dist.run import launch
from testing.tiny_runs import losses, table


def test_a_run_moves_the_table_and_writes_what_a_user_meets(alone: launch.RunResult) -> None:
    logits = table(alone.checkpoint.uri)
    assert np.abs(logits + 0.5).max() > 1e-3
    assert len(np.unique(logits)) > len(logits) // 2
    assert alone.checkpoint.uri.endswith("step-00000020")
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
    logits = table(alone.checkpoint.uri)
    history = read_history(alone.run_uri, np.arange(len(logits)))
    assert history.epochs.tolist() == pytest.approx([0, alone.metrics["epoch"] / 2, alone.metrics["epoch"]])
    np.testing.assert_allclose(history.uncertainty[0], 1 / (1 + np.exp(0.5)), atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(history.uncertainty[-1], 1 / (1 + np.exp(-logits)), atol=0.5 / 255 + 1e-6, rtol=0)
    assert (history.uncertainty[1] != history.uncertainty[2]).any()


def test_a_checkpoint_is_judged_alike_by_one_task_and_by_three(
    alone: launch.RunResult, faces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_three = score(alone.checkpoint, Dataset.open(faces), num_tasks=3)
    monkeypatch.setattr(scoring, "TASK_ROWS", 25)  # three tasks, one after the other
    by_one = score(alone.checkpoint, Dataset.open(faces))
    assert by_one["samples"] == 60
    assert by_one["given"]["confusion"] == by_three["given"]["confusion"]
    assert by_one["truth"]["kl"] == pytest.approx(by_three["truth"]["kl"], rel=1e-5)
    dataset = Dataset.open(faces)
    flipped = dataset.columns(["flipped"], rows=dataset.info.num_train)["flipped"].to_numpy().astype(bool)
    logits = table(alone.checkpoint.uri)
    above = np.sign(logits[flipped][:, None] - logits[~flipped]).mean() / 2 + 0.5
    assert by_one["noise"]["wrong_share"] == pytest.approx(flipped.mean())
    assert by_one["noise"]["uncertainty"]["auroc"] == pytest.approx(above, abs=1e-3)
    assert by_one["noise"]["bayes"]["auroc"] > 0.9
    with pytest.raises(SettingError, match=r"split must have samples \(train, holdout, test\), got 'tset'"):
        score(alone.checkpoint, Dataset.open(faces), split="tset")
    with pytest.raises(SettingError, match="num_tasks must be >= 1, got 0"):
        score(alone.checkpoint, Dataset.open(faces), num_tasks=0)
