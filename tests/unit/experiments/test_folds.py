"""The plan of a folds experiment, what its runs say put together, and its tables."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest

from ldlva_dist.analysis.out_of_fold import LEFT_OUT, find_out_of_fold, write_outputs
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.experiments.folds import (
    CONFIDENT,
    EXPECTED,
    compare_sides,
    folds_markdown,
    join_folds,
    plan_folds,
    write_folds,
)
from ldlva_dist.index.graph import build_graph
from testing.synthetic_checkpoint import small_config, write_checkpoint
from testing.synthetic_run import SyntheticRun, synthetic_run

N, K, C = 91, 4, 7


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    run = synthetic_run(tmp_path_factory.mktemp("set"), rows=(N, 1, 1), k=K, pool=40, pixels=48)
    build_graph(run.dataset, k_max=K)
    return run


def config_of(run: SyntheticRun, folder: Path) -> RunConfig:
    return replace(small_config(run), storage_path=str(folder))


def test_the_runs_differ_in_their_folds_and_in_nothing_else(made: SyntheticRun, tmp_path: Path) -> None:
    runs = plan_folds(config_of(made, tmp_path), 3)
    assert [config.data.fold for config in runs.folds] == [(0, 3), (1, 3), (2, 3)]
    assert len({config.uri for config in (runs.whole, *runs.folds)}) == 4
    for config in runs.folds:
        assert replace(config, name="x", data=replace(config.data, fold=None)) == replace(runs.whole, name="x")
    for number in (1, N + 1):
        with pytest.raises(SettingError, match=rf"--num-folds must be in 2\.\.91, the training samples, got {number}"):
            plan_folds(config_of(made, tmp_path), number)
    with pytest.raises(SettingError, match=r"data\.fold must be none"):
        plan_folds(runs.folds[0], 3)


def test_what_the_runs_say_is_put_together_and_compared(made: SyntheticRun, tmp_path: Path) -> None:
    runs = plan_folds(config_of(made, tmp_path), 3)
    write_checkpoint(Path(runs.whole.uri), made, runs.whole)
    probs = np.random.default_rng(1).dirichlet(np.ones(C), N).astype(np.float32)
    for k, config in enumerate(runs.folds):
        write_outputs(f"{config.uri}/{LEFT_OUT}", made.dataset.info, np.arange(k, N, 3), probs[k::3])
    np.testing.assert_array_equal(join_folds(runs), probs)
    found_again = find_out_of_fold(runs.whole.uri, Dataset.open(made.dataset.uri))
    np.testing.assert_array_equal(found_again, probs)

    silent = compare_sides(runs.whole, probs)
    assert (silent["samples"], silent["wrong_share"], silent["scores"]) == (N, None, {})
    assert "No label is known to be wrong here" in folds_markdown(silent)
    write_folds(str(tmp_path), silent)
    assert json.loads((tmp_path / "folds.json").read_text()) == silent


def test_lists_and_scores_are_judged_where_wrong_labels_are_known(
    made: SyntheticRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = plan_folds(config_of(made, tmp_path), 3)
    write_checkpoint(Path(runs.whole.uri), made, runs.whole)
    wrong = np.arange(N) % 4 == 0
    right = (made.findings.labels_N + wrong) % C
    votes = np.eye(C, dtype=np.float32)[right]
    monkeypatch.setattr("ldlva_dist.experiments.folds.wrong_labels", lambda dataset: (wrong, np.arange(N) > 5))
    found = compare_sides(runs.whole, 0.9 * votes + np.float32(0.1 / C))
    assert found["wrong_share"] == pytest.approx(wrong[6:].mean())
    inside, outside = (found["scores"][side] for side in ("in-sample", "out-of-fold"))
    assert set(inside) - set(outside) == {"uncertainty"}
    assert outside["one_minus_p_label"] == {"auroc": 1.0, "average_precision": 1.0}
    assert inside["one_minus_p_label"]["auroc"] < 0.99
    listed = found["lists"]["out-of-fold"][CONFIDENT]
    assert listed["listed"] == wrong.sum()
    assert (listed["precision"], listed["recall"]) == (1.0, 1.0)
    assert set(found["lists"]["in-sample"]) == {EXPECTED, CONFIDENT}
    text = folds_markdown(found)
    assert "| uncertainty |" in text
    assert "| confident learning | out-of-fold | 23 | 1.000 | 1.000 |" in text
    write_folds(str(tmp_path), found)
    table = pyarrow.csv.read_csv(tmp_path / "folds.csv").to_pylist()
    assert {line["side"] for line in table} == {"in-sample", "out-of-fold"}
    assert len(table) == len(inside) + len(outside)
