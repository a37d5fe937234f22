"""One rank's calls to the shards of a bank: all that it has to say to a shard travels in one call where it can.

A write, and a question for neighbours' ids, are posted: they travel with the next read, and nobody waits for them.
Calls are packed, sent, waited for and put together in a thread of the channel's own, while the network learns.
b = rows of one rank, n = rows asked for, K = neighbours, S = shards.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from ray import ObjectRef

from ldlva_dist.bank.records import Write, as_bytes, encode_records
from ldlva_dist.bank.service import NeighborService
from ldlva_dist.bank.wire import BankAnswer, BankCall, Traffic, no_ids
from ldlva_dist.messages import BankUpdate
from ldlva_dist.runtime.waiting import ShardsLost, get_all

MAX_IN_FLIGHT = 2
_T = TypeVar("_T")
PATIENCE = 1.25  # times the limit of a shard: one that waits for a rank gives up first, as it can name the rank


@dataclass(kw_only=True)
class CallRound:
    """Calls to some shards, one each, and what comes of them."""

    calls: dict[int, BankCall]
    """Calls by shard."""
    refs: dict[int, ObjectRef[Any]]
    """Answers to come, by shard."""
    step: int | None
    """First step whose read is not answered yet; None where the calls have nothing to do with steps."""
    is_read: bool
    """Whether they ask for rows."""
    what: str
    """Purpose of the calls, for errors."""
    answers: dict[int, BankAnswer] | None = None
    """Answers by shard; None until they were waited for."""


@dataclass(kw_only=True)
class IdQuery:
    """A question for the ids of the neighbours of a batch."""

    samples: NDArray[np.int64]
    """[b] ids of the batch."""
    owner: NDArray[np.int64]
    """[b] shard of each."""
    graph: int
    """Graph that the neighbours come from."""
    sent: CallRound | None = None
    """Calls that it travelled with; None while it is posted."""


class CallThread:
    """Does one thing after the other in a thread of its own; what follows on a failure fails with it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bank-calls")
        self._last: Future[Any] | None = None

    def soon(self, job: Callable[..., _T], *arguments: Any) -> Future[_T]:
        """Do something after all that came before.

        A job waits for answers alone, each with a limit, so that its end may be waited for without one.
        """
        before = self._last

        def after_it() -> _T:
            if before:
                before.result()
            return job(*arguments)

        self._last = future = self._pool.submit(after_it)
        return future


