"""Search K, gamma and learning rates: python jobs/sweep.py PRESET --data.dataset URI [--sweep.num-samples N ...].

Every trial is a distributed run; all share one neighbour graph. Prints the trials, and writes best_config.json, which
jobs/train.py --config takes. The same command resumes an interrupted sweep.
"""

from functools import partial
from typing import Any

from ldlva_dist.records.console import say
from ldlva_dist.run.cli import parse_run
from ldlva_dist.run.paths import with_absolute_paths


def run_sweep() -> None:
    """Parse, connect, search, print."""
    config = with_absolute_paths(parse_run(description="Search around a preset."))
    config.check_search()

    from ldlva_dist.run.preload import preload_training
    from ldlva_dist.runtime.connect import connect

    connect(partial(preload_training, config, trials=True), trials=True)

    from ldlva_dist.reporting.tables import print_trials
    from ldlva_dist.run.sweep import sweep

    say(f"sweep {config.name}: {config.sweep.num_samples} trials around {config.loss.recipe}")
    result = sweep(config, on_result=print_result)
    print_trials(result.trials)
    say(f"best settings: {result.best_config_uri}")


def print_result(trial_id: str, metrics: dict[str, Any]) -> None:
    """One line for each evaluation of a trial."""
    accuracy = metrics.get("holdout_accuracy")
    if accuracy is not None:
        say(f"  trial {trial_id}  epoch {metrics['epoch']:4.1f}  holdout accuracy {accuracy:.3f}")
