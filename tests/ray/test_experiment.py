"""jobs/experiment.py from the command line to its tables; what is finished is not run again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ldlva_dist.analysis.out_of_fold import find_out_of_fold
from ldlva_dist.analysis.scoring import predict_split
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config import to_json
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.experiments.folds import EXPECTED
from testing.clusters.job_scripts import Scripts
from testing.tiny_runs import tiny_run

pytestmark = pytest.mark.usefixtures("cluster")


def test_two_sides_are_compared_side_by_side_and_the_same_command_runs_nothing_again(
    scripts: Scripts, faces: str, tmp_path: Path
) -> None:
    config, settings, output = tiny_run(faces, tmp_path, "any"), tmp_path / "settings.json", tmp_path / "out"
    settings.write_text(to_json(replace(config, placement=replace(config.placement, max_failures=0))))
    command = ["experiment", "noise", "--dataset", faces, "--output", str(output), "--config", str(settings)]
    command += ["--levels", "0", "--sides", "cross-entropy,shuffled VA", "--seeds", "1", "--max-concurrent", "2"]
    command += ["--training.epochs", "0.4", "--optim.lr", "0.02"]

    done = scripts.run(*command)
    assert done.code == 0, done.stderr
    runs = pd.read_parquet(output / "noise-runs.parquet")
    assert runs["group"].tolist() == ["cross-entropy", "shuffled VA"]
    assert runs["accuracy"].between(0, 1).all()
    assert "Mean ± standard error of 1 seed." in (output / "noise.md").read_text()
    assert {"noise.md", "noise.json", "noise.csv", "noise.parquet", "noise.pdf", "noise.png"} <= {
        path.name for path in output.iterdir()
    }
    trained = {group: _checkpoint(output, run).config for group, run in zip(runs["group"], runs["run"], strict=True)}
    assert {(run.optim.lr, run.training.epochs, run.training.seed) for run in trained.values()} == {(0.02, 0.4, 1)}
    auroc = dict(zip(runs["group"], runs["auroc_one_minus_p_label"].tolist(), strict=True))
    first = str(runs["run"].tolist()[0])
    assert auroc["cross-entropy"] == pytest.approx(_found_by_prediction(output, first, faces), abs=1e-6)
    assert auroc["shuffled VA"] > 0
    shuffled = trained["shuffled VA"].data.dataset
    assert trained["cross-entropy"].data.dataset == faces
    assert (Dataset.open(shuffled).va(0, 50) != Dataset.open(faces).va(0, 50)).any()

    before = {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*") if path.is_file()}
    again = scripts.run(*command)
    assert again.code == 0, again.stderr
    assert "2 of 2 runs were finished before" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*") if path.is_file()} == before
    assert np.array_equal(pd.read_parquet(output / "noise-runs.parquet")["accuracy"], runs["accuracy"])


def test_every_sample_is_judged_by_a_run_that_did_not_see_it(scripts: Scripts, faces: str, tmp_path: Path) -> None:
    config, settings, output = tiny_run(faces, tmp_path, "any"), tmp_path / "settings.json", tmp_path / "out"
    config = replace(config, training=replace(config.training, epochs=1.0, log_ids=True))
    settings.write_text(to_json(config))
    command = ["experiment", "folds", "--dataset", faces, "--output", str(output), "--config", str(settings)]
    command += ["--num-folds", "2"]

    done = scripts.run(*command)
    assert done.code == 0, done.stderr
    dataset = Dataset.open(faces)
    rows, whole = dataset.info.num_train, None
    left: dict[int, str] = {}
    for run in (output / "runs").iterdir():
        fold = _checkpoint(output, run.name).config.data.fold
        seen = np.unique(np.concatenate([pd.read_parquet(part)["id"] for part in (run / "ids").glob("*.parquet")]))
        expected = [i for i in range(rows) if fold is None or i % 2 != fold[0]]
        assert seen.tolist() == expected
        whole = run if fold is None else whole
        left |= {} if fold is None else {fold[0]: run.name}
    assert whole is not None
    assert sorted(left) == [0, 1]
    found = find_out_of_fold(str(whole), dataset)
    assert found is not None
    for k, name in left.items():
        every = predict_split(_checkpoint(output, name), dataset, split="train", num_tasks=1)
        np.testing.assert_allclose(found[k::2], every[k::2], atol=1e-5)
    lines = pd.read_csv(output / "folds.csv")
    table = dict(zip(zip(lines["side"], lines["score"], strict=True), lines["auroc"].tolist(), strict=True))
    assert ("in-sample", "uncertainty") in table
    labels, flipped = (dataset.columns([name], rows=rows)[name].to_numpy().astype(int) for name in ("label", "flipped"))
    doubt = 1 - found[np.arange(rows), labels]
    ahead = np.sign(doubt[flipped == 1][:, None] - doubt[flipped == 0])
    assert table["out-of-fold", "one_minus_p_label"] == pytest.approx(float(ahead.mean() / 2 + 0.5))
    assert EXPECTED in (output / "folds.md").read_text()

    before = {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*.safetensors")}
    assert "3 of 3 runs were finished before" in scripts.run(*command).stdout
    assert {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*.safetensors")} == before
    assert scripts.run("report", "--run", str(whole)).code == 0
    assert "out-of-fold" in (whole / "report.html").read_text()


def _found_by_prediction(output: Path, run: str, faces: str) -> float:
    """AUROC of the flipped labels by 1 - p(label), the network's own: a run without neighbours stores none."""
    rows = Dataset.open(faces).columns(["label", "flipped"], rows=Dataset.open(faces).info.num_train)
    labels, flipped = (rows[name].to_numpy().astype(int) for name in ("label", "flipped"))
    probs = predict_split(_checkpoint(output, run), Dataset.open(faces), split="train", num_tasks=1)
    doubt = 1 - probs[np.arange(len(labels)), labels]
    ahead = np.sign(doubt[flipped == 1][:, None] - doubt[flipped == 0])
    return float(ahead.mean() / 2 + 0.5)


def _checkpoint(output: Path, run: str) -> Checkpoint:
    found = Checkpoint.newest(str(output / "runs" / run))
    assert found is not None
    return found
