"""How full and how busy the ranks' GPUs are."""

import math
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import torch


class GpuUsage(NamedTuple):
    """One GPU's, since it was last asked for."""

    peak_bytes: float
    """Largest memory that this process's tensors took at once."""
    busy: float
    """Share of the last second or so in which some kernel ran, all processes together; NaN where nothing tells it."""


def gpu_usage(device: torch.device) -> GpuUsage | None:
    """How a rank's GPU is used; None on a CPU."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return usage_of(peak, _busy_percent(device))


def usage_of(peak_bytes: int, busy_percent: int | None) -> GpuUsage:
    """The same from what torch and NVML give; None where NVML gives nothing."""
    return GpuUsage(float(peak_bytes), math.nan if busy_percent is None else busy_percent / 100)


def usage_metrics(usages: Sequence[GpuUsage]) -> dict[str, float]:
    """The metrics of all ranks' GPUs: the fullest one's memory, and how busy they are where all ranks can tell."""
    metrics = {"gpu_memory_bytes": max(usage.peak_bytes for usage in usages)}
    busy = sum(usage.busy for usage in usages) / len(usages)
    return metrics if math.isnan(busy) else metrics | {"gpu_busy": busy}


def _busy_percent(device: torch.device) -> int | None:
    """What NVML says; None without nvidia-ml-py, and for a part of a GPU (MIG), of which NVML does not know it."""
    if not find_spec("pynvml"):
        return None
    try:
        return torch.cuda.utilization(device)
    except (import_module("pynvml").NVMLError, RuntimeError):  # a number for the log ends no run
        return None
