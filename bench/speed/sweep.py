"""Claim: a sweep of eight trials takes at most 0.55 of the CPU seconds of eight separate runs.

The demo's network and settings on drawn faces, a few steps a trial, so that starts are nearly all of the cost; no trial
is stopped early. Separate runs are alike: `--separate` of them are measured and their mean is taken eight times.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from bench.common import report
from bench.processes import ROOT, demo_run, run_job, small_faces

GOAL = 0.55


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much."""

    trials: int = 8
    separate: int = 2
    """Separate runs that are measured."""
    steps: int = 4
    """Steps of each trial and run."""
    checkout: Path = ROOT
    """Checkout whose jobs are run, with an environment of its own in .venv."""


def main(arguments: Arguments) -> None:
    """Run both, print one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        settings, checkout = demo_run(small_faces(folder), folder, steps=arguments.steps), arguments.checkout
        runs = [run_job(checkout, "train", *settings, "--name", f"run-{n}")[1] for n in range(arguments.separate)]
        search = ("--sweep.num-samples", str(arguments.trials), "--sweep.scheduler", "none")
        _, sweep = run_job(checkout, "sweep", *settings, "--name", "sweep", *search)
    separate_s = sum(run.cpu_s for run in runs) / len(runs) * arguments.trials
    ratio = sweep.cpu_s / separate_s
    report(
        "sweep",
        ok=ratio <= GOAL,
        ratio=ratio,
        sweep={"cpu_s": sweep.cpu_s, "wall_s": sweep.wall_s},
        separate={"cpu_s": separate_s, "wall_s": sum(run.wall_s for run in runs) / len(runs) * arguments.trials},
        trials=arguments.trials,
        measured_separately=len(runs),
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
