"""One training rank's part of the bank, and its way to all others': what the actors and their client are elsewhere.

Rows are cut over the ranks as the uncertainty table's are, so a step's route (``row_routes.py``) says for both who asks
whom for what. A step makes two exchanges between the devices, of records alone: what is read, and what is written. The
ids of its neighbours come by two over gloo, of which the first travels during the step before.

    find()  the batch's ids set out for the ranks that hold their rows of the graph
    ask()   gives the neighbours' ids
    read()  gives the neighbours' rows, as of the step
    write() stores the batch's outputs

Every call is a collective, made in one order on all ranks. b = rows of one rank, K = neighbours, m = rows read.
"""

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist import storage
from ldlva_dist.bank.checkpoint_parts import PartHeader, part_file, restore_or_start
from ldlva_dist.bank.copy_on_write import CopyOnWriteRows
from ldlva_dist.bank.ledger import StepOrder
from ldlva_dist.bank.on_workers.rank_rows import PendingWrites, RankRows, RowsOfStep
from ldlva_dist.bank.on_workers.record_tensors import LANE, encode, field, lanes_of, static_of, stored_features
from ldlva_dist.bank.records import BankSpec, encode_records
from ldlva_dist.bank.static_rows import ShardRows
from ldlva_dist.bank.wire import Traffic
from ldlva_dist.messages import LABEL, NEVER
from ldlva_dist.method.row_routes import Route, RowRoutes, begin_exchange
from ldlva_dist.method.step import TensorNeighbors
from ldlva_dist.storage import checksums
from ldlva_dist.storage.checksums import Entry, Files


