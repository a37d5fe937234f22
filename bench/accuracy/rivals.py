"""Claim: on wrong labels our best recipe beats cross-entropy and the rivals, and finds the wrong labels better.

Four contests (bench/accuracy/sets.py): drawn faces and FER+ majority labels with 30 % flipped, FER+ with its original
labels. All sides by one protocol (jobs/experiment.py noise): the same preset, epochs, number of learning rates to
choose from on the given labels of the holdout, and seeds; the last epoch counts. Judged on the test faces against truth
or votes, and by the AUROC of wrong training labels: ours by the report's suspicion, the rivals by their best own score,
and, with ``--folds``, cleanlab's scores of K networks trained with cross-entropy that did not see the label
(jobs/experiment.py folds). ``bank`` is what the bank loses against fresh forwards (bench/accuracy/exact.py). ``ok`` is
of the parts that were run. The same command goes on where it was interrupted; more sides and seeds may come later.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from bench.accuracy.noise import COMBINED, known_scores
from bench.accuracy.sets import CONTESTS, JOBS, Contest, provide
from bench.common import mean_and_error, report
from ldlva_dist.analysis.metrics import noise_finding
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.experiments.arms import PLAIN
from ldlva_dist.experiments.tables import GAIN
from ldlva_dist.packing.noisy_versions import Control, controlled

BANK = "bank"
RIVALS = ("label smoothing", "ELR", "SOP", "GCE", "SCE", "mixup")
PAPER = "LDLVA (paper)"
OURS = ("LDLVA", "label posterior")
"""Beginnings of the sides that the report has a suspicion for."""
SHORT_RUNS = ["--robust.sop-u-rate", "0.05", "--robust.sop-v-rate", "0.5", "--robust.sop-spread", "0.001"]
"""SOP's u and v, which the reference lets grow for 300 epochs, reach 1 in ten or so."""
ONE_WORKER_EACH = ["--placement.num-workers", "1", "--max-concurrent", "2"]
"""Two cores give more of two runs side by side than of one run with two workers."""
FIGURES = ("accuracy", "mean_class_accuracy", "kl", "chebyshev")
MOST_BANK_LOSS = 0.005


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which part to run, and where."""

    data: tuple[str, ...] = (*CONTESTS, BANK)
    """Contests by the beginnings of their names (drawn, ferplus, ferplus-8000, ...), and bank."""
    sides: tuple[str, ...] = (PLAIN, "LDLVA", PAPER, *RIVALS)
    ours: str = "LDLVA"
    """The side that is to win."""
    seeds: int = 3
    folds: int = 5
    """Networks for cleanlab's out-of-fold scores, with the flips of seed 1; 0: none."""
    label_smoothing: float = 0.3
    source: str = "../shared/data/ferplus"
    """Folder with FER+'s train.parquet and valid.parquet."""
    output: str = "runs/rivals"
    epochs: float | None = None
    """Other epochs than the contests', to see that it runs."""
    rows: int | None = None
    """Other numbers of faces, likewise."""
    limit_s: float = 86400.0
    """Longest time for one experiment."""


def main(arguments: Arguments) -> None:
    """Run what is missing of every part and print one JSON line."""
    chosen = [name for name in (*CONTESTS, BANK) if name.startswith(arguments.data)]
    if not chosen or PLAIN not in arguments.sides or arguments.ours not in arguments.sides:
        raise SettingError(
            f"--data must name some of {', '.join(CONTESTS)}, {BANK}, and --sides {PLAIN} and --ours, "
            f"got {', '.join(arguments.data)}; {', '.join(arguments.sides)}"
        )
    found = {name: contest(arguments, name) for name in chosen if name != BANK}
    if BANK in chosen:
        found[BANK] = judge_bank(arguments)
    goals = {name: part.pop("goals") for name, part in found.items()}
    report(
        "rivals",
        ok=all(reached for each in goals.values() for reached in each.values()),
        goals=goals,
        found=found,
        arguments=asdict(arguments),
    )


def contest(arguments: Arguments, name: str) -> dict[str, Any]:
    """One data set: every side's figures by seed, and which goals are reached."""
    settings = CONTESTS[name]
    settings = replace(settings, epochs=arguments.epochs or settings.epochs, rows=arguments.rows or settings.rows)
    output = Path(arguments.output).absolute()
    data = provide(settings, arguments.source, output / "data")
    place = output / f"{name}-{settings.rows or 'all'}-{settings.epochs:g}"
    noise = ["--levels", f"{settings.level:g}", "--sides", ",".join(arguments.sides), "--seeds", str(arguments.seeds)]
    noise += ["--learning-rates", settings.learning_rates, "--label-smoothing", str(arguments.label_smoothing)]
    _experiment("noise", settings, data, place / "noise", arguments, *noise, *SHORT_RUNS)
    runs = json.loads((place / "noise" / "noise.json").read_text())["runs"]
    found = by_side(runs, place / "noise" / "runs")
    found["cleanlab"] = out_of_fold(arguments, settings, data, place / "folds") if arguments.folds else None
    return found | {"goals": goals_reached(found, settings, arguments.ours)}


