"""Lookups of coming batches run while a batch is trained on."""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from ldlva_dist.messages import Batch, Neighbors
from ldlva_dist.neighbors.service import NeighborClient
from ldlva_dist.training.meters import Meters


def look_ahead(
    batches: Iterable[Batch], client: NeighborClient | None, meters: Meters
) -> Iterator[tuple[Batch, Neighbors | None]]:
    """Pair each batch with its neighbours, which were asked for before the previous batch was trained on.

    The graph is asked for batch t + 2 and the bank for batch t + 1 before batch t is handed out.
    """
    if client is None:
        yield from ((batch, None) for batch in batches)
        return
    found: deque[tuple[Batch, Any]] = deque()
    asked: deque[tuple[Batch, Any]] = deque()
    for batch in itertools.chain(batches, [None, None]):
        if batch is not None:
            found.append((batch, client.find(batch.ids)))
        if len(found) > (1 if batch is not None else 0):
            ready, ids = found.popleft()
            asked.append((ready, client.ask(ready.step, ids)))
        if len(asked) > (1 if found else 0):
            yield _collect(client, asked.popleft(), meters)
    while asked:
        yield _collect(client, asked.popleft(), meters)


def _collect(client: NeighborClient, asked: tuple[Batch, Any], meters: Meters) -> tuple[Batch, Neighbors]:
    began = time.monotonic()
    neighbors = client.collect(asked[1])
    meters.waited(time.monotonic() - began)
    return asked[0], neighbors