class HostCopies(Protocol):
    """Ways between the host's memory and the device's."""

    device: torch.device

    def inward(self, values: NDArray[Any] | Tensor) -> Tensor:
        """Values on the device."""
        ...

    def outward(self, tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Begin to bring tensors to the host; what is returned waits for them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphQuery:
    """The batch of a step, whose neighbours' ids are on their way."""

    step: int
    samples: NDArray[np.int64]
    """[b]"""
    route: Route | None
    """Their way; None where no neighbours are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborRows:
    """What the bank knows of a batch's neighbours, on the device."""

    near: TensorNeighbors
    """All uncertainty logits are 0 until the table's are known."""
    versions: Callable[[], NDArray[np.int64]]
    """Waits for the steps [b, K] at which the rows were written."""


class RankBank:
    """This rank's rows of a run's bank, and everybody's way to them."""

    def __init__(self, rows: ShardRows, spec: BankSpec, routes: RowRoutes, copies: HostCopies) -> None:
        """Hold nothing yet.

        Args:
            rows: Places, labels and neighbours of this rank's ids.
            spec: Form of the stored outputs.
            routes: How the ids are cut over the ranks.
            copies: Ways to the device that holds the rows.
        """
        self.num_shards = routes.world_size
        self.traffic = Traffic()
        self._static, self._spec, self._routes, self._copies = rows, spec, routes, copies
        self._graph_nK = torch.from_numpy(rows.graph)
        self._rows: RankRows | None = None
        self._order, self._kept = StepOrder(), dict[int, RowsOfStep]()

    def begin(self, step: int, files: Files, limit_s: float | None = None, known_rows: int | None = None) -> None:
        """Take this rank's rows out of a checkpoint of ``step``, cut wherever; without files, a new bank's.

        With ``known_rows`` the files are of another run, and the ids below it are taken over. ``limit_s`` is for those
        who wait for others; each rank reads by itself.
        """
        labels = self._static.static["label"]
        restored = restore_or_start(files, self._routes.start, labels, self._spec, step, known_rows)
        self._rows = RankRows(restored, self._static.static, self._spec, self._copies.device)
        self._order = StepOrder()

    def fill(self, ids: NDArray[np.int64], probs: NDArray[np.floating], features: NDArray[np.floating]) -> None:
        """Give distinct rows [b] their first outputs, [b, C] and [b, V], as if the first step's weights wrote them."""
        route = self._routes.begin(ids)
        self._routes.finish(route)
        lanes = self._copies.inward(lanes_of(encode_records(probs, features, self._spec, version=0), self._spec))
        filled = self._send_writes(route, lanes, step=0)
        filled.wait()
        self._held.fill(filled.rows_m, filled.lanes)

    def find(self, step: int, samples: NDArray[np.int64]) -> GraphQuery:
        """Begin a step: ask whose neighbours its batch [b] has."""
        has_graph = self._graph_nK.shape[1] > 0
        return GraphQuery(step=step, samples=samples, route=self._routes.begin(samples) if has_graph else None)

    def ask(self, query: GraphQuery) -> NDArray[np.int64]:
        """[b, K] the ids of the neighbours, and as the last column the row's own where the bank is asked for it."""
        own_b1, route = query.samples[:, None], query.route
        with self._busy():
            self._order.ask(query.step)
            if route is None:
                return own_b1
            self._routes.finish(route)
            answers = self._graph_nK[route.asked - self._routes.start]
            found = self._routes.exchange(answers, route.received_W2[:, 0], route.sent_W2[:, 0]).wait()
            ids_bK = torch.empty_like(found)
            ids_bK[route.order_n] = found
        near = ids_bK.numpy().astype(np.int64)
        return np.column_stack([near, own_b1]) if self._spec.own_row else near

    def route(self, ids: NDArray[np.int64], batch_rows: int) -> Route:
        """Begin the way of a step's rows: first of its batch, then of all that :meth:`ask` gave."""
        return self._routes.begin(ids, batch_rows)

    def read(self, step: int, route: Route) -> NeighborRows:
        """The neighbours' rows as of a step."""
        with self._busy():
            self._order.collect(step)
            self._routes.finish(route)
            lanes = self._exchange_rows(route)
        return self._decoded(lanes, route.batch_rows)

    def write(self, step: int, route: Route, positions: NDArray[np.int32], outputs: tuple[Tensor, Tensor]) -> None:
        """Store the outputs, [b, C] and [b, V] on the device, of the batch of a step that was read."""
        with self._busy():
            self._order.write(step)
            lanes = encode(*outputs, self._copies.inward(positions.astype(np.int64)), spec=self._spec)
            self._held.write(self._send_writes(route, lanes, step))
            self._routes.send_ids()  # of the steps after it, unless the uncertainty table did so

    def take_snapshot(self, step: int, shard_indices: Sequence[int]) -> None:
        """Copy this rank's rows as of ``step``, the next one, into the host's memory, until they are written."""
        self._order.stand_before(step)
        ranks = shard_indices if self._routes.start < self._routes.stop else []  # there may be more ranks than rows
        self._kept = {rank: self._held.as_of_now(step) for rank in ranks}

    def write_snapshot(
        self, step: int, shard_indices: Sequence[int], uri: str, limit_s: float
    ) -> Callable[[], dict[str, Entry]]:
        """What writes the copy into the folder of a checkpoint, and gives the file's entry; in any thread."""

        def write() -> dict[str, Entry]:
            written = {}
            for rank in shard_indices:
                if (rows := self._kept.pop(rank, None)) is None:
                    continue
                assert rows.step == step, f"the rows of step {rows.step} are kept, not those of {step}"
                header = PartHeader(start=self._routes.start, stop=self._routes.stop, step=step)
                file = part_file(CopyOnWriteRows(rows.visible), rows.pending, header)
                where = storage.join(uri, header.name)
                written[header.name] = checksums.write(where, io.BufferedReader(file), file.size)
            return written

        return write

    @property
    def _held(self) -> RankRows:
        assert self._rows, "the bank has begun"
        return self._rows

    def _exchange_rows(self, route: Route) -> Tensor:
        """Lanes [m, row] of the ids behind the batch's, in their order."""
        asked = route.asked_of_batch(others=True) - self._routes.start
        sent = self._held.read(self._copies.inward(asked))
        received_W, sent_W = (counts[:, 0] - counts[:, 1] for counts in (route.received_W2, route.sent_W2))
        came, _ = self._begin_exchange(sent, received_W, sent_W, wait=True)
        self.traffic.add(bytes_read=came.numel() * LANE)
        order = route.order_n[route.order_n >= route.batch_rows] - route.batch_rows
        return came.index_select(0, self._copies.inward(torch.argsort(order)))

    def _send_writes(self, route: Route, lanes: Tensor, step: int) -> PendingWrites:
        """Bring the lanes of a batch to the ranks that hold its rows; this rank's are on their way."""
        order = route.order_n[route.order_n < route.batch_rows]
        sent = lanes.index_select(0, self._copies.inward(order))
        came, work = self._begin_exchange(sent, route.sent_W2[:, 1], route.received_W2[:, 1])
        self.traffic.add(bytes_written=sent.numel() * LANE)
        rows = self._copies.inward(route.asked_of_batch() - self._routes.start)
        return PendingWrites(step=step, rows_m=rows, lanes=came, coming=work)

    def _begin_exchange(
        self, values: Tensor, sent_W: Tensor, received_W: Tensor, *, wait: bool = False
    ) -> tuple[Tensor, dist.Work | None]:
        """Rows that come from the other ranks' devices, by rank, and what brings them; on a single rank its own."""
        if self._routes.group is None:
            return values, None
        came = values.new_empty(int(received_W.sum()), values.shape[1])
        work = begin_exchange(came, values, sent_W, received_W)
        if wait:
            work.wait()
        return came, work

    def _decoded(self, lanes: Tensor, batch_rows: int) -> NeighborRows:
        shape = batch_rows, len(lanes) // batch_rows
        spec, versions_m = self._spec, field(lanes, "versions", self._spec)
        va_m2, labels_m = static_of(lanes, spec)
        versions = self._copies.outward({"versions": versions_m})
        near = TensorNeighbors(
            va_BK2=va_m2.reshape(*shape, 2),
            labels_BK=labels_m.reshape(shape),
            probs_BKC=field(lanes, "probs", spec).float().reshape(*shape, spec.num_classes),
            features_BKV=stored_features(lanes, spec).float().reshape(*shape, spec.feature_width),
            usable_BK=(versions_m != NEVER).reshape(shape),
            label_only_BK=(versions_m == LABEL).reshape(shape),
            logit_BK=torch.zeros(len(lanes), device=lanes.device).reshape(shape),
        )
        return NeighborRows(near=near, versions=lambda: versions()["versions"].numpy().reshape(shape))

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Count the time inside as time that the training thread spends on lookups."""
        began = time.monotonic()
        yield
        self.traffic.add(busy_s=time.monotonic() - began)
