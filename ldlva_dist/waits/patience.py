"""A wait with a limit, which is never silent: what is waited for, what is there, what is wanted, for how long still.

Who waits calls :meth:`Patience.tell` as often as it likes: a process says at most one line in TELL_EVERY_S seconds, and
nothing of a wait that is over within QUIET_S. By default it says them on its own stderr; the processes of a run hand
them to the one that launched it (:func:`tell_by`).
"""

import sys
import threading
import time
from collections.abc import Callable

TELL_EVERY_S, QUIET_S = 30.0, 5.0


class Patience:
    """A wait that begins now."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Wait for at most ``limit_s`` seconds of a clock."""
        self.limit_s = limit_s
        self._clock, self._began = clock, clock()

    @property
    def left_s(self) -> float:
        """Seconds until the limit, at least 0."""
        return max(0.0, self.limit_s - self.waited_s)

    @property
    def waited_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    def tell(self, what: str, state: str) -> None:
        """Say that this is still waited for, unless the wait is short or something was said a moment ago.

        Args:
            what: Thing that is waited for.
            state: What of it is there, and what is wanted.
        """
        if self.waited_s >= QUIET_S:
            line = f"waiting for {what}: {state}; {self.left_s:.0f} s more at most"
            _TELLER.tell(line, self._clock())


def tell_by(say: Callable[[str], object] | None) -> None:
    """Hand this process's lines to ``say`` from now on; None: to its stderr again."""
    _TELLER.say, _TELLER.last = say or _to_stderr, None


class _Teller:
    """One for all threads of a process."""

    def __init__(self) -> None:
        self.say: Callable[[str], object] = _to_stderr
        self._lock = threading.Lock()
        self.last: float | None = None

    def tell(self, line: str, now: float) -> None:
        with self._lock:
            if self.last is not None and now - self.last < TELL_EVERY_S:
                return
            self.last = now
        self.say(line)


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


_TELLER = _Teller()
