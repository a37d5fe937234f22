"""Lookups of coming batches run while a batch is trained on."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.session import PendingIds, PendingRows, StepLookup
from ldlva_dist.messages import Batch
from ldlva_dist.method.uncertainty_table import Route
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.exact_neighbors import NeighborImages, PendingImages


def prefetch_neighbors(
    batches: Iterable[Batch],
    client: NeighborClient | None,
    meters: Meters,
    images: NeighborImages | None = None,
    graph_of: Callable[[int], int] = lambda step: 0,
    route_of: Callable[[NDArray[np.int64], int], Route | None] = lambda ids, batch_rows: None,
) -> Iterator[tuple[Batch, StepLookup | None, Route | None]]:
    """Pair each batch with its neighbours, which were asked for before the previous batch was trained on.

    Before batch t is handed out, the graph is asked for batch t + 2, and the bank for batch t + 1. The outputs of a
    batch are to be written to its lookup before the next batch is taken.

    Args:
        batches: Batches of one rank, in the order of their steps.
        client: Way to the bank; without one no batch has neighbours.
        meters: Count the seconds that are waited here.
        images: Where they are wanted, reads the neighbours' images, for batch t + 1.
        graph_of: Number of the graph that the neighbours of a step come from.
        route_of: Begins the way of a batch's rows of the uncertainty table, and its neighbours', for batch t + 1.
    """
    if client is None:
        yield from ((batch, None, None) for batch in batches)
        return
    found: deque[tuple[Batch, PendingIds]] = deque()
    asked: deque[_Asked] = deque()
    for batch in chain(batches, [None, None]):
        if batch is not None:
            found.append((batch, client.find(batch.step, batch.ids, graph_of(batch.step))))
        if len(found) > (1 if batch is not None else 0):
            ready, ids = found.popleft()
            rows = ids.ask()
            route = route_of(np.concatenate([ready.ids, rows.ids.ravel()]), len(ready.ids))
            asked.append(_Asked(ready, rows, images.ask(ready.step, rows.ids) if images else None, route))
        if len(asked) > (1 if found else 0):
            yield _collect(asked.popleft(), meters)
    while asked:
        yield _collect(asked.popleft(), meters)


class _Asked(NamedTuple):
    batch: Batch
    rows: PendingRows
    images: PendingImages | None
    route: Route | None


def _collect(asked: _Asked, meters: Meters) -> tuple[Batch, StepLookup, Route | None]:
    began = time.monotonic()
    lookup = asked.rows.collect()
    if asked.images:
        lookup = replace(lookup, neighbors=asked.images.add_to(lookup.neighbors))
    meters.waited(time.monotonic() - began)
    return asked.batch, lookup, asked.route
