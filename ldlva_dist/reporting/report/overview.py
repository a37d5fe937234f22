"""The run in one glance: what stands above the samples. C = classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.analysis.groups import SuspectGroup
from ldlva_dist.analysis.intervals import Interval, confusion_intervals, mean_interval, share_interval
from ldlva_dist.analysis.wrong_label_list import WrongLabelList
from ldlva_dist.reporting.report import charts
from ldlva_dist.reporting.report.rounds import RelabelRound
from ldlva_dist.reporting.tables import ABSENT, MEASURES, REFERENCES, judged_groups

MATRIX, LISTED, DIAGRAMS = 40, 200, 24
"""Classes in the confusion matrix, in the list of sizes, and with a diagram: a browser draws no million cells."""
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
    suspects: Mapping[str, Mapping[str, SuspectGroup]] = field(default_factory=dict)
    """Suspects among the training samples, by extra column and value."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number, and the baseline's."""

    name: str
    value: str
    interval: str | None = None
    """Of 95 %."""
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
class ClassDiagram:
    """Reliability of the samples that are predicted to be of a class."""

    index: int
    bars: Sequence[charts.Bar]
    samples: int
    confidence: str
    accuracy: str
    interval: str


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Figures of the groups of one extra column."""

    name: str
    headings: Sequence[str]
    rows: Mapping[str, Sequence[tuple[str, str]]]
    """By value: each figure, and its interval or nothing."""


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
    diagrams: Sequence[ClassDiagram]
    """Reliability by predicted class: of all classes, or of the DIAGRAMS predicted most often."""
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
    between = _intervals(ours)
    return Overview(
        run=run,
        baseline=baseline.name if baseline else None,
        against=REFERENCES[reference],
        figures=[
            _figure(key, ours[key], theirs.get(key), between.get(key)) for key in SHOWN if ours.get(key) is not None
        ],
        curves=charts.curves(run.metrics, baseline.metrics if baseline else ()),
        confusion=_confusion(np.array(ours["confusion"])),
        reliability=charts.reliability_chart(ours["reliability"], num_bins=15),
        diagrams=_diagrams(ours["class_reliability"]),
        sizes=_sizes(run.class_counts),
        noise=[
            Figure(name=name, value=f"{noise[key]['auroc']:.3f}", baseline=f"{noise[key]['average_precision']:.3f}")
            for key, name in SCORES.items()
            if noise.get(key, {}).get("auroc") is not None
        ],
        wrong_share=noise.get("wrong_share"),
        groups=_groups(run.evaluation.get("groups", {}), run.suspects),
        spearman=run.evaluation.get("ambiguity", {}).get("spearman"),
    )


def _intervals(judgement: Mapping[str, Any]) -> dict[str, Interval]:
    """Of those figures that have one: the calibration error's would be biased."""
    confusion_CC = np.array(judgement["confusion"], dtype=np.int64)
    found = confusion_intervals(confusion_CC)
    accuracy = share_interval(int(confusion_CC.trace()), int(confusion_CC.sum()))
    errors = judgement.get("standard_errors", {})
    return {
        **found,
        **({"accuracy": accuracy} if accuracy else {}),
        **{key: mean_interval(judgement[key], errors[key]) for key in SHOWN if key in errors},
    }


def _diagrams(class_bins: Sequence[Sequence[Mapping[str, float]]]) -> list[ClassDiagram]:
    samples_C = [sum(int(each["samples"]) for each in bins) for bins in class_bins]
    most = sorted(range(len(class_bins)), key=lambda index: -samples_C[index])[:DIAGRAMS]
    return [_diagram(index, class_bins[index], samples_C[index]) for index in sorted(most) if samples_C[index]]


def _diagram(index: int, bins: Sequence[Mapping[str, float]], samples: int) -> ClassDiagram:
    shared = [{**each, "share": each["samples"] / samples} for each in bins]
    confidence, accuracy = (sum(each["share"] * each[name] for each in shared) for name in ("confidence", "accuracy"))
    return ClassDiagram(
        index=index,
        bars=charts.reliability_chart(shared, num_bins=15),
        samples=samples,
        confidence=f"{confidence:.2f}",
        accuracy=f"{accuracy:.2f}",
        interval=_between(share_interval(round(accuracy * samples), samples), 2),
    )


def _groups(
    judged: Mapping[str, Mapping[str, Any]], suspects: Mapping[str, Mapping[str, SuspectGroup]]
) -> list[Groups]:
    """A table for each column: how the groups of the split are judged, and the suspects of the training samples."""
    found = []
    for name in {**judged, **suspects}:
        own, training = judged.get(name, {}), suspects.get(name, {})
        headings, rows = judged_groups(own)
        cells = {value: [(text, "") for text in texts] for value, *texts in rows}
        for value, group in own.items():
            share = share_interval(round(group["accuracy"] * group["samples"]), group["samples"])
            cells[value][headings.index("accuracy")] = (f"{group['accuracy']:.3f}", _between(share))
        if training:
            blank = [(ABSENT, "")] * len(headings)
            headings = [*headings, "training labels", "probably wrong", "doubted"]
            cells = {value: cells.get(value, blank) + _suspects(training.get(value)) for value in {**training, **own}}
        if cells:
            found.append(Groups(name=name, headings=headings, rows=cells))
    return found


def _suspects(group: SuspectGroup | None) -> list[tuple[str, str]]:
    if group is None:
        return [(ABSENT, "")] * 3
    shares = [
        (f"{count / group.samples:.1%}", _between(share_interval(count, group.samples), percent=True))
        for count in (group.listed, group.doubted)
    ]
    return [(f"{group.samples:,}", ""), *shares]


def _between(interval: Interval | None, decimals: int = 3, *, percent: bool = False) -> str:
    if interval is None:
        return ""
    low, high = interval
    return f"{low:.1%} to {high:.1%}" if percent else f"{low:.{decimals}f} to {high:.{decimals}f}"


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
    by_class = found.get("class_reliability")
    return (
        isinstance(by_class, list)
        and len(by_class) == num_classes
        and all(value is None or isinstance(value, int | float) for value in numbers)
        and len(rows) == num_classes
        and all(isinstance(row, list) and len(row) == num_classes for row in rows)
    )


def _figure(key: str, value: float, baseline: float | None, interval: Interval | None) -> Figure:
    name, between = MEASURES[key], _between(interval) or None
    if baseline is None:
        return Figure(name=name, value=f"{value:.3f}", interval=between)
    gap = round(value, 3) - round(baseline, 3)
    better = None if abs(gap) < 5e-4 else (gap < 0) == (key in LESS_IS_BETTER)
    sign = "+" if gap > 0 else "\N{MINUS SIGN}" if gap < 0 else "\N{PLUS-MINUS SIGN}"
    return Figure(
        name=name,
        value=f"{value:.3f}",
        interval=between,
        baseline=f"{baseline:.3f}",
        difference=f"{sign}{abs(gap):.3f}",
        is_better=better,
    )
