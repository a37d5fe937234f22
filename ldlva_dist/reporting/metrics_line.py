"""One line of a run's metrics for a terminal or a log."""

import math
from collections.abc import Mapping
from typing import Any


def format_line(metrics: Mapping[str, Any]) -> str:
    """Epoch, step, speed, loss, uncertainty, staleness and time left; what the metrics lack is left out.

    Columns keep their widths from line to line, so that a log can be read downwards.
    """
    step, steps = metrics.get("step"), metrics.get("steps")
    parts = [
        _part("epoch {:5.2f}", metrics.get("epoch")),
        None if step is None else f"step {step:>{len(str(steps or step))}}" + (f"/{steps}" if steps else ""),
        _part("{:6,.0f} samples/s", metrics.get("samples_per_second")),
        _part("loss {:6.4f}", metrics.get("loss")),
        _part("uncertainty {:.3f}", metrics.get("uncertainty_mean")),
        _part("staleness {:4.0f}", metrics.get("staleness_mean")),
        _part("left {:>7}", format_seconds(metrics.get("seconds_left"))),
        _part("holdout accuracy {:.3f}", metrics.get("holdout_accuracy")),
    ]
    return "  ".join(part for part in parts if part)


def format_seconds(seconds: float | None) -> str | None:
    """``42 s``, ``3:05`` or ``2:03:05``; None where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return None
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _part(pattern: str, value: Any) -> str | None:
    return None if value is None else pattern.format(value)
