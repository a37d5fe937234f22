"""How full and how busy a rank's GPU is."""

import math
from importlib.util import find_spec
from typing import NamedTuple

import torch


class GpuUsage(NamedTuple):
    """One GPU's, since it was last asked for."""

    peak_bytes: float
    """Largest memory that this process's tensors took at once."""
    busy: float
    """Share of the last second or so in which some kernel ran, all processes together; NaN without nvidia-ml-py."""


def gpu_usage(device: torch.device) -> GpuUsage | None:
    """How a rank's GPU is used; None on a CPU."""
    if device.type != "cuda":
        return None
    peak = float(torch.cuda.max_memory_allocated(device))
    torch.cuda.reset_peak_memory_stats(device)
    return GpuUsage(peak, torch.cuda.utilization(device) / 100 if find_spec("pynvml") else math.nan)
