"""Figures of an experiment in the style of a paper: narrow, no chart junk, as PDF and PNG."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ldlva_dist import storage
from ldlva_dist.experiments.tables import Mean
from ldlva_dist.reporting.style import BLUE, FAINT, GREEN, GREY, INK, ORANGE, PURPLE

PAPER: dict[Any, Any] = {
    "font.family": "serif",
    "font.serif": ["DejaVu Serif"],
    "mathtext.fontset": "dejavuserif",
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "pdf.fonttype": 42,
}
PANELS = {
    "accuracy": "accuracy",
    "kl": "KL divergence",
    "auroc_uncertainty": "AUROC of wrong labels\nby uncertainty",
}
AXES = {"K": "$K$", "delta": r"$\delta$", "gamma": r"$\gamma$", "initial uncertainty": r"initial $\lambda$"}
COLORS = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#8C564B", GREY)
MARKERS = "osD^vPX*"
PANEL_INCHES, HEIGHT_INCHES = 2.25, 2.0
SPREAD = 0.012
"""Arms at one level stand so much of the axis apart, that their error bars can be told from each other."""


def draw_noise(found: Sequence[Mean], folder: str, name: str) -> list[str]:
    """A panel a figure: a line a side over the share of flipped labels; bars are standard errors."""
    panels = [figure for figure in PANELS if any(mean.figure == figure for mean in found)]
    groups = list(dict.fromkeys(mean.group for mean in found))
    levels = sorted({100 * mean.x for mean in found})
    step = SPREAD * max(levels[-1] - levels[0], 1.0)
    with mpl.rc_context(PAPER):
        drawing, axes_of = _panels(len(panels), with_legend=True)
        for axes, figure in zip(axes_of, panels, strict=True):
            for place, group in enumerate(groups):
                mine = [mean for mean in found if (mean.figure, mean.group) == (figure, group)]
                aside = step * (place - (len(groups) - 1) / 2)
                _line(axes, [100 * mean.x + aside for mean in mine], mine, place)
            axes.set_xticks(levels)
            axes.set_xlabel("flipped labels, %")
            axes.set_ylabel(PANELS[figure])
        handles, labels = axes_of[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside right center", frameon=False, handlelength=1.6)
        return _write(drawing, folder, name)


def draw_ablation(found: Sequence[Mean], folder: str, name: str) -> list[str]:
    """A panel for each setting: accuracy over its values, evenly spaced; bars are standard errors."""
    accuracy = [mean for mean in found if mean.figure == "accuracy"]
    groups = list(dict.fromkeys(mean.group for mean in accuracy))
    low = min(mean.mean - (mean.standard_error or 0) for mean in accuracy)
    high = max(mean.mean + (mean.standard_error or 0) for mean in accuracy)
    margin = max(0.1 * (high - low), 0.002)
    with mpl.rc_context(PAPER):
        drawing, axes_of = _panels(len(groups), with_legend=False)
        for axes, group in zip(axes_of, groups, strict=True):
            mine = [mean for mean in accuracy if mean.group == group]
            _line(axes, range(len(mine)), mine, 0)
            axes.set_xticks(range(len(mine)), [f"{mean.x:g}" for mean in mine])
            axes.set_xlim(-0.4, len(mine) - 0.6)
            axes.set_ylim(low - margin, high + margin)
            axes.set_xlabel(AXES.get(group, group))
        axes_of[0].set_ylabel("accuracy")
        return _write(drawing, folder, name)


def _panels(count: int, *, with_legend: bool) -> tuple[Figure, list[Axes]]:
    width = PANEL_INCHES * count + (1.45 if with_legend else 0.0)
    figure = Figure(figsize=(width, HEIGHT_INCHES), layout="constrained")
    axes_of = [figure.add_subplot(1, count, place + 1) for place in range(count)]
    for axes in axes_of:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(width=0.6, length=2.5)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    return figure, axes_of


def _line(axes: Axes, x: Sequence[float], mine: Sequence[Mean], place: int) -> None:
    y, bars = [mean.mean for mean in mine], [mean.standard_error or 0.0 for mean in mine]
    color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
    drawn = axes.errorbar(x, y, bars, color=color, marker=marker, markersize=3.5, linewidth=1.0, elinewidth=0.8)
    if mine:
        drawn.set_label(mine[0].group)


def _write(figure: Figure, folder: str, name: str) -> list[str]:
    uris = []
    for kind in ("png", "pdf"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=300, facecolor="white")
        uris.append(storage.join(folder, f"{name}.{kind}"))
        storage.write_bytes(uris[-1], buffer.getvalue())
    return uris
