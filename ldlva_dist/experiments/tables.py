"""Rows of an experiment as tables: every run, and mean and standard error of every arm."""

import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ldlva_dist import storage
from ldlva_dist.experiments.arms import PLAIN
from ldlva_dist.experiments.protocol import Row

GAIN = "accuracy_gain"
FIGURES = {
    "accuracy": "accuracy",
    GAIN: f"accuracy gain over {PLAIN}, seed by seed",
    "mean_class_accuracy": "mean recall of the classes",
    "kl": "KL divergence (less is better)",
    "chebyshev": "Chebyshev distance (less is better)",
    "auroc_uncertainty": "AUROC of wrong labels by uncertainty",
    "auroc_one_minus_p_label": "AUROC of wrong labels by 1 - p(label)",
    "auroc_one_minus_own_average": "AUROC of wrong labels by ELR's moving averages",
    "auroc_sparse_noise": "AUROC of wrong labels by SOP's noise",
}
"""Figures of the tables, in their order; distributions are compared with true ones, or with the raters' votes."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """One figure of one arm, over its seeds."""

    group: str
    x: float
    figure: str
    mean: float
    standard_error: float | None
    """Standard error of the mean; None for a single seed, which has none."""
    seeds: int


def means(rows: Sequence[Row]) -> list[Mean]:
    """Figure by figure, arms in the order of the rows; a figure that an arm does not have is left out."""
    found, rows = [], _with_gains(rows)
    for figure in FIGURES:
        values: dict[tuple[str, float], list[float]] = {}
        for row in rows:
            if figure in row.figures:
                values.setdefault((row.arm.group, row.arm.x), []).append(row.figures[figure])
        for (group, x), of_seeds in values.items():
            error = statistics.stdev(of_seeds) / math.sqrt(len(of_seeds)) if len(of_seeds) > 1 else None
            mean = statistics.mean(of_seeds)
            found.append(Mean(group=group, x=x, figure=figure, mean=mean, standard_error=error, seeds=len(of_seeds)))
    return found


def _with_gains(rows: Sequence[Row]) -> list[Row]:
    """The rows, with what each gains over plain cross-entropy with the same seed, which has the same flips and faces.

    The error of a mean gain is less than that of two means, as both sides share what a seed is lucky with.
    """
    plain = {(row.arm.x, row.seed): row.figures["accuracy"] for row in rows if row.arm.group == PLAIN}
    return [
        replace(row, figures=row.figures | {GAIN: row.figures["accuracy"] - plain[place]})
        if row.arm.group != PLAIN and (place := (row.arm.x, row.seed)) in plain
        else row
        for row in rows
    ]


def noise_markdown(found: Sequence[Mean]) -> str:
    """One table a figure: a line for each side, a column for each level."""
    parts = []
    for figure, title in FIGURES.items():
        mine = {(mean.group, mean.x): mean for mean in found if mean.figure == figure}
        if not mine:
            continue
        levels = sorted({x for _, x in mine})
        heading = [title, *(f"{100 * level:g} % flipped" for level in levels)]
        groups = dict.fromkeys(group for group, _ in mine)
        parts.append(
            markdown_table(heading, [[group, *(_cell(mine.get((group, x))) for x in levels)] for group in groups])
        )
    return "\n".join([*parts, _note(found)])


def ablation_markdown(found: Sequence[Mean]) -> str:
    """One table: a line for each value of each setting, a column for each figure."""
    cells = {(mean.group, mean.x, mean.figure): mean for mean in found}
    there = [figure for figure in FIGURES if any(mean.figure == figure for mean in found)]
    arms = dict.fromkeys((mean.group, mean.x) for mean in found)
    lines = [[f"{group} = {x:g}", *(_cell(cells.get((group, x, figure))) for figure in there)] for group, x in arms]
    return "\n".join([markdown_table(["", *(FIGURES[figure] for figure in there)], lines), _note(found)])


def write_tables(folder: str, name: str, rows: Sequence[Row], markdown: str) -> None:
    """Write FOLDER/NAME.md and NAME.json, and means and runs as NAME.csv, NAME-runs.csv and both as parquet.

    A run has the columns group, x, seed, learning_rate, run, and its figures; a mean those of :class:`Mean`.
    """
    runs = [
        {"group": row.arm.group, "x": row.arm.x, "seed": row.seed, "learning_rate": row.config.optim.lr}
        | {"run": row.config.name, **row.figures}
        for row in rows
    ]
    found = [asdict(mean) for mean in means(rows)]
    for suffix, lines in (("", found), ("-runs", runs)):
        columns = dict.fromkeys(key for line in lines for key in line)
        table = pa.table({key: pa.array([line.get(key) for line in lines]) for key in columns})
        for kind, write in (("parquet", pq.write_table), ("csv", pyarrow.csv.write_csv)):
            sink = io.BytesIO()
            write(table, sink)
            storage.write_bytes(storage.join(folder, f"{name}{suffix}.{kind}"), sink.getvalue())
    text: dict[str, Any] = {"means": found, "runs": runs}
    storage.write_bytes(storage.join(folder, f"{name}.json"), (json.dumps(text, indent=1) + "\n").encode())
    storage.write_bytes(storage.join(folder, f"{name}.md"), markdown.encode())


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return "-"
    return f"{mean.mean:.3f}" if mean.standard_error is None else f"{mean.mean:.3f} ± {mean.standard_error:.3f}"


def markdown_table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of texts: names to the left, numbers to the right."""
    rule = ["---", *["---:"] * (len(heading) - 1)]
    return "".join("| " + " | ".join(line) + " |\n" for line in (heading, rule, *lines))


def _note(found: Sequence[Mean]) -> str:
    low, high = min(mean.seeds for mean in found), max(mean.seeds for mean in found)
    seeds = f"{low}" if low == high else f"{low} to {high}"
    return f"Mean ± standard error of {seeds} seed{'s' if high > 1 else ''}.\n"
