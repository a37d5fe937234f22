"""How a run or sweep stands: python jobs/status.py --run RUN. Prints one line, and ends with the job's own exit code.

`ray job submit` ends with 1 for every failure and with 0 for a job that was stopped; the job's own code stands in
RUN/outcome.json: 0 finished, 130 stopped, 2 a setting, 3 the data, 4 the cluster or a store, also where the job was
ended without a word, 1 a fault of this program. A run in progress is 5.
"""

import sys
from dataclasses import dataclass

import tyro

from ldlva_dist.records.console import say


@dataclass(frozen=True, kw_only=True)
class StatusArguments:
    """Whom to ask about."""

    run: str
    """Folder of a run or sweep, local or s3://."""


def run_status() -> None:
    """Parse, read, print."""
    arguments = tyro.cli(StatusArguments, description=__doc__)

    from ldlva_dist import storage
    from ldlva_dist.run.outcome import read_outcome

    found = read_outcome(storage.absolute(arguments.run))
    say(f"{found.outcome} ({found.when}, exit code {found.exit_code}): {found.sentence}")
    sys.exit(found.exit_code)
