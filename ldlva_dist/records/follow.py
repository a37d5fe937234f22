"""Follow a run's metrics.jsonl while it is being written, wherever it lies."""

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from ldlva_dist.errors import LdlvaError
from ldlva_dist.records.metrics_log import read_metrics

POLL_S = 1.0


class Follower:
    """Calls back for every new line of a run's metrics, from a thread of its own, until the block ends."""

    def __init__(self, run_uri: str, on_metrics: Callable[[dict[str, Any]], None]) -> None:
        self._run_uri = run_uri
        self._on_metrics = on_metrics
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow-metrics", daemon=True)
        self._last_step = self._steps_there()

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(timeout=10 * POLL_S)

    def _follow(self) -> None:
        while not self._done.wait(POLL_S):
            with suppress(LdlvaError):  # the store does not answer; what was written meanwhile is read next time
                self._pass_on()
        with suppress(LdlvaError):
            self._pass_on()

    def _pass_on(self) -> None:
        for metrics in self._lines():
            if metrics["step"] > self._last_step:
                self._last_step = metrics["step"]
                self._on_metrics(metrics)

    def _steps_there(self) -> int:
        """What an earlier start of the run wrote is not news."""
        return max((metrics["step"] for metrics in self._lines()), default=0)

    def _lines(self) -> list[dict[str, Any]]:
        return read_metrics(self._run_uri)