class ShardChannel:
    """All calls of one rank to the shards in one attempt; a lost shard is asked again where the run allows it.

    What posts, sends or waits for rounds is done in its thread, one thing after the other; :meth:`get` is for any.
    """

    def __init__(self, service: NeighborService, *, rank: int, world_size: int, token: str, timeout_s: float) -> None:
        """No message is sent yet; the arguments are those of :class:`NeighborClient`."""
        self.shards, self.spec, self.token = service.shards, service.spec, token
        self.bounds = np.asarray(service.bounds)
        """[S + 1] shard i holds the ids bounds[i]..bounds[i + 1] - 1."""
        self.timeout_s = PATIENCE * timeout_s
        self.traffic = Traffic()
        self._rank, self._world_size = rank, world_size
        self._survives_loss = service.on_loss == "continue"
        self._posted_write: BankUpdate | None = None
        self._posted_ids: IdQuery | None = None
        self._in_flight: deque[CallRound] = deque()
        self._buffers: dict[str, NDArray[np.uint8]] = {}
        self.thread = CallThread()

    def owner(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] shard of each id."""
        return np.searchsorted(self.bounds, ids, side="right") - 1

    def post_ids(self, samples: NDArray[np.int64], graph: int) -> IdQuery:
        """Ask for the neighbours' ids of a batch [b]; travels with the next call."""
        if self._posted_ids:
            self._send("for neighbour ids")
        self._posted_ids = IdQuery(samples=samples, owner=self.owner(samples), graph=graph)
        return self._posted_ids

    def wait_ids(self, query: IdQuery, k: int) -> NDArray[np.int64]:
        """[b, K] the answer to a question; one that is still posted is sent first."""
        sent = self._send("for neighbour ids") if query is self._posted_ids else query.sent
        assert sent, "the question was posted, and another one sent it"
        answers = self._wait(sent)
        ids = np.empty((len(query.samples), k), dtype=np.int64)
        for i in np.unique(query.owner).tolist():
            ids[query.owner == i] = answers[i].neighbors[:, :k]
        return ids

    def post_write(self, update: BankUpdate) -> None:
        """Store the rank's outputs of a step; they travel with the next call."""
        self.flush_write()
        self._posted_write = update

    def flush_write(self) -> None:
        """Send a write that is posted; does not wait for it."""
        if self._posted_write:
            self._send("to take a write")

    def read(self, step: int, ids: NDArray[np.int64]) -> CallRound:
        """Ask all shards for the rows of distinct ids [n], ascending, as of a step."""
        return self._send(f"for step {step}", step, ids)

    def wait_rows(self, sent: CallRound) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The records and static values [n, bytes] that a read asked for; the next one overwrites them."""
        answers = self._wait(sent)
        parts = [answers[i] for i in range(len(self.shards))]
        return self._join("rows", [part.rows for part in parts]), self._join("static", [part.static for part in parts])

    def settle(self) -> None:
        """Send what is posted, and wait until everything that was sent is answered."""
        self.flush_write()
        while self._in_flight:
            self._wait(self._in_flight.popleft())

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count the time inside as time that the training thread spends on lookups."""
        began = time.monotonic()
        yield
        self.traffic.add(busy_s=time.monotonic() - began)

    def get(
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
            refs: Answers to come, by shard.
            what: Purpose of the question, for errors.
            send: Asks a shard the same once more.
            step: See :meth:`BankShard.rejoin`; None for questions that need no attempt.
            again: Ask again whatever ``bank.on_loss`` says.
            limit_s: Seconds in place of the channel's own limit.
        """
        limit_s = self.timeout_s if limit_s is None else limit_s
        deadline, refs, lost = time.monotonic() + limit_s, dict(refs), list[int]()
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                if lost and step is not None:
                    joining = [self.shards[i].rejoin.remote(self.token, self._world_size, step) for i in lost]
                    get_all(joining, left, "to continue after a loss", lost)
                refs |= {i: send(i) for i in lost}
                lost.clear()
                return dict(zip(refs, get_all(list(refs.values()), left, what, list(refs)), strict=True))
            except ShardsLost as e:
                if not (again or self._survives_loss) or time.monotonic() > deadline:
                    raise
                lost = sorted({*lost, *e.shards})

    def _send(self, what: str, read_step: int | None = None, ids: NDArray[np.int64] | None = None) -> CallRound:
        """One call to every shard that is concerned, with all that is posted; does not wait for the answers.

        Only the oldest of the calls before it may be waited for; its answer holds up no rank.
        """
        while len(self._in_flight) >= MAX_IN_FLIGHT:
            self._wait(self._in_flight.popleft())
        query, update = self._posted_ids, self._posted_write
        self._posted_ids = self._posted_write = None
        writes = self._split_write(update) if update else [None] * len(self.shards)
        ids = no_ids() if ids is None else ids
        reads = np.split(ids, np.searchsorted(ids, self.bounds[1:-1]))
        calls = {}
        for i in range(len(self.shards)):
            samples = query.samples[query.owner == i] if query else no_ids()
            if update or read_step is not None or len(samples):
                calls[i] = BankCall(
                    token=self.token,
                    rank=self._rank,
                    write=writes[i],
                    samples=samples,
                    graph=query.graph if query else 0,
                    read_step=read_step,
                    ids=reads[i],
                )
        refs = {i: self._exchange(i, call) for i, call in calls.items()}
        step = update.step + 1 if update and read_step is None else read_step
        sent = CallRound(calls=calls, refs=refs, step=step, is_read=read_step is not None, what=what)
        if query:
            query.sent = sent
        self._in_flight.append(sent)
        return sent

    def _wait(self, sent: CallRound) -> dict[int, BankAnswer]:
        """The answers, by shard."""
        if sent.answers is None:
            came = self.get(sent.refs, sent.what, lambda i: self._exchange(i, sent.calls[i]), sent.step)
            sent.answers = {i: BankAnswer.of(answer, sent.calls[i], self.spec) for i, answer in came.items()}
            held_s = max(answer.held_s for answer in sent.answers.values()) if sent.is_read else 0.0
            self.traffic.add(bytes_read=sum(len(answer) for answer in came.values()), shard_s=held_s)
        return sent.answers

    def _exchange(self, shard: int, call: BankCall) -> ObjectRef[Any]:
        return self.shards[shard].exchange.remote(call.pack())

    def _split_write(self, update: BankUpdate) -> list[Write]:
        rows = as_bytes(encode_records(update.probs, update.features, self.spec, update.step))
        owner = self.owner(update.ids)
        self.traffic.add(bytes_written=rows.nbytes)
        return [
            Write(step=update.step, positions=update.positions[own], ids=update.ids[own], rows=rows[own])
            for own in (np.flatnonzero(owner == i) for i in range(len(self.shards)))
        ]

    def _join(self, name: str, parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """All shards' rows, in memory that is kept from step to step: fresh pages would cost three times the copy."""
        n = sum(len(part) for part in parts)
        if name not in self._buffers or len(self._buffers[name]) < n:
            self._buffers[name] = np.empty((n, parts[0].shape[1]), dtype=np.uint8)
        return np.concatenate(parts, out=self._buffers[name][:n])
