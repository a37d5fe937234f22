"""The numbers of a log line as gauges of the Ray cluster, which serves them to Prometheus."""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

PREFIX = "ldlva_"
WITHOUT = ("step", "steps")


class ExportedMetrics:
    """``ldlva_NAME`` for each number of a run's log lines, with the run's name as a tag."""

    def __init__(self, run_name: str) -> None:
        self._run_name = run_name
        self._gauges: dict[str, Gauge] = {}

    def set(self, metrics: Mapping[str, Any]) -> None:
        """Show the latest values."""
        for name, value in metrics.items():
            if isinstance(value, int | float) and name not in WITHOUT:
                self._gauge(name).set(value)

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            gauge = Gauge(PREFIX + name, f"{name} of the last log line of a run", tag_keys=("run",))
            gauge.set_default_tags({"run": self._run_name})
            self._gauges[name] = gauge
        return self._gauges[name]
