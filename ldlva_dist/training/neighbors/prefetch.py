"""Lookups of coming batches run while a batch is trained on; batches and what was found go to the device meanwhile."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from ldlva_dist.messages import Batch
from ldlva_dist.method.step import TensorBatch
from ldlva_dist.training.device.copies import DeviceCopies, NoCopies
from ldlva_dist.training.device.tensors import batch_tensors
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.lookups import Lookup, Lookups


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """All that a step begins with."""

    batch: Batch
    rows: Callable[[], TensorBatch]
    """Gives the batch on the device, without the table's logits."""
    lookup: Lookup | None = None
    """The batch's neighbours, and where its outputs are to be written; None without a bank."""


@dataclass(frozen=True, kw_only=True)
class Prefetch:
    """Pairs each batch with its neighbours, which were asked for before the previous batch was trained on.

    Before batch t is handed out, the graph is asked for batch t + 2, and the bank for batch t + 1. The outputs of a
    batch are to be written to its lookup before the next batch is taken.
    """

    lookups: Lookups | None
    """Way to the bank; without one no batch has neighbours."""
    meters: Meters
    """Count the seconds that are waited here."""
    copies: DeviceCopies = NoCopies()  # noqa: RUF009  it holds nothing
    """Way to the device, for batch t + 2."""

    def steps(self, batches: Iterable[Batch]) -> Iterator[StepInputs]:
        """Of one rank's batches, in the order of their steps."""
        found: deque[_Coming] = deque()
        asked: deque[_Coming] = deque()
        for batch in chain(batches, [None, None]):
            if batch is not None:
                found.append(self._find(batch))
            if len(found) > (1 if batch is not None else 0):
                asked.append(self._ask(found.popleft()))
            if len(asked) > (1 if found else 0):
                yield self._collect(asked.popleft())
        while asked:
            yield self._collect(asked.popleft())

    def _find(self, batch: Batch) -> "_Coming":
        rows = self.copies.ahead(partial(batch_tensors, batch, self.copies))
        return _Coming(batch, rows, self.lookups.find(batch) if self.lookups else None)

    def _ask(self, found: "_Coming") -> "_Coming":
        return found._replace(near=self.lookups.ask(found.batch, found.near) if self.lookups else None)

    def _collect(self, asked: "_Coming") -> StepInputs:
        began = time.monotonic()
        lookup = self.lookups.collect(asked.batch, asked.near) if self.lookups else None
        self.meters.waited(time.monotonic() - began)
        return StepInputs(batch=asked.batch, rows=asked.rows, lookup=lookup)


class _Coming(NamedTuple):
    batch: Batch
    rows: Callable[[], TensorBatch]
    near: Any
    """What the lookups gave last; it is theirs."""
