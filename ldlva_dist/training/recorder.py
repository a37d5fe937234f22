"""What one rank writes down of a run while it trains."""

from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed as dist

from ldlva_dist.messages import Batch
from ldlva_dist.records.ids_log import IdsLog
from ldlva_dist.records.metrics_log import MetricsLog
from ldlva_dist.records.prometheus import ExportedMetrics
from ldlva_dist.records.uncertainty_history import write_history
from ldlva_dist.training.state import TrainState


class Recorder:
    """Metrics on rank 0; uncertainties, and ids where they are wanted, on every rank."""

    def __init__(
        self, name: str, log: MetricsLog | None, ids: IdsLog | None, require_lease: Callable[[], None]
    ) -> None:
        """Take over the open logs of a rank.

        Args:
            name: The run's, which its exported metrics bear.
            log: Metrics of rank 0; None on every other rank.
            ids: Ids that this rank trains on; None where they are not kept.
            require_lease: Raises where the run's folder is another job's by now.
        """
        self._log, self._ids, self._require_lease = log, ids, require_lease
        self._exported = ExportedMetrics(name)

    def add_batch(self, batch: Batch) -> None:
        """Note the ids of a batch that was trained on."""
        if self._ids:
            self._ids.add(batch)

    def add_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write a line of metrics."""
        if self._log:
            self._require_lease()
            self._log.add(metrics)
            self._exported.set(metrics)

    def add_uncertainties(self, state: TrainState, epoch: float) -> None:
        """Add this rank's uncertainties to the history of the run."""
        if state.table and state.config.uses_neighbors:
            values_n, first_id = state.table.uncertainties(), state.table.start
            write_history(
                state.config.uri, values_n, step=state.step, epoch=epoch, rank=dist.get_rank(), first_id=first_id
            )

    def flush(self) -> None:
        """Make every line and id so far visible to others: a run that resumes must find those of its checkpoint."""
        if self._log:
            self._log.flush()
        if self._ids:
            self._ids.flush()

    def close(self) -> None:
        """Close the log of metrics."""
        if self._log:
            self._log.close()
