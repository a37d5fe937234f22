"""Take the suspects of a run to another tool, and back: python jobs/exchange.py write --run RUN --format NAME ...

Formats are Label Studio's tasks, a FiftyOne classification dataset, cleanlab's issues.csv with arrays, a parquet that
Spotlight opens, CVAT's images XML, and CSV. What was decided there, `python jobs/make_shards.py relabel` makes a new
version of the data set of; `read` shows it before.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, subcommand

from ldlva_dist.errors import SettingError
from ldlva_dist.records.console import say
from ldlva_dist.reporting.terminal import print_lines
from ldlva_dist.values.settings import Count, check_options

MANY = 10


@dataclass(frozen=True, kw_only=True)
class WriteSuspects:
    """Write the training samples whose label a run would change, the most suspicious first.

    Their images are extracted from the shards where the tool needs files.
    """

    run: str
    """A run's folder."""
    format: Literal["csv", "label-studio", "fiftyone", "cleanlab", "spotlight", "cvat"]
    """Tool that the files are for."""
    output: str
    """Folder or s3:// prefix to write; must not exist."""
    first: Count | None = None
    """Most samples to write; all suspects if not given."""
    dataset: str | None = None
    """Another place of the data set the run was trained on."""
    image_address: str | None = None
    """Where the tool finds the folder of the images; what it takes by itself if not given."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ReadDecisions:
    """Say what files of any of the formats hold, and write it as one CSV if wanted."""

    marked: Positional[tuple[str, ...]]
    """Files; their format is recognised."""
    output: str | None = None
    """CSV to write, with the columns key, given, proposed, score, decision, reviewer."""


def run_exchange() -> None:
    """Write or read."""
    commands = Annotated[WriteSuspects, subcommand("write")] | Annotated[ReadDecisions, subcommand("read")]
    command = tyro.cli(commands, description=__doc__)
    if isinstance(command, WriteSuspects):
        run_write(command)
    else:
        run_read(command)


def run_write(command: WriteSuspects) -> None:
    """Find the suspects, write them, say what is where."""
    from ldlva_dist import storage
    from ldlva_dist.analysis.suspects import write_suspects
    from ldlva_dist.analysis.trained_run import TrainedRun, find

    if storage.list_folder(command.output):
        raise SettingError(f"--output must not exist, got {command.output!r}")
    place = find(command.run, command.dataset)
    storage.check_writable(command.output)
    written = write_suspects(
        TrainedRun(place.checkpoint, place.dataset),
        command.format,
        command.output,
        first=command.first,
        image_address=command.image_address,
    )
    for key, reason in list(written.damaged.items())[:MANY]:
        say(f"left out: {key}: {reason}")
    if len(written.damaged) > MANY:
        say(f"left out, because their images cannot be read: {len(written.damaged)} samples in all")
    say(f"suspects: {written.num_listed}")
    print_lines(f"written: {uri}" for uri in written.files)


def run_read(command: ReadDecisions) -> None:
    """Say how much is decided, by whom; write."""
    import pyarrow as pa

    from ldlva_dist import storage
    from ldlva_dist.exchange.common_form import as_issues
    from ldlva_dist.exchange.csv_list import issues_csv
    from ldlva_dist.exchange.formats import read_marked, recognise

    tables = []
    for uri in command.marked:
        tables.append(read_marked(uri))
        issues = as_issues(tables[-1])
        decided = [issue for issue in issues if issue.decision is not None]
        changed = sum(issue.decision != issue.given for issue in decided)
        say(f"{uri}: {recognise(uri)}, {len(issues)} rows, {len(decided)} decided, {changed} of them changed")
    if command.output is not None:
        storage.write_bytes(command.output, issues_csv(pa.concat_tables(tables)))
        say(f"written: {command.output}")
