"""What a job prints, and the exit code it ends with."""

import io
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from ldlva_dist.errors import LdlvaError
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
