"""What a job prints, and the exit code it ends with."""

import io
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from rich.table import Table

from ldlva_dist.dataset.manifest import SPLITS, DatasetInfo
from ldlva_dist.errors import LdlvaError
from ldlva_dist.packing.passes.pass1_survey import is_outside_budget
from ldlva_dist.packing.sources.rows import LEFT_OUT
from ldlva_dist.records.console import DataConsole, say

INTERRUPTED = 130


def run_job(main: Callable[[], None]) -> NoReturn:
    """Run a job and leave the process: 0, the error's own exit code, or 130 after an interrupt.

    An error of ours becomes one red sentence on stderr; any other exception keeps its traceback. A letter that the
    terminal does not know is written as its code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except LdlvaError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        print_error(str(interrupt) or "interrupted")
        sys.exit(INTERRUPTED)
    sys.exit(0)


def print_error(sentence: str) -> None:
    """One sentence on stderr, red where the terminal has colours."""
    DataConsole(stderr=True).print(f"error: {sentence}", style="bold red", soft_wrap=True)


def print_lines(lines: Iterable[str]) -> None:
    """Sentences on stdout, one a line, as they are."""
    for line in lines:
        say(line)


def print_dataset(
    info: DatasetInfo, place: str, *, reasons: Mapping[str, int], console: DataConsole | None = None
) -> None:
    """What a packed data set holds: samples of each class in each split, shards, what is not packed and why."""
    table = Table(title=f"{info.name}: {place}", title_justify="left")
    for heading in ("", *SPLITS):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for index, name in enumerate(info.class_names):
        table.add_row(name, *(str(info.class_counts[split][index]) for split in SPLITS))
    table.add_section()
    shards = [info.shards_of(split) for split in SPLITS]
    table.add_row("rows", *(str(info.splits[split].rows) for split in SPLITS))
    table.add_row("shards", *(str(len(part)) for part in shards))
    table.add_row("MB", *(f"{sum(shard.bytes for shard in part) / 1e6:.1f}" for part in shards))
    va = "present" if info.has_valence_arousal else "absent: recipes with neighbours cannot be trained on it"
    bad = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if not is_outside_budget(reason))
    console = console or DataConsole()
    console.print(table)
    console.print(f"valence-arousal: {va}{', standardised' if info.va_transform else ''}")
    console.print(f"rejected: {info.num_rejected}{f' ({bad})' if bad else ''}; no label: {info.num_unlabelled}")
    for reason, count in reasons.items():
        if reason.startswith(LEFT_OUT):
            console.print(f"{reason}: {count}")
    if info.flip_share:
        console.print(f"labels known to be wrong: {info.flip_share:.1%} of those to train on")
