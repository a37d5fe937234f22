"""The bank: the last outputs of one range of sample ids, under one rule of time.

**A read for step t sees exactly all ranks' writes of the steps up to t - 2**, never more or less. In every step every
rank sends every shard one read and one write, empty ones too. Writes of step s stay apart until all of them and all
reads of step s + 1 have come, and then become visible together; a read that comes too early waits.
n = rows asked for, K = neighbours, C = classes, V = feature width.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.data.manifest import read_columns, read_va
from ldlva_dist.errors import DataError, NeighborServiceError
from ldlva_dist.messages import BankUpdate
from ldlva_dist.neighbors.graph import read_graph
from ldlva_dist.neighbors.ledger import Ledger
from ldlva_dist.neighbors.outputs import BankSpec, Outputs, PartHeader, blank, merge, pack, read_header, unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """What never changes about ids start, start + 1, ...; [n] rows each."""

    start: int
    va: NDArray[np.float32]
    """[n, 2]"""
    labels: NDArray[np.int64]
    """[n]"""
    graph: NDArray[np.int32]
    """[n, K] the ids of the nearest neighbours, nearest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BankRows:
    """The answer to a read, row by row as asked."""

    va: NDArray[np.float32]
    """[n, 2]"""
    labels: NDArray[np.int64]
    """[n]"""
    probs: NDArray[np.floating]
    """[n, C] zeros where never written."""
    features: NDArray[np.floating]
    """[n, V] zeros where never written."""
    versions: NDArray[np.int64]
    """[n] step of the last write; -1 = never."""


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
    labels = read_columns(dataset_uri, ("label",), first_id=start, rows=stop - start)["label"]
    return ShardRows(
        start=start,
        va=read_va(dataset_uri, start, stop - start),
        labels=labels.to_numpy().astype(np.int64),
        graph=read_graph(dataset_uri, start, stop - start, k)[0],
    )


class BankShard:
    """One id range of a run's bank: static rows, graph rows and stored outputs. All of it is in memory."""

    def __init__(self, load: Callable[[], ShardRows], spec: BankSpec) -> None:
        self._rows, self._spec = load(), spec
        self._start, self._stop = self._rows.start, self._rows.start + len(self._rows.labels)
        self._ledger: Ledger | None = None
        self._outputs = blank(self._start, self._stop, spec)
        self._restored = self._young = self._undo = blank(0, 0, spec)
        self._changed = asyncio.Event()

    async def facts(self) -> ShardFacts:
        """What it holds; answers as soon as everything is loaded."""
        static = self._rows.va, self._rows.labels, self._rows.graph
        stored = self._outputs.probs, self._outputs.features, self._outputs.versions
        num_bytes = sum(array.nbytes for array in (*static, *stored))
        return ShardFacts(start=self._start, stop=self._stop, num_bytes=num_bytes, pid=os.getpid())

    async def neighbors(self, ids: NDArray[np.int64], k: int) -> NDArray[np.int32]:
        """[n, k] ids of the nearest neighbours, nearest first; they never change."""
        return self._rows.graph[self._places(ids), :k]

    async def begin(self, token: str, world_size: int, step: int, parts: Sequence[bytes]) -> None:
        """Start an attempt whose next step is ``step``: empty, or from the parts of a checkpoint as of that step.

        Parts may be cut at other ids than this shard. Messages of earlier attempts are refused from now on.
        """
        outputs, restored = blank(self._start, self._stop, self._spec), blank(0, 0, self._spec)
        if parts:
            steps = sorted({read_header(part).step for part in parts})
            if steps != [step]:
                raise DataError(f"the bank of the checkpoint must be of step {step}, got steps {steps}")
            outputs, restored = unpack(parts, self._start, self._stop, self._spec)
        self._outputs, self._restored = outputs, restored
        self._young = self._undo = blank(0, 0, self._spec)
        self._ledger = Ledger(token=token, world_size=world_size, first=step)
        self._notify()

    async def read(self, token: str, step: int, rank: int, ids: NDArray[np.int64]) -> BankRows:
        """The rows as a read of ``step`` must see them; waits for the ranks that are behind."""
        places = self._places(ids)
        ledger = await self._until(
            token, lambda now: now.visible >= step - 2, f"the read of step {step} of rank {rank}"
        )
        if ledger.visible > step - 2 or rank in ledger.reads.get(step, ()):
            raise NeighborServiceError(f"{self}: rank {rank} asked for step {step} twice or after it was over")
        outputs = self._outputs.take(places)
        ledger.note_read(step, rank)
        self._advance(ledger)
        return BankRows(
            va=self._rows.va[places],
            labels=self._rows.labels[places],
            probs=outputs.probs,
            features=outputs.features,
            versions=outputs.versions,
        )

    async def write(self, token: str, rank: int, update: BankUpdate) -> None:
        """Store a rank's outputs of one step; they become visible to reads two steps later."""
        self._places(update.ids)
        ledger = self._require(token)
        ledger.note_write(update.step, rank, update)
        self._advance(ledger)

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

    def _places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(ids) and not self._start <= ids.min() <= ids.max() < self._stop:
            raise NeighborServiceError(f"{self}: asked for ids {ids.min()}..{ids.max()}")
        return ids - self._start

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
