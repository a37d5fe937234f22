"""The run in one glance: what stands above the samples. C = classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.analysis.wrong_label_list import WrongLabelList
from ldlva_dist.reporting.report import charts
from ldlva_dist.reporting.report.rounds import RelabelRound
from ldlva_dist.reporting.tables import MEASURES, REFERENCES, judged_groups

MATRIX, LISTED = 40, 200
"""Classes in the confusion matrix, and in the list of sizes: a browser draws no million cells."""
LESS_IS_BETTER = ("ece", "kl", "jensen_shannon", "chebyshev", "clark", "canberra")
SHOWN = ("accuracy", "mean_class_accuracy", "macro_f1", "kl", "chebyshev", "ece")
SCORES = {
    "uncertainty": "uncertainty",
    "one_minus_p_label": "1 \N{MINUS SIGN} p(label)",
    "one_minus_own_average": "1 \N{MINUS SIGN} t(label)",
    "sparse_noise": "noise that SOP finds",
    "neighbor_disagreement": "neighbours disagree",
    "suspicion": "combined suspicion",
    "bayes": "the best that is possible",
}


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """A run as plain values."""

    name: str
    facts: Sequence[tuple[str, str]]
    """Facts of the run for people: name and value."""
    metrics: Sequence[Mapping[str, Any]]
    """The lines of its metrics.jsonl."""
    evaluation: dict[str, Any]
    """Result of scoring.score."""
    class_names: Sequence[str]
    class_counts: Sequence[int]
    """[C] training samples."""
    rounds: Sequence[RelabelRound] = ()
    """What people changed before, oldest first."""
    wrong_labels: WrongLabelList | None = None
    """The labels that are probably wrong; None for a run without neighbours."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number, and the baseline's."""

    name: str
    value: str
    baseline: str | None = None
    difference: str | None = None
    is_better: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Shares of each given class, row by row, of all classes or of the MATRIX with the most wrong predictions."""

    classes: Sequence[int]
    shares: Sequence[Sequence[float]]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class ClassSize:
    """Training samples of a class, and their share of the largest class's."""

    index: int
    count: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Figures of the groups of one extra column."""

    name: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Value, and its figures."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What the template shows."""

    run: ReportedRun
    baseline: str | None
    against: str
    """Reference that predictions are compared with: the one that says most about quality."""
    figures: Sequence[Figure]
    curves: Sequence[charts.Chart]
    confusion: Confusion
    reliability: Sequence[charts.Bar]
    sizes: Sequence[ClassSize]
    """Sizes of all classes, or of the LISTED largest."""
    noise: Sequence[Figure] = field(default_factory=list)
    """How well each score finds the wrong labels that are known: AUROC (baseline: average precision)."""
    wrong_share: float | None = None
    groups: Sequence[Groups] = field(default_factory=list)
    spearman: float | None = None
    """Rank correlation of uncertainty and entropy of the votes."""


def overview(run: ReportedRun, baseline: ReportedRun | None) -> Overview:
    """Choose and lay out; a baseline that was judged on something else is compared in what both have."""
    reference = [name for name in REFERENCES if name in run.evaluation][-1]
    ours = run.evaluation[reference]
    theirs = baseline.evaluation.get(reference, {}) if baseline else {}
    noise = run.evaluation.get("noise", {})
    return Overview(
        run=run,
        baseline=baseline.name if baseline else None,
        against=REFERENCES[reference],
        figures=[_figure(key, ours[key], theirs.get(key)) for key in SHOWN if ours.get(key) is not None],
        curves=charts.curves(run.metrics, baseline.metrics if baseline else ()),
        confusion=_confusion(np.array(ours["confusion"])),
        reliability=charts.reliability_chart(ours["reliability"], num_bins=15),
        sizes=_sizes(run.class_counts),
        noise=[
            Figure(name=name, value=f"{noise[key]['auroc']:.3f}", baseline=f"{noise[key]['average_precision']:.3f}")
            for key, name in SCORES.items()
            if noise.get(key, {}).get("auroc") is not None
        ],
        wrong_share=noise.get("wrong_share"),
        groups=[_groups(name, groups) for name, groups in run.evaluation.get("groups", {}).items() if groups],
        spearman=run.evaluation.get("ambiguity", {}).get("spearman"),
    )


def _groups(name: str, groups: Mapping[str, Any]) -> Groups:
    headings, rows = judged_groups(groups)
    return Groups(name=name, headings=headings, rows=rows)


def _confusion(counts_CC: NDArray[np.int64]) -> Confusion:
    wrong_CC = counts_CC - np.diag(counts_CC.diagonal())
    wrong_C = wrong_CC.sum(axis=0) + wrong_CC.sum(axis=1)
    classes = np.sort(np.argsort(-wrong_C, kind="stable")[:MATRIX])
    shares_CC = counts_CC / np.maximum(1, counts_CC.sum(axis=1, keepdims=True))
    shown = np.ix_(classes, classes)
    return Confusion(classes=classes.tolist(), shares=shares_CC[shown].tolist(), counts=counts_CC[shown].tolist())


def _sizes(counts: Sequence[int]) -> list[ClassSize]:
    largest = sorted(range(len(counts)), key=lambda index: -counts[index])[:LISTED]
    most = max(1, *counts)
    return [ClassSize(index=index, count=counts[index], share=counts[index] / most) for index in sorted(largest)]


def is_evaluation(found: Any, num_classes: int) -> bool:
    """Whether a value read from an evaluation.json has what the page shows of it; earlier versions wrote less."""
    if not isinstance(found, dict) or not {"steps", "version", "split", "samples", "dataset", "given"} <= found.keys():
        return False
    return all(_is_judgement(found[name], num_classes) for name in REFERENCES if name in found)


def _is_judgement(found: Any, num_classes: int) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("reliability"), list):
        return False
    numbers = [found.get(key, 0.0) for key in SHOWN]
    confusion = found.get("confusion")
    rows = confusion if isinstance(confusion, list) else []
    return (
        all(value is None or isinstance(value, int | float) for value in numbers)
        and len(rows) == num_classes
        and all(isinstance(row, list) and len(row) == num_classes for row in rows)
    )


def _figure(key: str, value: float, baseline: float | None) -> Figure:
    name = MEASURES[key]
    if baseline is None:
        return Figure(name=name, value=f"{value:.3f}")
    gap = round(value, 3) - round(baseline, 3)
    better = None if abs(gap) < 5e-4 else (gap < 0) == (key in LESS_IS_BETTER)
    sign = "+" if gap > 0 else "\N{MINUS SIGN}" if gap < 0 else "\N{PLUS-MINUS SIGN}"
    return Figure(
        name=name,
        value=f"{value:.3f}",
        baseline=f"{baseline:.3f}",
        difference=f"{sign}{abs(gap):.3f}",
        is_better=better,
    )
