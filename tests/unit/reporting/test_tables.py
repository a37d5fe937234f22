"""Tables: the right numbers in the right cells, the better one bold."""

import io
from dataclasses import dataclass, field
from typing import Any

from ldlva_dist.records.console import DataConsole
from ldlva_dist.reporting.tables import print_comparison, print_evaluation, print_trials

PARAMS = {"lr": 0.003, "num_neighbors": 16, "gamma": 0.0123456, "uncertainty_lr": 0.25, "kernel_width": 0.5}


@dataclass(frozen=True)
class FakeTrial:
    accuracy: float | None
    status: str
    epochs: float = 4.0
    params: dict[str, float] = field(default_factory=lambda: dict(PARAMS))


def result(accuracy: float, kl: float, auroc: float | None = None) -> dict[str, Any]:
    given = {"accuracy": 0.5, "mean_class_accuracy": 0.4, "macro_f1": 0.3, "ece": 0.1, "confusion": []}
    truth = given | {"samples": 90, "accuracy": accuracy, "kl": kl, "chebyshev": None}
    scored = {"dataset": "faces", "split": "test", "samples": 100, "steps": 7, "given": given, "truth": truth}
    if auroc is not None:
        found = {"auroc": auroc, "average_precision": 0.6}
        noise = {"uncertainty": found, "one_minus_p_label": {**found, "auroc": None}, "bayes": {**found, "auroc": 0.97}}
        scored["noise"] = {"wrong_share": 0.25, **noise}
    return scored


def printed(print_it: Any, *values: Any, terminal: bool = False, width: int = 80) -> list[str]:
    stream = io.StringIO()
    colors = "standard" if terminal else "auto"
    console = DataConsole(file=stream, width=width, force_terminal=terminal, color_system=colors)
    print_it(*values, console=console)
    return stream.getvalue().splitlines()


def row(lines: list[str], name: str) -> list[str]:
    """The cells after a row's name."""
    return next(line for line in lines if name in line).split(name)[1].split()


def test_trials_stand_best_first_and_those_that_ended_early_after_those_that_finished() -> None:
    trials = [FakeTrial(0.9, "stopped early"), FakeTrial(None, "failed"), FakeTrial(0.5, "finished")]
    trials.append(FakeTrial(0.625, "finished", epochs=16.0))
    rows = [line.split() for line in printed(print_trials, trials) if "0.0123" in line]
    assert [cells[5] for cells in rows] == ["0.625", "0.500", "0.900", "-"]
    assert rows[0] == ["0.003", "16", "0.0123", "0.25", "0.5", "0.625", "16.0", "finished"]


def test_trials_of_plain_cross_entropy_have_no_columns_of_neighbours() -> None:
    text = "\n".join(printed(print_trials, [FakeTrial(0.5, "finished", params={"lr": 0.1})]))
    assert "0.1" in text
    assert "gamma" not in text


def test_the_best_trial_is_bold_and_a_failed_one_never_is() -> None:
    lines = printed(print_trials, [FakeTrial(0.5, "stopped early"), FakeTrial(0.6, "finished")], terminal=True)
    bold = [line for line in lines if "\x1b[1m" in line]
    assert len(bold) == 1
    assert "finished" in bold[0]
    assert not any("\x1b[1m" in line for line in printed(print_trials, [FakeTrial(None, "failed")], terminal=True))


def test_an_evaluation_shows_each_reference_and_what_finds_wrong_labels() -> None:
    lines = printed(print_evaluation, result(0.8, 0.25, auroc=0.93))
    assert lines[0].strip() == "faces, split test: 100 samples, step 7"
    assert row(lines, " accuracy ") == ["0.500", "0.800"]
    assert row(lines, "KL divergence") == ["-", "0.250"]
    assert row(lines, "Chebyshev") == ["-", "-"]
    assert row(lines, "uncertainty") == ["0.930", "0.600"]
    assert row(lines, "1 - p(label)") == ["-", "0.600"]
    assert any("25.0% wrong" in line for line in lines)


def sides(ours: dict[str, Any], plain: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"label posterior": ours, "cross-entropy": plain}


def test_a_comparison_sets_the_better_of_two_figures_bold() -> None:
    lines = printed(print_comparison, sides(result(0.8, 0.25, auroc=0.93), result(0.7, 0.2)), terminal=True)
    accuracy, kl = (next(line for line in lines if name in line) for name in (" accuracy", "KL"))
    assert "\x1b[1m0.800\x1b[0m" in accuracy
    assert "\x1b[1m0.700" not in accuracy
    assert "\x1b[1m0.200\x1b[0m" in kl
    assert "\x1b[1m0.250" not in kl
    assert any("0.970" in line for line in lines)


def test_equal_figures_and_figures_without_a_rival_are_not_bold() -> None:
    same = printed(print_comparison, sides(result(0.8, 0.2, auroc=0.93), result(0.8, 0.2)), terminal=True)
    assert not any("\x1b[1m" in line for line in same)


def test_tables_fit_eighty_columns_and_a_log_gets_no_escape_codes() -> None:
    scored = result(0.8, 0.25, auroc=0.93)
    lines = [
        *printed(print_trials, [FakeTrial(0.5, "stopped early", params={**PARAMS, "lr": 3.25e-05})]),
        *printed(print_evaluation, scored | {"votes": scored["truth"]}),
        *printed(print_comparison, sides(scored, result(0.7, 0.2))),
    ]
    assert all(len(line.rstrip()) <= 80 and "\x1b" not in line and "…" not in line for line in lines)
