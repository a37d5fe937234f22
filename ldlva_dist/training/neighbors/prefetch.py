"""Lookups of coming batches run while a batch is trained on."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.session import PendingIds, PendingRows, StepLookup
from ldlva_dist.messages import Batch
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.exact_neighbors import NeighborImages, PendingImages


def prefetch_neighbors(
    batches: Iterable[Batch],
    client: NeighborClient | None,
    meters: Meters,
    images: NeighborImages | None = None,
    graph_of: Callable[[int], int] = lambda step: 0,
) -> Iterator[tuple[Batch, StepLookup | None]]:
    """Pair each batch with its neighbours, which were asked for before the previous batch was trained on.

    Before batch t is handed out, the graph is asked for batch t + 2, and the bank for batch t + 1. The outputs of a
    batch are to be written to its lookup before the next batch is taken.

    Args:
        batches: Batches of one rank, in the order of their steps.
        client: Way to the bank; without one no batch has neighbours.
        meters: Count the seconds that are waited here.
        images: Where they are wanted, reads the neighbours' images, for batch t + 1.
        graph_of: Number of the graph that the neighbours of a step come from.
    """
    if client is None:
        yield from ((batch, None) for batch in batches)
        return
    found: deque[tuple[Batch, PendingIds]] = deque()
    asked: deque[_Asked] = deque()
    for batch in chain(batches, [None, None]):
        if batch is not None:
            found.append((batch, client.find(batch.step, batch.ids, graph_of(batch.step))))
        if len(found) > (1 if batch is not None else 0):
            ready, ids = found.popleft()
            rows = ids.ask()
            asked.append(_Asked(ready, rows, images.ask(ready.step, rows.ids) if images else None))
        if len(asked) > (1 if found else 0):
            yield _collect(asked.popleft(), meters)
    while asked:
        yield _collect(asked.popleft(), meters)


class _Asked(NamedTuple):
    batch: Batch
    rows: PendingRows
    images: PendingImages | None


def _collect(asked: _Asked, meters: Meters) -> tuple[Batch, StepLookup]:
    began = time.monotonic()
    lookup = asked.rows.collect()
    if asked.images:
        lookup = replace(lookup, neighbors=asked.images.add_to(lookup.neighbors))
    meters.waited(time.monotonic() - began)
    return asked.batch, lookup
