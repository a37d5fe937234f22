"""Claim: one combined score finds wrong labels as well as the best of all single ones, on flips and on real noise.

AUROC and average precision of: the uncertainty, 1 - p(label) (cleanlab's self-confidence), the neighbours'
disagreement, cleanlab's normalised margin, both of cleanlab's with adjusted probabilities, and the combined suspicion
(ldlva_dist/analysis/suspicion.py). All on the same stored predictions, made in training: nothing is out of sample. By
default a network of the demo is trained on drawn faces (30 % of the labels flipped); --run takes finished runs instead,
on any data set whose wrong labels are known (drawn faces, --noise, FER+ votes). Equal best: the difference from the
best single score, over paired bootstrap samples, is not below 0 in 97.5 % of them.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from bench.common import cluster, drawn_faces, report
from ldlva_dist.analysis.label_findings import scores
from ldlva_dist.analysis.metrics import noise_finding
from ldlva_dist.analysis.scoring import wrong_labels
from ldlva_dist.analysis.trained_run import TrainedRun
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config.presets import demo
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.run import launch

COMBINED = "suspicion"
FIGURES = ("auroc", "average_precision")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to judge."""

    run: tuple[str, ...] = ()
    """Folders of finished runs with neighbours; none trains one on drawn faces."""
    seed: int = 1
    """Of the drawn faces, their flips and the network."""
    bootstrap: int = 50


def main(arguments: Arguments) -> None:
    """Judge every run and print one JSON line."""
    if arguments.run:
        judged = {run: judge(run, arguments.bootstrap) for run in arguments.run}
    else:
        with tempfile.TemporaryDirectory() as folder:
            judged = {f"drawn faces, seed {arguments.seed}": judge(train(folder, arguments.seed), arguments.bootstrap)}
    report("noise", ok=all(all(found["as_good"].values()) for found in judged.values()), **judged)


def train(folder: str, seed: int) -> str:
    """A run of the demo's settings; its checkpoint."""
    with cluster():
        data = drawn_faces(folder, train=3000, pixels=48, seed=seed)
        config = demo()
        config = replace(
            config,
            storage_path=folder,
            data=replace(config.data, dataset=data),
            training=replace(config.training, seed=seed),
        )
        return launch.fit(config).checkpoint.uri


def judge(run: str, rounds: int) -> dict[str, Any]:
    """AUROC and average precision of every score, and whether the combined one is as good as the best."""
    found, wrong_n = known_scores(run)
    table = {name: noise_finding(score, wrong_n) for name, score in found.items()}
    best = {key: max((name for name in table if name != COMBINED), key=lambda n: table[n][key] or 0) for key in FIGURES}
    ahead = differences(found, wrong_n, best, rounds)
    return {
        "samples": len(wrong_n),
        "wrong_share": float(wrong_n.mean()),
        "scores": table,
        "best_single": best,
        "ahead_of_it": {key: [float(np.mean(gaps)), float(np.std(gaps))] for key, gaps in ahead.items()},
        "as_good": {key: bool(np.quantile(gaps, 0.975) >= 0) for key, gaps in ahead.items()},
    }


def known_scores(run: str) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Every score [n] of a run with neighbours, and which labels are wrong [n]: of the samples of which it is known."""
    checkpoint = Checkpoint.newest(run)
    if checkpoint is None:
        raise SettingError(f"--run must be a folder with a finished checkpoint, got {run!r}")
    dataset = Dataset.open(checkpoint.config.data.dataset)
    known = wrong_labels(dataset)
    if known is None:
        raise SettingError(f"--run must be of a data set whose wrong labels are known, got {dataset.uri!r}")
    wrong_N, known_N = known
    found = scores(TrainedRun(checkpoint, dataset).findings())
    return {name: score_N[known_N] for name, score_N in found.items()}, wrong_N[known_N]


def differences(
    found: Mapping[str, NDArray[Any]], wrong_n: NDArray[np.bool_], best: Mapping[str, str], rounds: int
) -> dict[str, list[float]]:
    """How far the combined score is ahead of the best single one, on samples drawn with replacement."""
    generator = np.random.default_rng(0)
    ahead: dict[str, list[float]] = {key: [] for key in FIGURES}
    for _ in range(rounds):
        rows = generator.integers(0, len(wrong_n), len(wrong_n))
        drawn = {name: noise_finding(found[name][rows], wrong_n[rows]) for name in {COMBINED, *best.values()}}
        for key, gaps in ahead.items():
            gaps.append((drawn[COMBINED][key] or 0.0) - (drawn[best[key]][key] or 0.0))
    return ahead


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
