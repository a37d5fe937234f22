"""A picture of how runs went: loss, holdout accuracy, mean uncertainty, staleness over the epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ldlva_dist.errors import DataError
from ldlva_dist.reporting.style import FAINT, GREY, INK, SERIES, write_png

PANELS = {
    "loss": "training loss",
    "holdout_accuracy": "accuracy on the given labels of the holdout",
    "uncertainty_mean": "mean uncertainty of the given labels",
    "staleness_mean": "age of the neighbours' outputs, in steps",
}
MARKED_POINTS = 30
SMOOTHED_POINTS = 60
LABEL_GAP = 0.075

Metrics = Sequence[Mapping[str, Any]]


def draw_curves(runs: Mapping[str, Metrics], uri: str, *, title: str) -> None:
    """Draw the metrics of one or more runs (name -> lines of its metrics.jsonl) into one PNG.

    A panel of which no run has a value is left out; a run that has none is missing in that panel alone.
    """
    panels = [key for key in PANELS if any(_series(metrics, key)[0].size for metrics in runs.values())]
    if not panels:
        raise DataError(f"{', '.join(runs) or 'no run'}: there are no metrics to draw")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.9 * columns, 0.65 + 2.75 * rows), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    last_epoch = max(x.max() for key in panels for m in runs.values() if (x := _series(m, key)[0]).size)
    for index, key in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        _draw_panel(axes, runs, key, last_epoch)
        if index + columns >= len(panels):
            axes.set_xlabel("epoch", color=GREY, fontsize=9)
    write_png(figure, uri)


def _draw_panel(axes: Axes, runs: Mapping[str, Metrics], key: str, last_epoch: float) -> None:
    ends: list[tuple[str, str, float]] = []
    for (name, metrics), color in zip(runs.items(), _colors(len(runs)), strict=True):
        x, y = _series(metrics, key)
        if not x.size:
            continue
        if x.size > SMOOTHED_POINTS:
            axes.plot(x, y, color=color, linewidth=0.7, alpha=0.25)
            y = _smooth(y)
        marker = "o" if x.size <= MARKED_POINTS else None
        axes.plot(x, y, color=color, linewidth=1.8, marker=marker, markersize=3.5, clip_on=False)
        ends.append((name, color, float(y[-1])))
    _tidy(axes, PANELS[key], last_epoch)
    _label_ends(axes, ends, with_names=len(runs) > 1)


def _colors(count: int) -> list[str]:
    return [SERIES[index % len(SERIES)] for index in range(count)]


def _series(metrics: Metrics, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Epochs and values of the lines that have one."""
    points = [(line["epoch"], line[key]) for line in metrics if line.get(key) is not None]
    x, y = np.array(points, dtype=float).reshape(-1, 2).T
    finite = np.isfinite(y)
    return x[finite], y[finite]


def _smooth(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred running mean over a fortieth of the curve; the window shrinks at its ends."""
    half = max(1, len(y) // 80)
    total = np.concatenate([[0.0], np.cumsum(y)])
    index = np.arange(len(y))
    reach = np.minimum(half, np.minimum(index, len(y) - 1 - index))
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def _tidy(axes: Axes, title: str, last_epoch: float) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlim(0, last_epoch)
    axes.margins(y=0.12)
    if axes.get_ylim()[0] < 0:  # nothing drawn here can be negative
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=last_epoch >= 4, steps=[1, 2, 4, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=GREY)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _label_ends(axes: Axes, ends: Sequence[tuple[str, str, float]], *, with_names: bool) -> None:
    """Name and last value of each curve at its end; labels that would touch are moved apart."""
    low, high = axes.get_ylim()
    above = 0.0
    for rank, (name, color, value) in enumerate(sorted(ends, key=lambda end: end[2])):
        height = (value - low) / (high - low)
        height = max(height, above + LABEL_GAP) if rank else height
        above = height
        text = f"{name} {_readable(value)}" if with_names else _readable(value)
        axes.annotate(
            text,
            (1.0, height),
            xycoords="axes fraction",
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=9,
            annotation_clip=False,
        )


def _readable(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.3f}"
