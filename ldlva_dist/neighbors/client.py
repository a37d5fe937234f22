"""The client that every training worker holds: its only way to the bank.

What a rank has to say to a shard travels in one call where it can: the write of step t, the question for the neighbours
of a later batch, and the read of step t + 2. b = rows of one rank, K = neighbours, S = shards.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from ray import ObjectRef

from ldlva_dist.messages import BankUpdate, Neighbors
from ldlva_dist.neighbors.answers import get_all
from ldlva_dist.neighbors.bank import Answer, Call, no_ids
from ldlva_dist.neighbors.outputs import STATIC, BankSpec, Write, as_bytes, as_records, decode_features, encode
from ldlva_dist.neighbors.service import NeighborService
from ldlva_dist.neighbors.snapshots import read_header

MAX_IN_FLIGHT = 2
PATIENCE = 1.25  # times the limit of a shard: one that waits for a rank gives up first, as it can name the rank


@dataclass(kw_only=True)
class Round:
    """Calls to some shards, one each, and what comes of them."""

    calls: dict[int, Call]
    """By shard."""
    refs: dict[int, ObjectRef[Any]]
    spec: BankSpec
    timeout_s: float
    what: str

    @cached_property
    def answers(self) -> dict[int, Answer]:
        """By shard; waits for them."""
        buffers = get_all(list(self.refs.values()), self.timeout_s, self.what, list(self.refs))
        return {i: Answer.of(buffer, self.calls[i], self.spec) for i, buffer in zip(self.refs, buffers, strict=True)}


@dataclass(kw_only=True)
class PendingIds:
    """A question for neighbours' ids; it travels with the next call."""

    samples: NDArray[np.int64]
    """[b]"""
    owner: NDArray[np.int64]
    """[b] the shard of each."""
    sent: Round | None = None


@dataclass(frozen=True, kw_only=True)
class PendingRows:
    """Rows of the bank that were asked for, each once."""

    ids: NDArray[np.int64]
    """[b, K] neighbour ids."""
    place: NDArray[np.int64]
    """[b K] where each id stands among the distinct ones."""
    sent: Round


