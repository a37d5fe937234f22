"""TensorBoard: event files in RUN/tensorboard; later steps of a lineage that did not survive are purged."""

from collections.abc import Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ldlva_dist import storage
from ldlva_dist.records.trackers import numbers

FOLDER = "tensorboard"


class TensorBoard:
    """A writer of event files."""

    def __init__(self, run_uri: str, first_step: int) -> None:
        self._writer = SummaryWriter(storage.resolve(storage.join(run_uri, FOLDER))[1], purge_step=first_step)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Write one line's numbers."""
        for name, value in numbers(metrics).items():
            self._writer.add_scalar(name, value, metrics["step"])

    def flush(self) -> None:
        """Write to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Write to disk and close."""
        self._writer.close()
