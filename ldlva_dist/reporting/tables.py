"""Tables of trials, evaluations and comparisons, for a terminal of 80 columns or a log."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich import box
from rich.table import Table
from rich.text import Text

from ldlva_dist.records.console import DataConsole

ABSENT = "-"
WIDTH = 80
REFERENCES = {"given": "given labels", "votes": "raters' votes", "truth": "true distributions"}
"""Labels that predictions are compared with, and their names; a later one says more about quality."""
MEASURES = {
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "macro_f1": "macro F1",
    "ece": "calibration error (ECE)",
    "kl": "KL divergence",
    "jensen_shannon": "Jensen-Shannon",
    "chebyshev": "Chebyshev",
    "clark": "Clark",
    "canberra": "Canberra",
    "cosine": "cosine",
    "intersection": "intersection",
}
GROUP_MEASURES = {"kl": "KL", "chebyshev": "Chebyshev"}
SUSPICIONS = {
    "uncertainty": "uncertainty",
    "one_minus_p_label": "1 - p(label)",
    "one_minus_own_average": "1 - t(label)",
    "sparse_noise": "noise that SOP finds",
    "bayes": "Bayes' best",
}
PARAMS = {
    "lr": "lr",
    "num_neighbors": "K",
    "gamma": "gamma",
    "uncertainty_lr": "unc. lr",
    "kernel_width": "kernel width",
}


class TrialLike(Protocol):
    """What a table needs of a trial."""

    @property
    def params(self) -> Mapping[str, float]: ...
    @property
    def accuracy(self) -> float | None: ...
    @property
    def epochs(self) -> float: ...
    @property
    def status(self) -> str: ...


def print_trials(trials: Sequence[TrialLike], *, console: DataConsole | None = None) -> None:
    """The trials of a sweep, best first: those that finished, then those that were stopped, then those that failed."""
    there = [name for name in PARAMS if any(name in trial.params for trial in trials)]
    table = _table("trials, best first", *(PARAMS[name] for name in there), "holdout accuracy", "epochs")
    table.add_column("status", no_wrap=True)
    ranks = {"finished": 0, "stopped early": 1}
    ordered = sorted(trials, key=lambda trial: (ranks.get(trial.status, 2), -(trial.accuracy or 0.0)))
    for place, trial in enumerate(ordered):
        values = (_significant(trial.params.get(name)) for name in there)
        best = place == 0 and trial.accuracy is not None
        row = (*values, _figure(trial.accuracy), f"{trial.epochs:.1f}", trial.status)
        table.add_row(*row, style="bold" if best else None)
    _print(table, console)


def print_evaluation(result: Mapping[str, Any], *, console: DataConsole | None = None) -> None:
    """A summary of what scoring.score found."""
    references = [name for name in REFERENCES if name in result]
    title = f"{result['dataset']}, split {result['split']}: {result['samples']} samples, step {result['steps']}"
    table = _table(title, "against", *(REFERENCES[name] for name in references))
    for key, measure in MEASURES.items():
        if any(key in result[name] for name in references):
            table.add_row(measure, *(_figure(result[name].get(key)) for name in references))
    _print(table, console)
    for name, groups in result.get("groups", {}).items():
        _print(_group_table(name, groups), console)
    if (ambiguity := result.get("ambiguity", {})).get("spearman") is not None:
        said = f"uncertainty and entropy of the raters' votes: rank correlation {ambiguity['spearman']:.3f}"
        (console or DataConsole()).print(said)
    if "noise" in result:
        noise = result["noise"]
        found = _table(
            f"finding the {noise['wrong_share']:.1%} wrong training labels", "by", "AUROC", "average precision"
        )
        for key in (key for key in SUSPICIONS if key in noise):
            found.add_row(SUSPICIONS[key], _figure(noise[key]["auroc"]), _figure(noise[key]["average_precision"]))
        _print(found, console)


def judged_groups(groups: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table of groups: samples, accuracy, and distances from what is known of distributions."""
    known = [name for name in ("votes", "truth") if any(name in group for group in groups.values())]
    pairs = [(name, key) for name in known for key in ("kl", "chebyshev")]
    headings = ["samples", "accuracy", "mean class acc.", *(f"{GROUP_MEASURES[key]} ({name})" for name, key in pairs)]
    rows = []
    for value, group in groups.items():
        distances = [group.get(name, {}).get(key) for name, key in pairs]
        figures = [group["accuracy"], group["mean_class_accuracy"], *distances]
        rows.append([value, f"{group['samples']:,}", *map(_figure, figures)])
    return headings, rows


def print_comparison(sides: Mapping[str, Mapping[str, Any]], *, console: DataConsole | None = None) -> None:
    """Two evaluations side by side, the better figure bold.

    Args:
        sides: By name, ours first; dicts of scoring.score.
        console: Where to print; None: the terminal.
    """
    ours, plain = sides.values()
    reference = [name for name in REFERENCES if name in ours and name in plain][-1]
    table = _table(f"{ours['dataset']}, split {ours['split']}, against {REFERENCES[reference]}", "", *sides)
    figures, theirs = ours[reference], plain[reference]
    _add_pair(table, "accuracy", figures["accuracy"], theirs["accuracy"])
    if "kl" in figures:
        _add_pair(table, "KL divergence (less is better)", figures["kl"], theirs["kl"], less_is_better=True)
    for key in ("uncertainty", "one_minus_p_label"):
        if key in ours.get("noise", {}):
            _add_pair(table, f"AUROC of wrong labels by {SUSPICIONS[key]}", _auroc(ours, key), _auroc(plain, key))
    best = _auroc(ours, "bayes")
    if best is not None:
        table.caption = f"Knowing the true distributions, the AUROC could be {best:.3f}."
        table.caption_justify = "left"
    _print(table, console)


def _add_pair(
    table: Table, name: str, ours: float | None, theirs: float | None, *, less_is_better: bool = False
) -> None:
    cells: list[str | Text] = [_figure(ours), _figure(theirs)]
    if ours is not None and theirs is not None and ours != theirs:
        better = int((theirs < ours) == less_is_better)
        cells[better] = Text.assemble((str(cells[better]), "bold"))
    table.add_row(name, *cells)


def _auroc(result: Mapping[str, Any], key: str) -> float | None:
    return result.get("noise", {}).get(key, {}).get("auroc")


def _group_table(name: str, groups: Mapping[str, Any]) -> Table:
    headings, rows = judged_groups(groups)
    table = _table(f"by {name}", name, *headings)
    for value, *figures in rows:
        table.add_row(Text(value), *figures)
    return table


def _table(title: str, *headings: str) -> Table:
    """Numbers to the right; a first column of names to the left."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, header_style="", padding=(0, 1, 0, 0))
    table.min_width = min(len(title), WIDTH)
    for place, heading in enumerate(headings):
        is_names = place == 0 and heading not in PARAMS.values()
        table.add_column(heading, justify="left" if is_names else "right", overflow="fold")
    return table


def _figure(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def _significant(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3g}"


def _print(table: Table, console: DataConsole | None) -> None:
    (console or DataConsole()).print(table)
