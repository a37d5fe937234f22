"""Rows that are cut over the ranks by id, and the way of a step's rows between who asks and who holds them.

Ids are born on the CPU, so they travel over gloo, ahead of the step that needs them. What the rows hold travels by the
same route: the uncertainties over gloo, the bank's outputs from device to device. Every call is a collective.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist.method.posted_exchange import PostedExchange, Tag


@dataclass(kw_only=True, eq=False)
class Route:
    """Rows of one step on their way between this rank and their owners. W = ranks, n = ids of the step.

    Made by :meth:`RowRoutes.begin`; its ids are here once :meth:`RowRoutes.finish` returns.
    """

    routes: "RowRoutes"
    """Where it was begun."""
    order_n: Tensor
    """Places of the ids by owner; for each owner those of the batch come first."""
    batch_rows: int
    """The first so many ids are those of the batch."""
    ids_n: Tensor
    """Ids in that order."""
    sent_W2: Tensor
    """Ids that this rank asks of each rank: all of them, and those of the batch."""
    under_way: PostedExchange
    """The exchange of counts, then that of ids."""
    received_W2: Tensor
    """Ids that each rank asks of this one, likewise; empty until the counts are known."""
    asked: Tensor
    """Ids that this rank is asked for, by who asks; empty until :meth:`RowRoutes.finish`."""
    answer: PostedExchange | None = None
    """Brings what the uncertainty table holds of the ids."""

    def asked_of_batch(self, *, others: bool = False) -> Tensor:
        """Of the ids that this rank is asked for those of the askers' batches; or ``others``, which are the rest."""
        asked = self.asked.split(self.received_W2[:, 0].tolist())
        mine = zip(asked, self.received_W2[:, 1].tolist(), strict=True)
        return torch.cat([ids[rows:] if others else ids[:rows] for ids, rows in mine])


class RowRoutes:
    """How ids 0..N-1 are cut over the ranks, this rank's range [start, stop), and the routes that are being found."""

    def __init__(self, num_rows: int, group: dist.ProcessGroup | None = None) -> None:
        """``group`` is a gloo group over all ranks, which nothing else uses: the next counts are always waited for.

        None for a single rank.
        """
        self.group = group
        self.rank, self.world_size = (group.rank(), group.size()) if group else (0, 1)
        self._rows_per_rank = -(-num_rows // self.world_size)
        self.start = min(num_rows, self.rank * self._rows_per_rank)
        self.stop = min(num_rows, self.start + self._rows_per_rank)
        self._begun: list[Route] = []
        self._coming_counts = self._post_counts()

    def begin(self, ids: NDArray[np.int64], batch_rows: int | None = None) -> Route:
        """Begin to find the way of a step's rows; nobody is waited for. Collective, in one order on all ranks.

        Args:
            ids: [n] ids to read; any n.
            batch_rows: The first so many of them may be written; None: all.
        """
        rows = torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64))
        batch_rows = len(rows) if batch_rows is None else batch_rows
        if self.world_size == 1:  # nobody is asked, and a small network's step is short
            counts_W2 = torch.tensor([[len(rows), batch_rows]])
            return Route(
                routes=self,
                order_n=torch.arange(len(rows)),
                batch_rows=batch_rows,
                ids_n=rows,
                sent_W2=counts_W2,
                under_way=PostedExchange(rows, [len(rows)], tag=Tag.IDS, rank=0),
                received_W2=counts_W2,
                asked=rows,
            )
        owner_n = rows // self._rows_per_rank
        order_n = torch.argsort(owner_n, stable=True)
        counts = [torch.bincount(owner, minlength=self.world_size) for owner in (owner_n, owner_n[:batch_rows])]
        sent_W2 = torch.stack(counts, dim=1)
        under_way, self._coming_counts = self._coming_counts, self._post_counts()
        under_way.send(sent_W2, [1] * self.world_size)
        route = Route(
            routes=self,
            order_n=order_n,
            batch_rows=batch_rows,
            ids_n=rows[order_n],
            sent_W2=sent_W2,
            under_way=under_way,
            received_W2=sent_W2.new_empty(0),
            asked=rows.new_empty(0),
        )
        self._begun.append(route)
        return route

    def finish(self, route: Route) -> None:
        """Wait until the ids that this rank is asked for are here."""
        if route in self._begun:  # the first of all; others were sent in the step before
            self.send_ids()
        route.asked = route.under_way.wait()

    def send_ids(self) -> None:
        """Send the ids of all routes whose counts were sent, which came meanwhile; they travel during the step."""
        for route in self._begun:
            route.received_W2 = route.under_way.wait()
            sent_W, received_W = route.sent_W2[:, 0], route.received_W2[:, 0]
            route.under_way = self.post(route.ids_n, received_W, Tag.IDS)
            route.under_way.send(route.ids_n, sent_W.tolist())
        self._begun.clear()

    def post(self, like: Tensor, received_W: Tensor, tag: Tag) -> PostedExchange:
        """Wait for rows of the kind of ``like``, so many of each rank; they are sent later."""
        counts_W: list[int] = received_W.tolist()
        room = like.new_empty(sum(counts_W), *like.shape[1:])
        return PostedExchange(room, counts_W, tag=tag, rank=self.rank, group=self.group)

    def exchange(self, values: Tensor, sent_W: Tensor, received_W: Tensor) -> PostedExchange:
        """Begin to send rows [sent, ...] by rank; what is returned waits for those that come [received, ...]."""
        exchange = self.post(values, received_W, Tag.ROWS)
        exchange.send(values, sent_W.tolist())
        return exchange

    def _post_counts(self) -> PostedExchange:
        counts_W2 = torch.empty(self.world_size, 2, dtype=torch.int64)
        return self.post(counts_W2, torch.ones(self.world_size, dtype=torch.int64), Tag.COUNTS)


def begin_exchange(
    result: Tensor, values: Tensor, sent_W: Tensor | None = None, received_W: Tensor | None = None
) -> dist.Work:
    """Begin to send each rank its share of ``values``, in whole rows; without counts the shares are equal.

    Collective, in the default group.
    """
    splits = (None, None) if sent_W is None or received_W is None else (received_W.tolist(), sent_W.tolist())
    work = dist.all_to_all_single(result, values, *splits, async_op=True)
    assert work is not None, "this rank is one of the group"
    return work


def begin_gather(values_F: Tensor) -> Callable[[], Tensor]:
    """Begin to send the same few numbers to all ranks; what is returned waits for [W, F] those of all. Collective.

    On the CPU: gloo's own gather would hand them on from rank to rank.
    """
    if (num_ranks := dist.get_world_size()) == 1:
        return lambda: values_F[None]
    found_WF = values_F.new_empty(num_ranks, len(values_F))
    under_way = begin_exchange(found_WF, values_F.repeat(num_ranks, 1))

    def finish_gather() -> Tensor:
        under_way.wait()
        return found_WF

    return finish_gather
