"""One step of one rank at the bank: each state has one way on, so that the calls can be made in one order only.

    PendingIds --ask()--> PendingRows --collect()--> StepLookup --write()--> done

Steps overlap: while step t is trained on, the rows of t + 1 are on their way, and the ids of t + 2 are asked for.
The channel's thread does the work of all states; the training thread only takes what is finished.
b = rows of one rank, n = distinct ids, K = neighbours.
"""

from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.channel import IdQuery, ShardChannel
from ldlva_dist.bank.ledger import StepOrder
from ldlva_dist.bank.records import STATIC, as_records, decode_features
from ldlva_dist.messages import BankUpdate, Neighbors


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What all states of all steps of one rank share."""

    channel: ShardChannel
    order: StepOrder
    k: int
    """Neighbours of each row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingIds:
    """The ids of a batch's neighbours are on their way."""

    step: int
    query: Future[IdQuery]
    context: StepContext

    def ask(self) -> "PendingRows":
        """Ask for the neighbours' rows as of the step, as soon as their ids are here; nothing is waited for.

        Ids that were asked for before the latest question are here with its answer, at the latest.
        """
        channel = self.context.channel
        with channel.busy():
            self.context.order.ask(self.step)
            ids = channel.thread.soon(self._wait_ids)
            found = channel.thread.soon(self._look_up, ids)
        return PendingRows(step=self.step, coming_ids=ids, found=found, context=self.context)

    def _wait_ids(self) -> NDArray[np.int64]:
        """[b, K] neighbour ids, and as the last column the row's own where the bank is asked for it."""
        query, channel = self.query.result(), self.context.channel
        ids = channel.wait_ids(query, self.context.k)
        return np.column_stack([ids, query.samples]) if channel.spec.own_row else ids

    def _look_up(self, coming_ids: Future[NDArray[np.int64]]) -> Neighbors:
        """Ask for the rows of the neighbours, each once; wait for them, and give each neighbour of each row its own."""
        channel, ids = self.context.channel, coming_ids.result()
        distinct, place = np.unique(ids.ravel(), return_inverse=True)
        rows, static_rows = channel.wait_rows(channel.read(self.step, distinct))
        records = as_records(rows.take(place, axis=0), channel.spec.record).reshape(ids.shape)
        static = as_records(static_rows.take(place, axis=0), STATIC).reshape(ids.shape)
        return Neighbors(
            ids=ids,
            va=static["va"],
            labels=static["label"].astype(np.int64),
            probs=records["probs"],
            features=decode_features(records),
            versions=records["versions"],
            graph=self.query.result().graph,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRows:
    """The neighbours' rows are on their way."""

    step: int
    coming_ids: Future[NDArray[np.int64]]
    found: Future[Neighbors]
    context: StepContext

    @property
    def ids(self) -> NDArray[np.int64]:
        """[b, K] neighbour ids, which are waited for."""
        with self.context.channel.busy():
            return self.coming_ids.result()

    def collect(self) -> "StepLookup":
        """Wait for the rows."""
        with self.context.channel.busy():
            self.context.order.collect(self.step)
            return StepLookup(step=self.step, neighbors=self.found.result(), context=self.context)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLookup:
    """The neighbours of a batch are here; the batch's own outputs are still to be written."""

    step: int
    neighbors: Neighbors
    context: StepContext

    def write(self, update: BankUpdate) -> None:
        """Store the rank's outputs of the step; they travel with the next call, and nobody waits for them."""
        assert update.step == self.step, f"outputs of step {update.step} for step {self.step}"
        with self.context.channel.busy():
            self.context.order.write(self.step)
            self.context.channel.thread.soon(self.context.channel.post_write, update)
