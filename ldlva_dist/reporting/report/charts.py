"""Charts as plain numbers, for the template to draw: every chart has its own small coordinate system in pixels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 260, 120
MAX_POINTS = 400
LINE_HEIGHT = 12
CURVES = {
    "loss": "training loss",
    "holdout_accuracy": "accuracy on the holdout's given labels",
    "uncertainty_mean": "mean uncertainty of the labels",
    "staleness_mean": "age of neighbours' outputs, steps",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One run's curve."""

    path: str
    """An SVG path."""
    last: str
    """The last value, for people."""
    label_y: float
    """Height of ``last``, beside the curve's end but clear of the other run's."""
    is_baseline: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A small line chart over the epochs."""

    title: str
    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]]
    """Height and text of each horizontal line."""
    last_epoch: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bin of the reliability diagram, in the unit square (0 at the top)."""

    x: float
    width: float
    top: float
    """Accuracy."""
    confidence: float
    text: str


def curves(metrics: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]] = ()) -> list[Chart]:
    """A chart for each of CURVES that the run has values of."""
    charts = []
    for key, title in CURVES.items():
        series = [(_series(baseline, key), True), (_series(metrics, key), False)]
        if len(series[1][0][0]):
            charts.append(_chart(title, [(points, is_baseline) for points, is_baseline in series if len(points[0])]))
    return charts


def reliability_chart(bins: Sequence[Mapping[str, float]], *, num_bins: int) -> list[Bar]:
    """The bars of a reliability diagram, from ``metrics.reliability``."""
    bars = []
    for found in bins:
        index = min(num_bins - 1, math.ceil(found["confidence"] * num_bins - 1e-9) - 1)
        text = f"confidence {found['confidence']:.2f}, accuracy {found['accuracy']:.2f}, {found['share']:.1%} of all"
        bars.append(
            Bar(
                x=index / num_bins,
                width=1 / num_bins,
                top=1 - found["accuracy"],
                confidence=1 - found["confidence"],
                text=text,
            )
        )
    return bars


def nice_ticks(low: float, high: float, count: int = 3) -> list[float]:
    """Round numbers that span low..high, about ``count`` of them."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    return [round(step * i, 10) for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def readable(value: float) -> str:
    """Three decimals for small numbers, none for large ones."""
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.3f}"


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(line["epoch"], line[key]) for line in metrics if line.get(key) is not None and math.isfinite(line[key])]
    x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
    if len(x) > 2:  # a line that an evaluation or a checkpoint asked for may be the mean of a step or two
        gaps = np.diff(x)
        is_usual = np.r_[True, gaps[:-1] >= np.median(gaps) / 2, True]
        x, y = x[is_usual], y[is_usual]
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).astype(int)) if len(x) else slice(0)
    return x[keep], y[keep]


def _chart(title: str, series: Sequence[tuple[tuple[np.ndarray, np.ndarray], bool]]) -> Chart:
    ticks = nice_ticks(min(float(y.min()) for (_, y), _ in series), max(float(y.max()) for (_, y), _ in series))
    last_epoch = max(float(x.max()) for (x, _), _ in series) or 1.0
    low, high = ticks[0], ticks[-1]
    heights = [HEIGHT - (y - low) / (high - low) * HEIGHT for (_, y), _ in series]
    label_ys = _apart([float(py[-1]) for py in heights])
    lines = []
    for ((x, y), is_baseline), py, label_y in zip(series, heights, label_ys, strict=True):
        px = x / last_epoch * WIDTH
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(px.tolist(), py.tolist(), strict=True))
        lines.append(Line(path=path, last=readable(float(y[-1])), label_y=round(label_y, 1), is_baseline=is_baseline))
    places = [(HEIGHT - (tick - low) / (high - low) * HEIGHT, f"{tick:g}") for tick in ticks]
    return Chart(
        title=title, lines=lines, ticks=places, last_epoch=f"{last_epoch:g}" if last_epoch < 10 else f"{last_epoch:.0f}"
    )


def _apart(ys: Sequence[float]) -> list[float]:
    """The same heights, the first moved away from the second where two labels would lie on each other."""
    if len(ys) < 2 or abs(ys[0] - ys[1]) >= LINE_HEIGHT:
        return list(ys)
    above, below = ys[1] - LINE_HEIGHT, ys[1] + LINE_HEIGHT
    goes_below = above < 0 or (ys[0] >= ys[1] and below <= HEIGHT)
    return [below if goes_below else above, ys[1]]
