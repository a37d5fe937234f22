"""Where the training thread's time goes, part by part. Two clock readings a part cost well under a microsecond."""

import time

PARTS: tuple[str, ...] = "stream", "bank", "table", "copies", "network", "votes", "log"
"""Waits for images; lookups and writes; uncertainties read; tensors made; forward, backward and optimiser with the
ranks' sums of gradients; uncertainties applied and votes; everything else."""


class StepClock:
    """Stays on: each moment of the thread that marks belongs to one part."""

    def __init__(self) -> None:
        """Begin now."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._since = time.perf_counter()

    def mark(self, part: str) -> None:
        """The time since the last mark was that part's."""
        now = time.perf_counter()
        self._seconds[part] += now - self._since
        self._since = now

    def drain(self) -> list[float]:
        """Seconds of the PARTS since they were last drained."""
        self.mark("log")
        seconds, self._seconds = list(self._seconds.values()), dict.fromkeys(PARTS, 0.0)
        return seconds

    def restart(self) -> None:
        """Leave out the time since the last mark."""
        self._since = time.perf_counter()
