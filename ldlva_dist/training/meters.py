"""Running means between two log lines, reduced over the ranks."""

import time
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ldlva_dist.messages import Batch, Neighbors


class Meters:
    """Counts on every rank; :meth:`drain` makes one dict of them, the same on all."""

    def __init__(self, *, batch_size: int, num_rows: int, total_steps: int, device: torch.device) -> None:
        """Means are per sample of ``batch_size`` x steps; ``num_rows`` make an epoch."""
        self._batch_size, self._num_rows, self._total_steps = batch_size, num_rows, total_steps
        self._device = device
        self._began = time.monotonic()
        self._terms: dict[str, Tensor] = {}
        self._steps = 0
        self._staleness: list[np.ndarray] = []
        self._never = self._asked = 0
        self._waited = 0.0

    def add(self, terms: Mapping[str, Tensor], batch: Batch, neighbors: Neighbors | None) -> None:
        """Count one step: its terms are this rank's shares of the global batch's means."""
        self._steps += 1
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value.detach()
        if neighbors is not None:
            written = neighbors.versions >= 0
            self._staleness.append(batch.step - neighbors.versions[written])
            self._never += int((~written).sum())
            self._asked += written.size

    def waited(self, seconds: float) -> None:
        """Count time that the step stood still for its neighbours."""
        self._waited += seconds

    def drain(self, step: int) -> dict[str, float]:
        """Means since the last call, for a log line after ``step`` steps. Collective."""
        elapsed = time.monotonic() - self._began
        stale = np.concatenate(self._staleness) if self._staleness else np.zeros(0)
        names = sorted(self._terms)
        values = [float(self._terms[name]) for name in names]
        counts = [float(stale.sum()), float(len(stale)), float(self._never), float(self._asked), self._waited]
        total = self._reduce([*values, *counts], dist.ReduceOp.SUM)
        longest = self._reduce([float(stale.max(initial=0.0)), elapsed], dist.ReduceOp.MAX)
        stale_sum, stale_count, never, asked, waited = total[len(names) :]
        speed = self._steps * self._batch_size / longest[1]
        metrics = {
            "step": step,
            "steps": self._total_steps,
            "epoch": step * self._batch_size / self._num_rows,
            "samples_per_second": speed,
            "seconds_left": (self._total_steps - step) * self._batch_size / speed,
        }
        metrics |= {name: value / self._steps for name, value in zip(names, total, strict=False)}
        if asked:
            metrics |= {
                "staleness_mean": stale_sum / max(stale_count, 1.0),
                "staleness_max": longest[0],
                "never_written": never / asked,
                "lookup_wait_share": waited / dist.get_world_size() / elapsed,
            }
        self._clear()
        return metrics

    def restart_clock(self) -> None:
        """Leave evaluation and checkpoint out of the samples per second."""
        self._began = time.monotonic()

    def _reduce(self, values: list[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        reduced = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(reduced, op=operation)
        return reduced.tolist()

    def _clear(self) -> None:
        self._terms, self._steps, self._staleness = {}, 0, []
        self._never, self._asked, self._waited = 0, 0, 0.0
        self._began = time.monotonic()
