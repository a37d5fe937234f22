"""Claim: on drawn faces with 30 % flipped labels the label posterior beats cross-entropy and finds the flips.

The main job (jobs/demo.py) with several seeds, each with faces, flips, sweeps and networks of its own. Goals: higher
accuracy against the true argmax and lower KL to the true distributions in the mean, AUROC of flipped labels by
uncertainty >= 0.90.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from bench.common import mean_and_error, report

LIMIT_S = 1800


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to run."""

    seeds: int = 3
    trials: int = 3


def main(arguments: Arguments) -> None:
    """Run the demo once for each seed and print one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        summaries = [run_demo(Path(folder), seed, arguments.trials) for seed in range(arguments.seeds)]
    figures = {
        f"{side}.{figure}": [summary[side][figure] for summary in summaries]
        for side in ("posterior", "ce")
        for figure in ("accuracy", "kl")
    }
    figures["noise_auroc"] = [summary["noise_auroc"] for summary in summaries]
    means = {name: statistics.mean(values) for name, values in figures.items()}
    report(
        "demo",
        ok=means["posterior.accuracy"] > means["ce.accuracy"]
        and means["posterior.kl"] < means["ce.kl"]
        and means["noise_auroc"] >= 0.90,
        mean_and_standard_error={name: mean_and_error(values) for name, values in figures.items()},
        raw=figures,
        noise_auroc_bayes=[summary["noise_auroc_bayes"] for summary in summaries],
        seconds=[summary["seconds"] for summary in summaries],
    )


def run_demo(folder: Path, seed: int, trials: int) -> dict[str, Any]:
    """The summary of one demo."""
    output = folder / f"demo-{seed}"
    script = Path(__file__).parents[2] / "jobs" / "demo.py"
    places = ["--output", str(output), "--dataset", str(folder / f"faces-{seed}")]
    command = [sys.executable, str(script), *places, "--seed", str(seed), "--trials", str(trials)]
    subprocess.run(command, check=True, timeout=LIMIT_S)
    return json.loads((output / "summary.json").read_text())


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
