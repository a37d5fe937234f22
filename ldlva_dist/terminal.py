"""What a job prints, and the exit code it ends with."""

import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from ldlva_dist.errors import LdlvaError

INTERRUPTED = 130


def run_job(main: Callable[[], None]) -> NoReturn:
    """Run a job and leave the process: 0, the error's own exit code, or 130 after an interrupt.

    An error of ours becomes one red sentence on stderr; any other exception keeps its traceback.
    """
    try:
        main()
    except LdlvaError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print_error("interrupted")
        sys.exit(INTERRUPTED)
    sys.exit(0)


def print_error(sentence: str) -> None:
    """One sentence on stderr, red where the terminal has colours."""
    console = Console(stderr=True)
    console.print(f"error: {sentence}", style="bold red", markup=False, highlight=False, soft_wrap=True)
