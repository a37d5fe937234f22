"""Running means between two log lines, reduced over the ranks, and where the training thread's time goes.

Two clock readings a part cost well under a microsecond.
"""

import time
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist.bank.wire import Traffic
from ldlva_dist.messages import Batch
from ldlva_dist.training.device.usage import GpuUsage, gpu_usage, usage_metrics

STEP = 1.05
LARGEST = 2**40
EDGES = np.unique(np.ceil(STEP ** np.arange(np.log(LARGEST) / np.log(STEP))).astype(np.int64))
"""Ages up to 21 have a bin each; a wider bin ends at most 5 % above where it begins."""
PARTS: tuple[str, ...] = "stream", "bank", "table", "copies", "network", "gradients", "votes", "log"
"""Waits for images; lookups and writes; uncertainties read; tensors made; forward, backward and optimiser; waits for
other ranks' gradients, as far as they can be told from those; uncertainties applied and votes; everything else."""


class StepClock:
    """Stays on: each moment of the thread that marks belongs to one part."""

    def __init__(self) -> None:
        """Begin now."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._since = time.perf_counter()

    def mark(self, part: str, *, gradients_s: float = 0.0) -> None:
        """The time since the last mark was that part's, but for what of it was spent waiting for gradients."""
        now = time.perf_counter()
        self._seconds[part] += now - self._since - gradients_s
        self._seconds["gradients"] += gradients_s
        self._since = now

    def drain(self) -> list[float]:
        """Seconds of the PARTS since they were last drained."""
        self.mark("log")
        seconds, self._seconds = list(self._seconds.values()), dict.fromkeys(PARTS, 0.0)
        return seconds

    def restart(self) -> None:
        """Leave out the time since the last mark."""
        self._since = time.perf_counter()


class Dated(Protocol):
    """How old the rows are that a step was given."""

    @property
    def versions(self) -> NDArray[np.int64]:
        """[b, K] steps at which they were written."""
        ...

    @property
    def graph(self) -> int:
        """The graph that they come from."""
        ...


