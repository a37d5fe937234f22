"""Lookups of coming batches run while a batch is trained on; batches and what was found go to the device meanwhile."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.session import PendingIds, PendingRows, StepLookup
from ldlva_dist.messages import Batch
from ldlva_dist.method.step import TensorBatch, TensorNeighbors
from ldlva_dist.method.uncertainty_table import Route
from ldlva_dist.training.device.copies import DeviceCopies, NoCopies
from ldlva_dist.training.device.tensors import batch_tensors, neighbor_tensors
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.exact_neighbors import NeighborImages, PendingImages


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """All that a step begins with."""

    batch: Batch
    rows: Callable[[], TensorBatch]
    """Gives the batch on the device, without the table's logits."""
    lookup: StepLookup | None = None
    """The batch's neighbours, and where its outputs are to be written; None without a bank."""
    near: Callable[[], TensorNeighbors] | None = None
    """Gives the neighbours on the device, likewise."""
    route: Route | None = None
    """The way of its rows of the uncertainty table, and its neighbours'."""


@dataclass(frozen=True, kw_only=True)
class Prefetch:
    """Pairs each batch with its neighbours, which were asked for before the previous batch was trained on.

    Before batch t is handed out, the graph is asked for batch t + 2, and the bank for batch t + 1. The outputs of a
    batch are to be written to its lookup before the next batch is taken.
    """

    client: NeighborClient | None
    """Way to the bank; without one no batch has neighbours."""
    meters: Meters
    """Count the seconds that are waited here."""
    images: NeighborImages | None = None
    """Where they are wanted, reads the neighbours' images, for batch t + 1."""
    graph_of: Callable[[int], int] = lambda step: 0
    """Number of the graph that the neighbours of a step come from."""
    route_of: Callable[[NDArray[np.int64], int], Route | None] = lambda ids, batch_rows: None
    """Begins the way of a batch's rows of the uncertainty table, and its neighbours', for batch t + 1."""
    copies: DeviceCopies = NoCopies()  # noqa: RUF009  it holds nothing
    """Way to the device, for batch t + 2 and the neighbours of batch t + 1."""

    def steps(self, batches: Iterable[Batch]) -> Iterator[StepInputs]:
        """Of one rank's batches, in the order of their steps."""
        found: deque[_Found] = deque()
        asked: deque[_Asked] = deque()
        for batch in chain(batches, [None, None]):
            if batch is not None:
                found.append(self._find(batch))
            if len(found) > (1 if batch is not None else 0):
                asked.append(self._ask(found.popleft()))
            if len(asked) > (1 if found else 0):
                yield self._collect(asked.popleft())
        while asked:
            yield self._collect(asked.popleft())

    def _find(self, batch: Batch) -> "_Found":
        rows = self.copies.ahead(partial(batch_tensors, batch, self.copies))
        ids = self.client.find(batch.step, batch.ids, self.graph_of(batch.step)) if self.client else None
        return _Found(batch, rows, ids)

    def _ask(self, found: "_Found") -> "_Asked":
        batch, ids = found.batch, found.ids
        if ids is None:
            return _Asked(found)
        rows = ids.ask()
        route = self.route_of(np.concatenate([batch.ids, rows.ids.ravel()]), len(batch.ids))
        images = self.images.ask(batch.step, rows.ids) if self.images else None
        return _Asked(found, rows, images, self.copies.ahead(partial(self._near, rows, images)), route)

    def _near(self, rows: PendingRows, images: PendingImages | None) -> TensorNeighbors:
        neighbors = rows.found.result()
        return neighbor_tensors(images.add_to(neighbors) if images else neighbors, self.copies)

    def _collect(self, asked: "_Asked") -> StepInputs:
        began = time.monotonic()
        lookup = asked.rows.collect() if asked.rows else None
        if lookup and asked.images:
            lookup = replace(lookup, neighbors=asked.images.add_to(lookup.neighbors))
        self.meters.waited(time.monotonic() - began)
        found = asked.found
        return StepInputs(batch=found.batch, rows=found.rows, lookup=lookup, near=asked.near, route=asked.route)


class _Found(NamedTuple):
    batch: Batch
    rows: Callable[[], TensorBatch]
    ids: PendingIds | None


class _Asked(NamedTuple):
    found: _Found
    rows: PendingRows | None = None
    images: PendingImages | None = None
    near: Callable[[], TensorNeighbors] | None = None
    route: Route | None = None
