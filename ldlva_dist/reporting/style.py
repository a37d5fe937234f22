"""How pictures look: colours that colour-blind people tell apart, and no chart junk."""

import io

from matplotlib.figure import Figure

from ldlva_dist import storage

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SERIES = (BLUE, ORANGE, GREEN, PURPLE)
INK, GREY, FAINT = "#222222", "#767676", "#E4E4E4"
DPI = 150


def write_png(figure: Figure, uri: str) -> None:
    """Write a figure to a local path or an object store."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    storage.write_bytes(uri, buffer.getvalue())
