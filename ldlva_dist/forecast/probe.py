"""A short piece of the real run: the same data, network, services and loop, in a folder that is deleted after.

What differs: the neighbours count from the first step on (those in feature space as in the run), the bank starts from
labels (which puts all of its pages in memory, as a run's first epoch does), and nothing is evaluated on the way or sent
to a server. It ends with a checkpoint, as the run will. Neighbours that were never written cost a network less than
others: a large data set is not once through within a probe, so its speed is told some per cent too high.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Event, Timer
from typing import Any

from ldlva_dist import storage
from ldlva_dist.config import RunConfig
from ldlva_dist.errors import ClusterError, RunStopped
from ldlva_dist.forecast.watch import Peaks, watching
from ldlva_dist.run import launch

PREFIX = "plan-probe-"
LOG_EVERY_STEPS = 5
START_LIMIT_S = 1800.0
"""Within which there must be a line; a probe that cannot be followed ends, too."""
NEVER = 1e6


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was seen."""

    steps: int
    samples_per_second: float
    """Speed of training, after its first steps."""
    start_seconds: float
    """Until the first logged steps were done."""
    peaks: Peaks
    """Memory by role."""


@dataclass
class _Progress:
    """Sets ``enough`` a while after the first line."""

    seconds: float
    enough: Event = field(default_factory=Event)
    lines: list[dict[str, Any]] = field(default_factory=list)
    first: float = 0.0

    def __call__(self, metrics: dict[str, Any]) -> None:
        now = time.monotonic()
        self.first = self.first or now
        self.lines.append(metrics)
        if now - self.first >= self.seconds:
            self.enough.set()


def probe(config: RunConfig, seconds: float) -> Probe:
    """Train for so many seconds after the first steps on a data set that is sound, and leave nothing behind.

    Raises:
        LdlvaError: whatever the run would end with.
        RunStopped: where the user stopped it.
    """
    config = _probing(config)
    uri, is_new = config.uri, not storage.exists(config.storage_path)
    progress, peaks, began = _Progress(seconds), {}, time.monotonic()
    limit = Timer(START_LIMIT_S + seconds, progress.enough.set)
    limit.start()
    try:
        with watching(peaks):
            try:
                launch.fit(config, until=progress.enough, sound=True, on_metrics=progress)
            except RunStopped as stopped:
                if not progress.enough.is_set():
                    raise RunStopped("the probe was stopped, and has left nothing behind") from stopped
    finally:
        limit.cancel()
        storage.delete_folder(uri)
        if is_new and not storage.list_folder(config.storage_path):
            storage.delete_folder(config.storage_path)
    if not progress.lines:
        raise ClusterError(f"the probe ended, after {time.monotonic() - began:.0f} s, without a line of metrics")
    return Probe(
        steps=progress.lines[-1]["step"],
        samples_per_second=speed(progress.lines, config.data.batch_size),
        start_seconds=progress.first - began,
        peaks=peaks,
    )


def speed(lines: Sequence[dict[str, Any]], batch_size: int) -> float:
    """Samples/s over a run's lines, without those of its start: the first one and the first quarter."""
    kept = lines[max(1, len(lines) // 4) :] or lines
    before = lines[len(lines) - len(kept) - 1]["step"] if len(kept) < len(lines) else 0
    seconds = 0.0
    for first, line in zip([before, *(line["step"] for line in kept)], kept, strict=False):
        seconds += (line["step"] - first) * batch_size / line["samples_per_second"]
    return (kept[-1]["step"] - before) * batch_size / seconds


def _probing(config: RunConfig) -> RunConfig:
    warm = "labels" if config.uses_bank and not config.reads_images else "empty"
    # In feature space there may be no neighbours to read before the first graph.
    warmup_epochs = 0.0 if config.index.space == "va" else config.loss.warmup_epochs
    return replace(
        config,
        name=f"{PREFIX}{uuid.uuid4().hex[:8]}",
        loss=replace(config.loss, warmup_epochs=warmup_epochs),
        bank=replace(config.bank, warm_start=warm),
        training=replace(
            config.training,
            evaluate_every_epochs=NEVER,
            checkpoint_every_steps=None,
            checkpoint_every_minutes=None,
            log_every_steps=min(LOG_EVERY_STEPS, config.training.log_every_steps),
            log_ids=False,
            tracker="tensorboard" if config.training.tracker == "tensorboard" else "none",
        ),
        placement=replace(config.placement, max_failures=0),
    )
