"""A page of faces whose labels are in doubt. H, W = pixels, C = classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ldlva_dist.errors import DataError
from ldlva_dist.reporting.style import BLUE, FAINT, GREEN, GREY, INK, ORANGE, write_png

COLUMNS = 4
CELL = (3.3, 1.72)
"""Inches."""
FACE = 1.22
LINE = 0.16
HEADER, FOOTER = 0.95, 0.12
NAME_WIDTH, BAR_WIDTH = 0.72, 0.8
TICK_SHARE = 0.02
"""Smaller true shares get no tick."""


@dataclass(frozen=True, kw_only=True)
class DoubtfulFace:
    """One face, and what is said of it."""

    sample: int
    """Its id."""
    image: NDArray[np.uint8]
    """[H, W, 3] or [H, W, 1] or [H, W]."""
    given: int
    """The given class."""
    opinion: NDArray[np.floating[Any]]
    """[C] what its neighbours say; zeros where none has spoken."""
    uncertainty: float
    """Weight of the neighbours in its target."""
    truth: NDArray[np.floating[Any]] | None = None
    """[C] the true distribution or the raters' votes, where known."""


def draw_contact_sheet(faces: Sequence[DoubtfulFace], class_names: Sequence[str], uri: str, *, title: str) -> None:
    """Draw faces in reading order: image, given label, neighbours' opinion as bars, truth as ticks, uncertainty."""
    if not faces:
        raise DataError("a contact sheet needs at least one face, got none")
    rows = -(-len(faces) // COLUMNS)
    columns = min(COLUMNS, len(faces))
    width, height = max(columns, 2) * CELL[0] + 0.2, HEADER + rows * CELL[1] + FOOTER
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))  # in inches, downwards
    axes.axis("off")
    _draw_header(axes, title, knows_truth=any(face.truth is not None for face in faces))
    for index, face in enumerate(faces):
        row, column = divmod(index, COLUMNS)
        _draw_face(axes, face, class_names, (0.2 + column * CELL[0], HEADER + row * CELL[1]))
    axes.set(xlim=(0, width), ylim=(height, 0))  # images change the limits
    write_png(figure, uri)


def _draw_header(axes: Axes, title: str, *, knows_truth: bool) -> None:
    axes.text(0.2, 0.3, title, fontsize=14, fontweight="bold", color=INK, va="center")
    items = [(ORANGE, "given label"), (BLUE, "what the neighbours say")] + (
        [(INK, "truth (\u2713 where the given label is right)")] if knows_truth else []
    )
    x = 0.2
    for color, text in items:
        is_tick = color == INK
        axes.add_patch(Rectangle((x, 0.55), 0.025 if is_tick else 0.13, 0.13, color=color, linewidth=0))
        axes.text(x + (0.08 if is_tick else 0.19), 0.62, text, fontsize=9.5, color=GREY, va="center")
        x += 0.45 + 0.08 * len(text)


def _draw_face(axes: Axes, face: DoubtfulFace, names: Sequence[str], corner: tuple[float, float]) -> None:
    x, y = corner
    image = np.squeeze(face.image)
    axes.imshow(
        image,
        cmap="gray" if image.ndim == 2 else None,
        extent=(x, x + FACE, y + FACE, y),
        interpolation="lanczos",
        aspect="auto",
        vmin=0,
        vmax=255,
    )
    axes.text(x, y + FACE + 0.15, f"uncertainty {face.uncertainty:.2f}", fontsize=8.5, color=INK, va="center")
    left = x + FACE + 0.14
    axes.text(left, y + FACE + 0.15, f"sample {face.sample}", fontsize=7.5, color=GREY, va="center")
    axes.text(left, y + 0.07, f"given {names[face.given]}", fontweight="bold", fontsize=8.5, color=ORANGE, va="center")
    if face.truth is not None:
        truth = int(face.truth.argmax())
        text, color = (f"truth {names[truth]} \u2713", GREEN) if truth == face.given else (f"truth {names[truth]}", INK)
        axes.text(left, y + 0.07 + LINE, text, fontweight="bold", fontsize=8.5, color=color, va="center")
    top = y + 0.09 + 2 * LINE
    _draw_bars(axes, face, names, (left, top), (y + FACE - top) / len(names))


def _draw_bars(axes: Axes, face: DoubtfulFace, names: Sequence[str], corner: tuple[float, float], pitch: float) -> None:
    """A bar for each class, in class order on every face, so that equal shapes mean equal opinions."""
    left, top = corner
    start, thickness = left + NAME_WIDTH, 0.66 * pitch
    size = min(7.5, 58 * pitch)
    if not np.any(face.opinion):
        axes.text(left, top + 0.2, "no neighbour has spoken yet", fontsize=7.5, color=GREY, va="center")
        return
    for index, name in enumerate(names):
        middle = top + (index + 0.5) * pitch
        share = float(face.opinion[index])
        color = ORANGE if index == face.given else BLUE
        axes.text(left, middle, name, fontsize=size, color=color if index == face.given else GREY, va="center")
        axes.add_patch(Rectangle((start, middle - thickness / 2), BAR_WIDTH, thickness, color=FAINT, linewidth=0))
        axes.add_patch(
            Rectangle((start, middle - thickness / 2), BAR_WIDTH * share, thickness, color=color, linewidth=0)
        )
        if face.truth is not None and face.truth[index] >= TICK_SHARE:
            tick = start + BAR_WIDTH * float(face.truth[index])
            axes.plot([tick, tick], [middle - pitch * 0.44, middle + pitch * 0.44], color=INK, linewidth=1.3)
        if index == int(face.opinion.argmax()):
            axes.text(start + BAR_WIDTH + 0.05, middle, f"{share:.0%}", fontsize=size, color=INK, va="center")
