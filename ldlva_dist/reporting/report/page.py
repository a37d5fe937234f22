"""The page itself: one HTML file that fetches nothing, made from the templates beside this file."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ldlva_dist.reporting.report import charts
from ldlva_dist.reporting.report.overview import Overview

PACKAGE = "ldlva_dist.reporting.report"
SCRIPTS = (
    "start.js",
    "marks.js",
    "samples.js",
    "pairs.js",
    "copies.js",
    "detail.js",
    "plane.js",
    "pointer.js",
    "keys.js",
)
"""In the order they run in; one function around all of them."""
PALETTE = ("#3d7cc9", "#e0912f", "#2f9e75", "#cf5062", "#9a6fc0", "#45b0c9", "#a3922c", "#8b8f98")
"""Colours of the first classes; hues in golden angles after them."""
GOLDEN_ANGLE = 137.508


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The part of the page that a run with neighbours has."""

    data: Mapping[str, Any]
    """Plain JSON for the script."""
    pictures: Sequence[str]
    """Base64, one a picture."""
    plane: str
    """Base64."""
    damaged: Mapping[int, str]
    """Samples whose images cannot be read, and why."""
    left_out: Sequence[str] = ()
    """Parts that are not there, so that the page keeps within its size."""


NOTHING = Samples(data={}, pictures=(), plane="", damaged={})
"""A page of it is all that a page takes beside its samples."""


def render(overview: Overview, samples: Samples | None) -> bytes:
    """The page as UTF-8.

    All text passes through autoescape; JSON stands in a script element with <, > and & escaped; the script sets text,
    never HTML; and a content security policy lets nothing run but the script whose hash it names, and fetches nothing.
    """
    environment = Environment(
        loader=PackageLoader(PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{share:.0%}"
    environment.filters["part_of"] = _part_of
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    text = environment.get_template("report.html.j2").render(
        overview=overview,
        samples=samples,
        colors=class_colors(len(overview.run.class_names)),
        style=_template("report.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        data=None if samples is None else {**samples.data, "classes": list(overview.run.class_names)},
        chart_width=charts.WIDTH,
        chart_height=charts.HEIGHT,
    )
    return text.encode()


def _part_of(part: Sequence[Any], whole: Sequence[Any], what: str) -> str:
    return f"; {len(part):,} of {len(whole):,} {what}" if len(part) < len(whole) else ""


def class_colors(count: int) -> list[str]:
    """A colour for each class, told apart by the colour-blind for the first eight."""
    later = [f"hsl({i * GOLDEN_ANGLE % 360:.0f} 45% 55%)" for i in range(len(PALETTE), count)]
    return [*PALETTE[:count], *later]


def _script() -> str:
    return '"use strict";\n(() => {\n' + "\n".join(_template(name) for name in SCRIPTS) + "\n})();\n"


def _template(name: str) -> str:
    return (files(PACKAGE) / "templates" / name).read_text(encoding="utf-8")