class NeighborClient:
    """One training worker's door to the bank. In every step: ask, collect and write once each, in this order per step.

    ``begin`` is called by one rank, and must have returned before any rank fills or asks.
    """

    def __init__(
        self, service: NeighborService, *, rank: int, world_size: int, token: str, k: int, timeout_s: float
    ) -> None:
        self.num_shards = len(service.shards)
        self._shards, self._bounds, self._spec = service.shards, np.asarray(service.bounds), service.spec
        self._rank, self._world_size, self._token, self._k = rank, world_size, token, k
        self._timeout_s = PATIENCE * timeout_s
        self._update: BankUpdate | None = None
        self._found: PendingIds | None = None
        self._in_flight: deque[Round] = deque()

    def begin(self, step: int, parts: Sequence[bytes] = ()) -> None:
        """Start the attempt whose next step is ``step`` on all shards: as a new bank, or from a checkpoint's parts."""
        headers = [read_header(part) for part in parts]
        refs = []
        for shard, start, stop in zip(self._shards, self._bounds[:-1], self._bounds[1:], strict=True):
            own = [part for part, header in zip(parts, headers, strict=True) if header.overlaps(start, stop)]
            refs.append(shard.begin.remote(self._token, self._world_size, step, own))
        get_all(refs, self._timeout_s, "to begin")

    def fill(self, ids: NDArray[np.int64], probs: NDArray[np.floating], features: NDArray[np.floating]) -> None:
        """Give distinct rows [n] their first outputs, [n, C] and [n, V], as if the first step's weights wrote them.

        All ranks' calls must have returned before any rank asks.
        """
        rows = as_bytes(encode(probs, features, self._spec, version=0))
        owner = self._owner(ids)
        shards = np.unique(owner).tolist()
        refs = [self._shards[i].fill.remote(self._token, ids[owner == i], rows[owner == i]) for i in shards]
        get_all(refs, self._timeout_s, "to be filled", shards)

    def find(self, ids: NDArray[np.int64]) -> PendingIds:
        """Ask the graph for the neighbours' ids of a batch; the question travels with the next call."""
        if self._found:
            self._send("for neighbour ids")
        self._found = PendingIds(samples=ids, owner=self._owner(ids))
        return self._found

    def ask(self, step: int, found: PendingIds) -> PendingRows:
        """Ask the bank for the neighbours' rows as of ``step``; waits for the ids.

        Ids that were asked for before the last question are here with its answer, at the latest.
        """
        if found is self._found:
            self._send("for neighbour ids")
        ids = self._neighbors(found)
        distinct, place = np.unique(ids, return_inverse=True)
        sent = self._send(f"for step {step}", step, distinct)
        return PendingRows(ids=ids, place=place.ravel(), sent=sent)

    def collect(self, asked: PendingRows) -> Neighbors:
        """Wait for the answer to a question."""
        answers, shape = asked.sent.answers, asked.ids.shape

        def rows(name: str, dtype: np.dtype[Any]) -> NDArray[np.void]:
            distinct = np.concatenate([getattr(answers[i], name) for i in range(self.num_shards)])
            return as_records(distinct.take(asked.place, axis=0), dtype).reshape(shape)

        records, static = rows("rows", self._spec.record), rows("static", STATIC)
        return Neighbors(
            ids=asked.ids,
            va=static["va"],
            labels=static["label"].astype(np.int64),
            probs=records["probs"],
            features=decode_features(records),
            versions=records["versions"],
        )

    def write(self, update: BankUpdate) -> None:
        """Store the rank's outputs of a step; they travel with the next call, and nobody waits for them."""
        if self._update:
            self._send("to take a write")
        self._update = update

    def snapshot(self, step: int, shard_indices: Sequence[int]) -> dict[str, bytes]:
        """Checkpoint parts of some shards, by file name, as of ``step``: the next one, which no rank has written.

        Every rank calls it between its write of step - 1 and its question for step + 1, also with no shards to save.
        """
        if self._update:
            self._send("to take a write")
        while self._in_flight:
            _ = self._in_flight.popleft().answers
        refs = [self._shards[i].snapshot.remote(self._token, step) for i in shard_indices]
        parts = cast(list[bytes], get_all(refs, self._timeout_s, f"for a snapshot of step {step}", shard_indices))
        return {
            f"ids-{self._bounds[i]:012d}-{self._bounds[i + 1]:012d}.safetensors": part
            for i, part in zip(shard_indices, parts, strict=True)
        }

    def _send(self, what: str, read_step: int | None = None, distinct: NDArray[np.int64] | None = None) -> Round:
        """One call to every shard that is concerned, with all that waits to be said; does not wait for the answers.

        Only the oldest of the calls before it may be waited for; its answer holds up no rank.
        """
        while len(self._in_flight) >= MAX_IN_FLIGHT:
            _ = self._in_flight.popleft().answers
        found, update = self._found, self._update
        self._found = self._update = None
        writes = self._split_update(update) if update else [None] * self.num_shards
        distinct = no_ids() if distinct is None else distinct
        reads = np.split(distinct, np.searchsorted(distinct, self._bounds[1:-1]))
        calls = {}
        for i in range(self.num_shards):
            samples = found.samples[found.owner == i] if found else no_ids()
            if update or read_step is not None or len(samples):
                calls[i] = Call(rank=self._rank, write=writes[i], samples=samples, read_step=read_step, ids=reads[i])
        refs = {i: self._shards[i].exchange.remote(self._token, call) for i, call in calls.items()}
        sent = Round(calls=calls, refs=refs, spec=self._spec, timeout_s=self._timeout_s, what=what)
        if found:
            found.sent = sent
        self._in_flight.append(sent)
        return sent

    def _neighbors(self, found: PendingIds) -> NDArray[np.int64]:
        """[b, K] the answer to a question that was sent."""
        assert found.sent, "the question was sent"
        ids = np.empty((len(found.samples), self._k), dtype=np.int64)
        for i in np.unique(found.owner).tolist():
            ids[found.owner == i] = found.sent.answers[i].neighbors[:, : self._k]
        return ids

    def _split_update(self, update: BankUpdate) -> list[Write]:
        rows = as_bytes(encode(update.probs, update.features, self._spec, update.step))
        owner = self._owner(update.ids)
        return [
            Write(step=update.step, positions=update.positions[own], ids=update.ids[own], rows=rows[own])
            for own in (np.flatnonzero(owner == i) for i in range(self.num_shards))
        ]

    def _owner(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._bounds, ids, side="right") - 1
