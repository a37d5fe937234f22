"""Lookups of coming batches run while a batch is trained on."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.messages import Batch, Neighbors
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.exact_neighbors import NeighborImages, PendingImages


def look_ahead(
    batches: Iterable[Batch],
    client: NeighborClient | None,
    meters: Meters,
    images: NeighborImages | None = None,
    graph_of: Callable[[int], int] = lambda step: 0,
) -> Iterator[tuple[Batch, Neighbors | None]]:
    """Pair each batch with its neighbours, which were asked for before the previous batch was trained on.

    The graph that ``graph_of`` names for a step is asked for batch t + 2, the bank, and the neighbours' images where
    they are wanted, for batch t + 1 before batch t is handed out.
    """
    if client is None:
        yield from ((batch, None) for batch in batches)
        return
    found: deque[tuple[Batch, Any]] = deque()
    asked: deque[_Asked] = deque()
    for batch in itertools.chain(batches, [None, None]):
        if batch is not None:
            found.append((batch, client.find(batch.ids, graph_of(batch.step))))
        if len(found) > (1 if batch is not None else 0):
            ready, ids = found.popleft()
            rows = client.ask(ready.step, ids)
            asked.append(_Asked(ready, rows, images.ask(ready.step, rows.ids) if images else None))
        if len(asked) > (1 if found else 0):
            yield _collect(client, asked.popleft(), meters)
    while asked:
        yield _collect(client, asked.popleft(), meters)


class _Asked(NamedTuple):
    batch: Batch
    rows: Any
    images: PendingImages | None


def _collect(client: NeighborClient, asked: _Asked, meters: Meters) -> tuple[Batch, Neighbors]:
    began = time.monotonic()
    neighbors = client.collect(asked.rows)
    if asked.images:
        neighbors = asked.images.add_to(neighbors)
    meters.waited(time.monotonic() - began)
    return asked.batch, neighbors
