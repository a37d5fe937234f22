"""The run in one glance: what stands above the samples. C = classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldlva_dist.reporting.report import charts
from ldlva_dist.reporting.tables import MEASURES, REFERENCES

LESS_IS_BETTER = ("ece", "kl", "jensen_shannon", "chebyshev", "clark", "canberra")
SHOWN = ("accuracy", "mean_class_accuracy", "macro_f1", "kl", "chebyshev", "ece")
SCORES = {
    "uncertainty": "uncertainty",
    "one_minus_p_label": "1 \N{MINUS SIGN} p(label)",
    "neighbor_disagreement": "neighbours disagree",
    "suspicion": "combined suspicion",
    "bayes": "the best that is possible",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as plain values."""

    name: str
    facts: Sequence[tuple[str, str]]
    """What it is made of, for people: name and value."""
    metrics: Sequence[Mapping[str, Any]]
    """The lines of its metrics.jsonl."""
    evaluation: dict[str, Any]
    """What scoring.score found."""
    class_names: Sequence[str]
    class_counts: Sequence[int]
    """[C] training samples."""


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
    """Shares of each given class, row by row."""

    shares: Sequence[Sequence[float]]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What the template shows."""

    run: Run
    baseline: str | None
    against: str
    """What predictions are compared with: the reference that says most about quality."""
    figures: Sequence[Figure]
    curves: Sequence[charts.Chart]
    confusion: Confusion
    reliability: Sequence[charts.Bar]
    class_shares: Sequence[float]
    """[C] of the largest class."""
    noise: Sequence[Figure] = field(default_factory=list)
    """How well each score finds the wrong labels that are known: AUROC (baseline: average precision)."""
    wrong_share: float | None = None


def overview(run: Run, baseline: Run | None) -> Overview:
    """Choose and lay out; a baseline that was judged on something else is compared in what both have."""
    reference = [name for name in REFERENCES if name in run.evaluation][-1]
    ours = run.evaluation[reference]
    theirs = baseline.evaluation.get(reference, {}) if baseline else {}
    noise = run.evaluation.get("noise", {})
    counts = ours["confusion"]
    return Overview(
        run=run,
        baseline=baseline.name if baseline else None,
        against=REFERENCES[reference],
        figures=[_figure(key, ours[key], theirs.get(key)) for key in SHOWN if ours.get(key) is not None],
        curves=charts.curves(run.metrics, baseline.metrics if baseline else ()),
        confusion=Confusion(shares=[[cell / max(1, sum(row)) for cell in row] for row in counts], counts=counts),
        reliability=charts.reliability(ours["reliability"], num_bins=15),
        class_shares=[count / max(1, *run.class_counts) for count in run.class_counts],
        noise=[
            Figure(name=name, value=f"{noise[key]['auroc']:.3f}", baseline=f"{noise[key]['average_precision']:.3f}")
            for key, name in SCORES.items()
            if noise.get(key, {}).get("auroc") is not None
        ],
        wrong_share=noise.get("wrong_share"),
    )


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
