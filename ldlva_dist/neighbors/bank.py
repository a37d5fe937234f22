"""The bank: the last outputs of one range of sample ids, under one rule of time.

**A read for step t sees exactly all ranks' writes of the steps up to t - 2**, never more or less. In every step every
rank sends every shard one read and one write, empty ones too. Writes of step s stay apart until all of them and all
reads of step s + 1 have come, and then become visible together; a read that comes too early waits.
n = rows asked for, m = samples whose neighbours are asked for, K = neighbours, r = bytes of a record.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.data.manifest import read_columns, read_va
from ldlva_dist.errors import DataError, NeighborServiceError
from ldlva_dist.neighbors.graph import read_graph
from ldlva_dist.neighbors.ledger import Ledger
from ldlva_dist.neighbors.outputs import (
    STATIC,
    BankSpec,
    Outputs,
    Write,
    as_records,
    blank,
    from_labels,
    merge,
)
from ldlva_dist.neighbors.snapshots import PartHeader, pack, read_header, unpack


def no_ids() -> NDArray[np.int64]:
    """An empty question."""
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """What never changes about ids start, start + 1, ...; [n] rows each."""

    start: int
    static: NDArray[np.void]
    """[n] STATIC"""
    graph: NDArray[np.int32]
    """[n, K] the ids of the nearest neighbours, nearest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one rank tells and asks one shard at once."""

    rank: int
    write: Write | None = None
    """Its outputs of a step."""
    samples: NDArray[np.int64] = field(default_factory=no_ids)
    """[m] the neighbours' ids of these are asked for."""
    read_step: int | None = None
    """The step that a read is for; None = no read."""
    ids: NDArray[np.int64] = field(default_factory=no_ids)
    """[n] the rows of these are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a call, row by row as asked; views into the one buffer that travels."""

    rows: NDArray[np.uint8]
    """[n, r] records."""
    static: NDArray[np.uint8]
    """[n, bytes of STATIC]"""
    neighbors: NDArray[np.int32]
    """[m, K]"""

    @classmethod
    def of(cls, buffer: NDArray[np.uint8], call: Call, spec: BankSpec) -> "Answer":
        """The parts of a buffer, which travels whole because one array costs less than three."""
        n, cuts = len(call.ids), np.cumsum([len(call.ids) * size for size in (spec.record.itemsize, STATIC.itemsize)])
        rows, static, neighbors = np.split(buffer, cuts)
        m = len(call.samples)
        return cls(
            rows=rows.reshape(n, spec.record.itemsize),
            static=static.reshape(n, STATIC.itemsize),
            neighbors=neighbors.view(np.int32).reshape(m, -1 if m else 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """What a shard says of itself when it is ready."""

    start: int
    stop: int
    num_bytes: int
    """Memory of its arrays."""
    pid: int


def load_rows(dataset_uri: str, start: int, stop: int, k: int) -> ShardRows:
    """The rows of one shard from the data set and its graph."""
    static = np.zeros(stop - start, dtype=STATIC)
    static["va"] = read_va(dataset_uri, start, stop - start)
    static["label"] = read_columns(dataset_uri, ("label",), first_id=start, rows=stop - start)["label"].to_numpy()
    return ShardRows(start=start, static=static, graph=read_graph(dataset_uri, start, stop - start, k)[0])


class BankShard:
    """One id range of a run's bank: static rows, graph rows and stored outputs. All of it is in memory."""

    def __init__(self, load: Callable[[], ShardRows], spec: BankSpec) -> None:
        self._rows, self._spec = load(), spec
        self._start, self._stop = self._rows.start, self._rows.start + len(self._rows.static)
        self._ledger: Ledger | None = None
        self._outputs = blank(self._start, self._stop, spec)
        self._restored = self._young = self._undo = blank(0, 0, spec)
        self._changed = asyncio.Event()

    async def facts(self) -> ShardFacts:
        """What it holds; answers as soon as everything is loaded."""
        arrays = self._rows.static, self._rows.graph, self._outputs.records
        num_bytes = sum(array.nbytes for array in arrays)
        return ShardFacts(start=self._start, stop=self._stop, num_bytes=num_bytes, pid=os.getpid())

    async def begin(self, token: str, world_size: int, step: int, parts: Sequence[bytes]) -> None:
        """Start an attempt whose next step is ``step``: as a new bank, or from the parts of a checkpoint of that step.

        Parts may be cut at other ids than this shard. Messages of earlier attempts are refused from now on.
        """
        outputs, restored = self._new_outputs(), blank(0, 0, self._spec)
        if parts:
            steps = sorted({read_header(part).step for part in parts})
            if steps != [step]:
                raise DataError(f"the bank of the checkpoint must be of step {step}, got steps {steps}")
            outputs, restored = unpack(parts, self._start, self._stop, self._spec)
        self._outputs, self._restored = outputs, restored
        self._young = self._undo = blank(0, 0, self._spec)
        self._ledger = Ledger(token=token, world_size=world_size, first=step)
        self._notify()

    async def fill(self, token: str, ids: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
        """Put records [n, r] of distinct ids, before anything else happens in an attempt: the first read sees them."""
        self._places(ids)
        ledger = self._require(token)
        if not ledger.is_new():
            raise NeighborServiceError(f"{self} is to be filled before the first read and write of an attempt")
        order = np.argsort(ids)
        records = as_records(rows.take(order, axis=0), self._spec.record)
        records["versions"] = ledger.first
        self._outputs.assign(Outputs(ids=ids[order], records=records))

    async def exchange(self, token: str, call: Call) -> NDArray[np.uint8]:
        """Store a rank's outputs of a step, which reads see two steps later, and answer its questions.

        A read sees the rows as its step must; it waits for the ranks that are behind. Neighbours never change.

        Returns:
            The buffer of an :class:`Answer`.
        """
        places, samples = self._places(call.ids), self._places(call.samples)
        if call.write is not None:
            self._places(call.write.ids)
            ledger = self._require(token)
            ledger.note_write(call.rank, call.write)
            self._advance(ledger)
        if call.read_step is None:
            return self._answer(places, samples)
        step = call.read_step
        ledger = await self._until(
            token, lambda now: now.visible >= step - 2, f"the read of step {step} of rank {call.rank}"
        )
        if ledger.visible > step - 2 or call.rank in ledger.reads.get(step, ()):
            raise NeighborServiceError(f"{self}: rank {call.rank} asked for step {step} twice or after it was over")
        answer = self._answer(places, samples)
        ledger.note_read(step, call.rank)
        self._advance(ledger)
        return answer

    async def snapshot(self, token: str, step: int) -> bytes:
        """The shard's part of a checkpoint whose next step is ``step``; waits for all writes of the steps before it.

        May be asked for until the caller's own read of step + 1.
        """
        ledger = await self._until(token, lambda now: now.has_come(step - 1), f"the snapshot of step {step}")
        header = PartHeader(start=self._start, stop=self._stop, step=step)
        if ledger.visible == step - 1:  # another rank went on already
            return pack(self._outputs.replaced(self._undo), self._young, header)
        if ledger.visible != step - 2:
            raise NeighborServiceError(f"{self}: the snapshot of step {step} was asked for after it was over")
        return pack(self._outputs, self._pending(ledger, step - 1), header)

    def __str__(self) -> str:
        return f"bank of ids {self._start}..{self._stop - 1}"

    def _new_outputs(self) -> Outputs:
        if self._spec.label_smoothing is None:
            return blank(self._start, self._stop, self._spec)
        return from_labels(self._start, self._rows.static["label"], self._spec)

    def _places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(ids) and not self._start <= ids.min() <= ids.max() < self._stop:
            raise NeighborServiceError(f"{self}: asked for ids {ids.min()}..{ids.max()}")
        return ids - self._start

    def _answer(self, places: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Everything that was asked for, gathered straight into one buffer."""
        sources = (self._outputs.records, places), (self._rows.static, places), (self._rows.graph, samples)
        row_bytes = [source.strides[0] for source, _ in sources]
        buffer = np.empty(sum(n * len(at) for n, (_, at) in zip(row_bytes, sources, strict=True)), dtype=np.uint8)
        end = 0
        for n, (source, at) in zip(row_bytes, sources, strict=True):
            begin, end = end, end + n * len(at)
            # The places are checked; with "clip" numpy gathers into ``out`` without a copy.
            source.view(np.uint8).reshape(-1, n).take(at, axis=0, out=buffer[begin:end].reshape(-1, n), mode="clip")
        return buffer

    def _pending(self, ledger: Ledger, step: int) -> Outputs:
        """All ranks' outputs of a step that is not visible yet."""
        return self._restored if step < ledger.first else merge(ledger.writes_of(step), self._spec)

    def _advance(self, ledger: Ledger) -> None:
        """Make visible what is due, keeping the last step's old rows for a snapshot."""
        while ledger.is_due():
            self._young = self._pending(ledger, ledger.visible + 1)
            self._undo = self._outputs.put(self._young, self._spec.momentum)
            ledger.pass_step()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _require(self, token: str) -> Ledger:
        if self._ledger is None or self._ledger.token != token:
            raise NeighborServiceError(
                f"{self} does not know attempt {token!r}: "
                "it restarted and lost its state, or the message belongs to an earlier attempt"
            )
        return self._ledger

    async def _until(self, token: str, ready: Callable[[Ledger], bool], what: str) -> Ledger:
        """Wait, within the limit, for other ranks' messages."""
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                while not ready(ledger := self._require(token)):
                    await self._changed.wait()
        except TimeoutError as e:
            raise NeighborServiceError(
                f"{self} held {what} for {self._spec.timeout_s:g} s: {self._require(token).missing()}"
            ) from e
        return ledger
