"""Train one run: python jobs/train.py PRESET --data.dataset URI [--SETTING VALUE ...].

The same command resumes where the run stopped. `--config FILE.json` in place of the preset takes saved settings, such
as a sweep's best_config.json.
"""

from functools import partial

from ldlva_dist.records.console import say
from ldlva_dist.reporting.metrics_line import format_line
from ldlva_dist.run.cli import parse_run
from ldlva_dist.run.paths import with_absolute_paths


def run_train() -> None:
    """Parse, connect, fit, print."""
    config = with_absolute_paths(parse_run(description="Train one run."))

    # Here and in the other jobs: what takes seconds to import is imported after the command line was checked.
    from ldlva_dist.run.preload import preload_training
    from ldlva_dist.runtime.connect import connect

    connect(partial(preload_training, config))

    from ldlva_dist.run import launch

    say(f"training {config.name}: {config.uri}")
    result = launch.fit(config, on_metrics=lambda metrics: say(format_line(metrics)))
    say(f"done: {result.checkpoint.uri}")
