"""When a job told of its steps."""

import re
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from types import TracebackType

STEP = re.compile(r"^epoch .* step ", re.MULTILINE)
LOOK_S = 0.2


class StepClock:
    """Looks at what a job says for as long as the block takes."""

    def __init__(self, said: Callable[[], str]) -> None:
        """``said`` gives all that the job has said so far."""
        self._said, self._told_at, self._end = said, list[float](), threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "StepClock":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def stood_s(self) -> float | None:
        """The longest time from one step to the next; None where there are not two."""
        return max((later - before for before, later in pairwise(self._told_at)), default=None)

    def _look(self) -> None:
        while not self._end.wait(LOOK_S):
            told = len(STEP.findall(self._said()))
            self._told_at += [time.monotonic()] * (told - len(self._told_at))
