"""What a run will take, before anything runs: python jobs/plan.py PRESET --data.dataset URI [--SETTING VALUE ...]."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.run.cli import parse_run
from ldlva_dist.run.paths import with_absolute_paths
from ldlva_dist.values.settings import NotNegative, Seconds, check_options

if TYPE_CHECKING:
    from ldlva_dist.run.preflight import Problem

DESCRIPTION = """Say what a run will take: steps, time, memory, bytes, cost, and what does not fit. Nothing is trained
but a probe, in a folder under storage_path that is deleted after; its settings are those of jobs/train.py, and besides:

    --probe-seconds N         how long the probe trains, after its start (20)
    --no-probe                arithmetic alone: no speed, no time, memory as computed
    --price-per-node-hour X   what a node costs, for the cost of the run
    --json FILE               everything in a file as well, local or s3://

Exit codes as of jobs/train.py, by the first thing that does not fit."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """See DESCRIPTION."""

    probe_seconds: Seconds = 20.0
    probe: bool = True
    price_per_node_hour: NotNegative | None = None
    json: str | None = None

    def __post_init__(self) -> None:
        check_options(self)


def run_plan() -> None:
    """Parse, connect, look ahead, print."""
    options, rest = tyro.cli(PlanOptions, args=sys.argv[1:], return_unknown_args=True, add_help=False)
    config = with_absolute_paths(parse_run(rest, description=DESCRIPTION))

    from ldlva_dist import storage
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.forecast.outlook import estimate_run
    from ldlva_dist.reporting.forecast_table import print_outlook
    from ldlva_dist.run.preflight import as_begun
    from ldlva_dist.runtime import placement

    config = as_begun(config)
    dataset = Dataset.open(config.data.dataset)
    placement.connect()
    seconds = options.probe_seconds if options.probe else None
    outlook = estimate_run(config, dataset, probe_seconds=seconds, price=options.price_per_node_hour)
    plain = outlook.plain()
    print_outlook(plain)
    if options.json:
        storage.write_bytes(options.json, (json.dumps(plain, indent=2) + "\n").encode())
    require_no_problems(outlook.problems)


def require_no_problems(problems: Sequence["Problem"]) -> None:
    """An error of the first problem's exit code, once they have been shown."""
    if problems:
        code = problems[0].exit_code
        error = next(kind for kind in (SettingError, DataError, ClusterError) if kind.exit_code == code)
        raise error(f"the run cannot start as it is: see what does not fit ({len(problems)})")