class Meters:
    """Counts on every rank; :meth:`drain` makes one dict of them, the same on all."""

    def __init__(self, *, batch_size: int, num_rows: int, total_steps: int, device: torch.device) -> None:
        """Means are per sample of ``batch_size`` x steps; ``num_rows`` make an epoch."""
        self._batch_size, self._num_rows, self._total_steps = batch_size, num_rows, total_steps
        self._device = device
        self._began = time.monotonic()
        self.clock = StepClock()
        self._terms: dict[str, Tensor] = {}
        self._steps = 0
        self._ages = np.zeros(len(EDGES), dtype=np.int64)
        self._age_sum = self._age_max = self._never = self._asked = 0
        self._waited = 0.0
        self._graph = 0

    def add(self, terms: Mapping[str, Tensor], batch: Batch, neighbors: Dated | None) -> None:
        """Count one step: its terms are this rank's shares of the global batch's means."""
        self._steps += 1
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value.detach()
        if neighbors is not None:
            self._graph = neighbors.graph
            written = (versions_bK := neighbors.versions) >= 0
            ages = batch.step - versions_bK[written]
            self._ages += count_ages(ages)
            self._age_sum += int(ages.sum())
            self._age_max = max(self._age_max, int(ages.max(initial=0)))
            self._never += int((~written).sum())
            self._asked += written.size

    def waited(self, seconds: float) -> None:
        """Count time that the step stood still for its neighbours."""
        self._waited += seconds

    def drain(self, step: int, traffic: Traffic | None = None) -> dict[str, float]:
        """Means since the last call, for a log line after ``step`` steps; ``traffic`` is this rank's. Collective."""
        parts = self.clock.drain()
        elapsed = time.monotonic() - self._began
        names = sorted(self._terms)
        values = [float(self._terms[name]) for name in names]
        counts = [*values, *parts, *self._counts(traffic or Traffic()), *self._ages.tolist()]
        total = self._reduce(counts, dist.ReduceOp.SUM)
        age_max, longest = self._reduce([float(self._age_max), elapsed], dist.ReduceOp.MAX)
        speed = self._steps * self._batch_size / longest
        metrics = {
            "step": step,
            "steps": self._total_steps,
            "epoch": step * self._batch_size / self._num_rows,
            "samples_per_second": speed,
            "seconds_left": (self._total_steps - step) * self._batch_size / speed,
        }
        metrics |= {name: value / self._steps for name, value in zip(names, total, strict=False)}
        parts, total = total[len(names) :][: len(PARTS)], total[len(names) + len(PARTS) :]
        calls = self._steps * dist.get_world_size()
        metrics |= {f"{part}_ms": 1000 * seconds / calls for part, seconds in zip(PARTS, parts, strict=True)}
        if self._asked:
            metrics |= self._of_neighbors(total, age_max, elapsed)
        metrics |= self._of_gpus()
        self._clear()
        return metrics

    def restart_clock(self) -> None:
        """Leave evaluation and checkpoint out of the samples per second."""
        self._began = time.monotonic()
        self.clock.restart()

    def _counts(self, traffic: Traffic) -> list[float]:
        """What adds up over the ranks besides the terms, in the order that :meth:`_of_neighbors` takes it."""
        seconds = self._waited, traffic.busy_s, traffic.shard_s
        return [*seconds, traffic.bytes_read, traffic.bytes_written, self._age_sum, self._never, self._asked]

    def _of_neighbors(self, total: list[float], age_max: float, elapsed: float) -> dict[str, float]:
        """The figures of the neighbour service, from sums over the ranks."""
        waited, busy_s, shard_s, bytes_read, bytes_written, age_sum, never, asked = total[:8]
        ages = np.array(total[8:])
        num_ranks = dist.get_world_size()
        calls = self._steps * num_ranks
        metrics = {
            "graph": self._graph,
            "never_written": never / asked,
            "lookup_wait_share": waited / num_ranks / elapsed,
            "lookup_ms": 1000 * busy_s / calls,
            "lookup_shard_ms": 1000 * shard_s / calls,
            "lookup_bytes_per_step": bytes_read / self._steps,
            "write_bytes_per_step": bytes_written / self._steps,
        }
        if ages.any():
            metrics |= {
                "staleness_mean": age_sum / float(ages.sum()),
                "staleness_p50": percentile(ages, 0.5),
                "staleness_p95": percentile(ages, 0.95),
                "staleness_max": age_max,
            }
        return metrics

    def _of_gpus(self) -> dict[str, float]:
        """The figures of all ranks' GPUs. Collective on GPUs."""
        usage = gpu_usage(self._device)
        return usage_metrics(self._gathered(usage)) if usage else {}

    def _gathered(self, usage: GpuUsage) -> list[GpuUsage]:
        """All ranks' usages, by rank. Collective."""
        slots_W2 = np.zeros((dist.get_world_size(), 2))
        slots_W2[dist.get_rank()] = usage
        flat = self._reduce(slots_W2.ravel().tolist(), dist.ReduceOp.SUM)
        return [GpuUsage(*pair) for pair in zip(flat[::2], flat[1::2], strict=True)]

    def _reduce(self, values: list[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        reduced = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(reduced, op=operation)
        return reduced.tolist()

    def _clear(self) -> None:
        self._terms, self._steps, self._waited = {}, 0, 0.0
        self._ages[:] = self._age_sum = self._age_max = self._never = self._asked = 0
        self.restart_clock()


def count_ages(ages: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ages (>= 0) by bin, [len(EDGES)]: bin i holds those above EDGES[i - 1] up to EDGES[i]; counts of ranks add up."""
    return np.bincount(np.searchsorted(EDGES, ages), minlength=len(EDGES))


def percentile(counts: NDArray[np.number], share: float) -> float:
    """The least age that at least ``share`` (in (0, 1]) of those counted do not exceed, at most 5 % too large."""
    reached = np.cumsum(counts)
    return float(EDGES[np.searchsorted(reached, share * reached[-1])])
