"""The client that every training worker holds: its only way to the bank.

What a rank has to say to a shard travels in one call where it can: the write of step t, the question for the neighbours
of a later batch, and the read of step t + 2. b = rows of one rank, K = neighbours, S = shards.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import ObjectRef

from ldlva_dist.bank.pending import PendingIds, PendingRows, Round
from ldlva_dist.bank.records import STATIC, Write, as_bytes, as_records, decode_features, encode_records
from ldlva_dist.bank.service import NeighborService
from ldlva_dist.bank.wire import BankAnswer, BankCall, Traffic, no_ids
from ldlva_dist.messages import BankUpdate, Neighbors
from ldlva_dist.runtime.waiting import ShardsLost, get_all
from ldlva_dist.storage.checksums import Entry, Files

MAX_IN_FLIGHT = 2
PATIENCE = 1.25  # times the limit of a shard: one that waits for a rank gives up first, as it can name the rank


class NeighborClient:
    """One training worker's door to the bank. In every step: ask, collect and write once each, in this order per step.

    ``begin`` is called by one rank, and must have returned before any rank fills or asks.
    """

    def __init__(
        self, service: NeighborService, *, rank: int, world_size: int, token: str, k: int, timeout_s: float
    ) -> None:
        self.num_shards = len(service.shards)
        self.traffic = Traffic()
        self._shards, self._bounds, self._spec = service.shards, np.asarray(service.bounds), service.spec
        self._rank, self._world_size, self._token, self._k = rank, world_size, token, k
        self._timeout_s = PATIENCE * timeout_s
        self._update: BankUpdate | None = None
        self._found: PendingIds | None = None
        self._goes_on = service.on_loss == "continue"
        self._in_flight: deque[Round] = deque()
        self._kept: dict[str, NDArray[np.uint8]] = {}

    @property
    def bounds(self) -> list[int]:
        """[S + 1] shard i holds the ids bounds[i]..bounds[i + 1] - 1."""
        return self._bounds.tolist()

    def begin(self, step: int, files: Files = MappingProxyType({}), limit_s: float | None = None) -> None:
        """Start the attempt whose next step is ``step`` on all shards: as a new bank, or from a checkpoint's files.

        Each shard reads what it needs, which may take ``limit_s`` in place of the limit of all other questions.
        """

        def begin(i: int) -> ObjectRef[Any]:
            return self._shards[i].begin.remote(self._token, self._world_size, step, dict(files))

        # A shard may just have been lost: that is why there is a new attempt.
        refs = {i: begin(i) for i in range(self.num_shards)}
        self._get(refs, f"to begin at step {step}", begin, again=True, limit_s=limit_s)

    def fill(self, ids: NDArray[np.int64], probs: NDArray[np.floating], features: NDArray[np.floating]) -> None:
        """Give distinct rows [n] their first outputs, [n, C] and [n, V], as if the first step's weights wrote them.

        All ranks' calls must have returned before any rank asks.
        """
        rows = as_bytes(encode_records(probs, features, self._spec, version=0))
        owner = self._owner(ids)
        shards = np.unique(owner).tolist()
        refs = [self._shards[i].fill.remote(self._token, ids[owner == i], rows[owner == i]) for i in shards]
        get_all(refs, self._timeout_s, "to be filled", shards)

    def find(self, ids: NDArray[np.int64], graph: int = 0) -> PendingIds:
        """Ask a graph for the neighbours' ids of a batch; the question travels with the next call."""
        with self._busy():
            if self._found:
                self._send("for neighbour ids")
            self._found = PendingIds(samples=ids, owner=self._owner(ids), graph=graph)
            return self._found

    def ask(self, step: int, found: PendingIds) -> PendingRows:
        """Ask the bank for the neighbours' rows as of ``step``; waits for the ids.

        Ids that were asked for before the last question are here with its answer, at the latest.
        """
        with self._busy():
            if found is self._found:
                self._send("for neighbour ids")
            ids = self._neighbors(found)
            distinct, place = np.unique(ids, return_inverse=True)
            sent = self._send(f"for step {step}", step, distinct)
            return PendingRows(ids=ids, place=place.ravel(), graph=found.graph, sent=sent)

    def collect(self, asked: PendingRows) -> Neighbors:
        """Wait for the answer to a question."""
        with self._busy():
            answers, shape = self._wait(asked.sent), asked.ids.shape

            def rows(name: str, dtype: np.dtype[Any]) -> NDArray[np.void]:
                distinct = self._join(name, [getattr(answers[i], name) for i in range(self.num_shards)])
                return as_records(distinct.take(asked.place, axis=0), dtype).reshape(shape)

            records, static = rows("rows", self._spec.record), rows("static", STATIC)
            return Neighbors(
                ids=asked.ids,
                va=static["va"],
                labels=static["label"].astype(np.int64),
                probs=records["probs"],
                features=decode_features(records),
                versions=records["versions"],
                graph=asked.graph,
            )

    def write(self, update: BankUpdate) -> None:
        """Store the rank's outputs of a step; they travel with the next call, and nobody waits for them."""
        with self._busy():
            if self._update:
                self._send("to take a write")
            self._update = update

    def take_snapshot(self, step: int, shard_indices: Sequence[int]) -> None:
        """Let some shards keep their rows as of ``step``, the next one, which no rank has written, for a checkpoint.

        Every rank calls it between its write of step - 1 and its question for step + 1, also with no shards to save.
        """
        if self._update:
            self._send("to take a write")

        def take(i: int) -> ObjectRef[Any]:
            return self._shards[i].take_snapshot.remote(self._token, step)

        self._get({i: take(i) for i in shard_indices}, f"to keep the rows of step {step}", take, step)

    def write_snapshot(
        self, step: int, shard_indices: Sequence[int], uri: str, limit_s: float
    ) -> Callable[[], dict[str, Entry]]:
        """Let some shards write the rows that they hold into the folder of a checkpoint; may be called in any thread.

        Returns:
            What waits for the entries of the files, by their names in the checkpoint; it gives up a while before
            ``limit_s`` from now on are over, as it can name the shard.
        """

        def write(i: int) -> ObjectRef[Any]:
            return self._shards[i].write_snapshot.remote(self._token, step, uri)

        limit_s /= PATIENCE
        refs, deadline = {i: write(i) for i in shard_indices}, time.monotonic() + limit_s
        what = f"to write its part of {uri} within {limit_s:.3g} s"

        def wait() -> dict[str, Entry]:
            entries = self._get(refs, what, write, limit_s=max(0.0, deadline - time.monotonic()))
            return {name: entry for some in entries.values() for name, entry in some.items()}

        return wait

    def take_features(self, step: int, graph: int) -> list[ObjectRef[Any]]:
        """References to all shards' features [n, V] as of ``step``, for graph number ``graph``; when they are copied.

        To be called by one rank, when rows may be held.
        """
        self._settle()
        refs = [shard.features.options(num_returns=2).remote(self._token, step, graph) for shard in self._shards]
        get_all([done for _, done in refs], self._timeout_s, f"for the features of step {step}")
        return [features for features, _ in refs]

    def put_graph(self, version: int, parts: Sequence[ObjectRef[Any]]) -> None:
        """Give every shard its rows [n, K] of a graph; may be called from another thread."""
        refs = [
            shard.put_graph.remote(self._token, version, part) for shard, part in zip(self._shards, parts, strict=True)
        ]
        get_all(refs, self._timeout_s, f"to take graph {version}")

    def _join(self, name: str, parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """All shards' rows, in memory that is kept from step to step: fresh pages would cost three times the copy."""
        n = sum(len(part) for part in parts)
        if name not in self._kept or len(self._kept[name]) < n:
            self._kept[name] = np.empty((n, parts[0].shape[1]), dtype=np.uint8)
        return np.concatenate(parts, out=self._kept[name][:n])

    def _settle(self) -> None:
        """Send what waits to be said, and wait until everything that was sent is answered."""
        if self._update:
            self._send("to take a write")
        while self._in_flight:
            self._wait(self._in_flight.popleft())

    @contextmanager
    def _busy(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.traffic.busy_s += time.monotonic() - began

    def _send(self, what: str, read_step: int | None = None, distinct: NDArray[np.int64] | None = None) -> Round:
        """One call to every shard that is concerned, with all that waits to be said; does not wait for the answers.

        Only the oldest of the calls before it may be waited for; its answer holds up no rank.
        """
        while len(self._in_flight) >= MAX_IN_FLIGHT:
            self._wait(self._in_flight.popleft())
        found, update = self._found, self._update
        self._found = self._update = None
        writes = self._split_update(update) if update else [None] * self.num_shards
        distinct = no_ids() if distinct is None else distinct
        reads = np.split(distinct, np.searchsorted(distinct, self._bounds[1:-1]))
        calls = {}
        for i in range(self.num_shards):
            samples = found.samples[found.owner == i] if found else no_ids()
            if update or read_step is not None or len(samples):
                calls[i] = BankCall(
                    token=self._token,
                    rank=self._rank,
                    write=writes[i],
                    samples=samples,
                    graph=found.graph if found else 0,
                    read_step=read_step,
                    ids=reads[i],
                )
        refs = {i: self._exchange(i, call) for i, call in calls.items()}
        step = update.step + 1 if update and read_step is None else read_step
        sent = Round(calls=calls, refs=refs, step=step, is_read=read_step is not None, what=what)
        if found:
            found.sent = sent
        self._in_flight.append(sent)
        return sent

    def _neighbors(self, found: PendingIds) -> NDArray[np.int64]:
        """[b, K] the answer to a question that was sent."""
        assert found.sent, "the question was sent"
        answers = self._wait(found.sent)
        ids = np.empty((len(found.samples), self._k), dtype=np.int64)
        for i in np.unique(found.owner).tolist():
            ids[found.owner == i] = answers[i].neighbors[:, : self._k]
        return ids

    def _wait(self, sent: Round) -> dict[int, BankAnswer]:
        """The answers, by shard."""
        if sent.answers is None:
            buffers = self._get(sent.refs, sent.what, lambda i: self._exchange(i, sent.calls[i]), sent.step)
            sent.answers = {i: BankAnswer.of(buffer, sent.calls[i], self._spec) for i, buffer in buffers.items()}
            self.traffic.bytes_read += sum(buffer.nbytes for buffer in buffers.values())
            if sent.is_read:
                self.traffic.shard_s += max(answer.held_s for answer in sent.answers.values())
        return sent.answers

    def _get(
        self,
        refs: Mapping[int, ObjectRef[Any]],
        what: str,
        send: Callable[[int], ObjectRef[Any]],
        step: int | None = None,
        *,
        again: bool = False,
        limit_s: float | None = None,
    ) -> dict[int, Any]:
        """What shards answer. With ``bank.on_loss=continue`` one that was lost takes the attempt up and is asked again.

        Ray starts it again meanwhile, and holds what is sent to it until then.

        Args:
            refs: By shard.
            what: For errors.
            send: Asks a shard the same once more.
            step: See :meth:`BankShard.rejoin`; None for questions that need no attempt.
            again: Ask again whatever ``bank.on_loss`` says.
            limit_s: In place of the client's own limit.
        """
        limit_s = self._timeout_s if limit_s is None else limit_s
        deadline, refs, lost = time.monotonic() + limit_s, dict(refs), list[int]()
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                if lost and step is not None:
                    joining = [self._shards[i].rejoin.remote(self._token, self._world_size, step) for i in lost]
                    get_all(joining, left, "to go on after a loss", lost)
                refs |= {i: send(i) for i in lost}
                lost.clear()
                return dict(zip(refs, get_all(list(refs.values()), left, what, list(refs)), strict=True))
            except ShardsLost as e:
                if not (again or self._goes_on) or time.monotonic() > deadline:
                    raise
                lost = sorted({*lost, *e.shards})

    def _exchange(self, shard: int, call: BankCall) -> ObjectRef[Any]:
        return self._shards[shard].exchange.remote(call.pack())

    def _split_update(self, update: BankUpdate) -> list[Write]:
        rows = as_bytes(encode_records(update.probs, update.features, self._spec, update.step))
        owner = self._owner(update.ids)
        self.traffic.bytes_written += rows.nbytes
        return [
            Write(step=update.step, positions=update.positions[own], ids=update.ids[own], rows=rows[own])
            for own in (np.flatnonzero(owner == i) for i in range(self.num_shards))
        ]

    def _owner(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._bounds, ids, side="right") - 1
