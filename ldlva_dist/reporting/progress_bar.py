"""How far a long job is: a bar in a terminal, a line now and then elsewhere."""

import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ldlva_dist.records.console import DataConsole, visible

LINE_EVERY_S = 10.0


class ProgressBar:
    """Shows ``what done / total`` on stderr; call it with every step."""

    def __init__(self, console: DataConsole | None = None) -> None:
        self._console = console or DataConsole(stderr=True)
        self._next_line = time.monotonic() + LINE_EVERY_S
        what = TextColumn("{task.description}", markup=False)
        columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` rows are done."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(visible(what), total=total)
        self._bar.update(self._bar.task_ids[self._tasks[what]], completed=done)
        if not self._console.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            self._console.print(f"{what}: {done} of {total} rows")