def by_side(runs: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Of each side: every figure's mean and standard error, its values by seed, and the learning rate that it took."""
    plain = {run["seed"]: run["accuracy"] for run in runs if run["group"] == PLAIN}
    sides: dict[str, Any] = {}
    for name in dict.fromkeys(run["group"] for run in runs):
        mine = sorted((run for run in runs if run["group"] == name), key=lambda run: run["seed"])
        # Runs that an earlier build had finished may lack a figure.
        values = {key: [run[key] for run in mine] for key in FIGURES if all(key in run for run in mine)}
        values |= {key: [run[key] for run in mine] for key in mine[0] if key.startswith("auroc_")}
        values[GAIN] = [run["accuracy"] - plain[run["seed"]] for run in mine]
        if name.startswith(OURS):
            judged = [known_scores(str(folder / run["run"])) for run in mine]
            values["auroc"] = [noise_finding(scores[COMBINED], wrong_n)["auroc"] for scores, wrong_n in judged]
        else:
            best = max((key for key in values if key.startswith("auroc_")), key=lambda key: sum(values[key]))
            values["auroc"] = values[best]
        sides[name] = {
            "mean_and_standard_error": {key: mean_and_error(each) for key, each in values.items()},
            "by_seed": values,
            "learning_rate": mine[0]["learning_rate"],
        }
    return {"seeds": sorted(plain), "sides": sides}


def out_of_fold(arguments: Arguments, settings: Contest, data: str, place: Path) -> dict[str, Any]:
    """AUROC of cleanlab's scores out-of-fold, of networks trained with cross-entropy on the flips of seed 1."""
    given = Dataset.open(data)
    noise = f"symmetric:{settings.level:g}" if settings.level else None
    version = controlled(given, Control(noise=noise, seed=1)).uri
    rate = settings.learning_rates.split(",")[0]
    options = ["--num-folds", str(arguments.folds), "--loss.recipe", "ce", "--optim.lr", rate, "--training.seed", "1"]
    _experiment("folds", settings, version, place, arguments, *options)
    scores = json.loads((place / "folds.json").read_text())["scores"]
    return {side: {name: values["auroc"] for name, values in by_name.items()} for side, by_name in scores.items()}


def goals_reached(found: Mapping[str, Any], settings: Contest, ours: str) -> dict[str, bool]:
    """Each goal by its name; of what was not run there is none."""
    sides, goals = found["sides"], settings.goals
    mean = {
        name: {key: pair[0] for key, pair in side["mean_and_standard_error"].items()} for name, side in sides.items()
    }
    rivals = [mean[name]["accuracy"] for name in RIVALS if name in mean]
    reached = {
        f"gain >= {goals.gain:g}": mean[ours][GAIN] >= goals.gain,
        f"KL <= {goals.kl_share:g} of cross-entropy's": mean[ours]["kl"] <= goals.kl_share * mean[PLAIN]["kl"],
        f"AUROC >= {goals.auroc:g}": mean[ours]["auroc"] >= goals.auroc,
    }
    if goals.every_seed:
        reached["every seed gains"] = min(sides[ours]["by_seed"][GAIN]) > 0
    if rivals:
        reached["no rival is more accurate"] = mean[ours]["accuracy"] >= max(rivals)
    if found["cleanlab"]:
        best = max(found["cleanlab"]["out-of-fold"].values())
        reached["AUROC above cleanlab's out-of-fold"] = sides[ours]["by_seed"]["auroc"][0] > best
    if settings.labels == "drawn" and PAPER in mean:
        reached["the paper's recipe loses nothing"] = mean[PAPER][GAIN] >= 0
    return reached


def judge_bank(arguments: Arguments) -> dict[str, Any]:
    """What the bank loses in KL on drawn faces, by bench/accuracy/exact.py."""
    seeds = [str(seed) for seed in range(1, arguments.seeds + 1)]
    command = [sys.executable, "-m", "bench.accuracy.exact", "--full", "--seeds", *seeds]
    command += ["--folder", str(Path(arguments.output).absolute() / BANK)]
    done = subprocess.run(command, check=True, timeout=arguments.limit_s, stdout=subprocess.PIPE, text=True)
    line = json.loads(done.stdout.splitlines()[-1])
    loss = line["gain_of_exact_mean_and_standard_error"]["kl"]
    return {
        "kl_lost": loss,
        "kl_lost_by_seed": line["gain_of_exact"]["kl"],
        "by_seed": {
            source: {key: [run[key] for run in runs] for key in runs[0]} for source, runs in line["raw"].items()
        },
        "outputs_kl": line["outputs_kl"],
        "goals": {f"KL lost <= {MOST_BANK_LOSS:g}": loss[0] <= MOST_BANK_LOSS},
    }


def _experiment(kind: str, settings: Contest, data: str, place: Path, arguments: Arguments, *options: str) -> None:
    command = [kind, "--preset", settings.preset, "--dataset", data, "--output", str(place), *ONE_WORKER_EACH, *options]
    command += ["--training.epochs", f"{settings.epochs:g}"]
    subprocess.run([sys.executable, str(JOBS / "experiment.py"), *command], check=True, timeout=arguments.limit_s)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
