"""The actor of one range of sample ids. What a read sees at which step is decided in ``timed_rows.py``.

n = rows asked for, m = samples whose neighbours are asked for, K = neighbours, r = bytes of a record.
"""

import asyncio
import copy
import io
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.bank.attempt import ServedAttempt
from ldlva_dist.bank.checkpoint_parts import PartHeader, RestoredRows, part_file, restore_or_start
from ldlva_dist.bank.copy_on_write import BankSnapshot, CopyOnWriteRows
from ldlva_dist.bank.graph_versions import GraphVersions
from ldlva_dist.bank.ledger import Ledger
from ldlva_dist.bank.records import BankSpec, blank
from ldlva_dist.bank.static_rows import ShardRows
from ldlva_dist.bank.timed_rows import TimedRows
from ldlva_dist.bank.wire import BankAnswer, BankCall
from ldlva_dist.errors import NeighborServiceError
from ldlva_dist.storage import checksums
from ldlva_dist.storage.checksums import Entry, Files

_T = TypeVar("_T")


ReloadBank = Callable[[], Files]
"""Finds the bank's files in the run's last checkpoint; none if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """What a shard says of itself when it is ready."""

    start: int
    """Lowest id."""
    stop: int
    """Highest id + 1."""
    spec: BankSpec
    num_bytes: int
    """Bytes of memory of its arrays."""
    pid: int
    """Process of the actor."""


class BankShard:
    """One id range of a run's bank: static rows, graph rows and stored outputs. All of it is in memory.

    A method that takes a token serves only the attempt of that name.
    """

    def __init__(self, load: Callable[[], ShardRows], spec: BankSpec, reload: ReloadBank | None = None) -> None:
        """Load what never changes.

        Args:
            load: Gives places, labels and graph of the ids.
            spec: Form of the stored outputs.
            reload: With it, a shard that was lost continues from the run's last checkpoint.
        """
        self._static, self._spec, self._reload = load(), spec, reload
        self._start, self._stop = self._static.start, self._static.start + len(self._static.static)
        self._attempt = ServedAttempt(str(self), self._static.graph, spec.timeout_s)
        self._no_records = np.zeros(1, dtype=spec.record)  # source of the rows of an answer that has none
        self._storage = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage")
        self._rejoining = asyncio.Lock()

    async def facts(self) -> ShardFacts:
        """What it holds; answers as soon as everything is loaded."""
        num_bytes = self._static.static.nbytes + self._static.graph.nbytes
        num_bytes += (self._stop - self._start) * self._spec.record.itemsize
        return ShardFacts(start=self._start, stop=self._stop, spec=self._spec, num_bytes=num_bytes, pid=os.getpid())

    async def begin(self, token: str, world_size: int, step: int, files: Files, known_rows: int | None = None) -> None:
        """Start an attempt whose next step is ``step``: as a new bank, or from the files of a checkpoint of that step.

        With ``known_rows`` the files are of another run, and what they hold of the ids below it is taken over. Files
        may be cut at other ids than this shard, which reads those that hold any of its own. A part that is being
        written for an earlier attempt is given up, and messages of earlier attempts are refused from now on.
        """
        self._attempt.require_service()
        if self._attempt.rows:
            self._attempt.rows.drop_all()
        restored = await self._in_thread(partial(self._restore, files, step, known_rows))
        ledger = Ledger(token=token, world_size=world_size, first=step)
        rows = TimedRows(str(self), ledger, restored.visible, restored.pending, self._spec)
        self._attempt.start(rows, restored.graphs)

    async def rejoin(self, token: str, world_size: int, step: int) -> None:
        """Go on with an attempt that this actor's predecessor was lost in, at the request of a rank; more may ask.

        The caller's read of ``step``, or its write of step - 1, was not answered. So no rank can have got an answer to
        its read of step + 2, and every rank will still ask for it: there the rule of time begins again. Reads before it
        are answered at once out of the run's last checkpoint, and writes before it are gone, as those that the
        predecessor had taken since that checkpoint.
        """
        self._attempt.require_service()
        async with self._rejoining:
            if self._attempt.rows:
                self._attempt.require(token)
                return
            restored = await self._in_thread(self._restore_last)
            newest = restored.newest(self._spec.momentum)
            ledger = Ledger(token=token, world_size=world_size, first=step + 2, after_loss=True)
            rows = TimedRows(str(self), ledger, newest, blank(0, 0, self._spec), self._spec)
            self._attempt.start(rows, restored.graphs)

    async def fill(self, token: str, ids: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
        """Put records [n, r] of distinct ids, before anything else happens in an attempt: the first read sees them."""
        self._attempt.require(token).fill(self._places(ids) + self._start, rows)

    async def exchange(self, packed: bytes) -> bytes | NDArray[np.uint8]:
        """Store a rank's outputs of a step, which reads see two steps later, and answer its questions.

        A read sees the rows as its step must; it waits for the ranks that are behind, and for the graph that it names.

        Args:
            packed: A :class:`BankCall`.

        Returns:
            A :class:`BankAnswer` as it travels.
        """
        came, call = time.monotonic(), BankCall.unpack(packed, self._spec)
        places, samples = self._places(call.ids), self._places(call.samples)
        if call.write is not None:
            self._places(call.write.ids)
            self._attempt.require(call.token).write(call.rank, call.write)
            self._attempt.notify()
        graph = await self._attempt.graph(call.token, call.graph) if len(samples) else self._static.graph
        asked = (self._static.static, places), (graph, samples)
        if call.read_step is None:
            return BankAnswer.packed(BankAnswer.gather((self._no_records, places), *asked, came=came))
        step, what = call.read_step, f"the read of step {call.read_step} of rank {call.rank}"
        rows = await self._attempt.until(call.token, lambda now: now.can_read(step), what)
        rows.require_read(step, call.rank)
        answer = BankAnswer.gather((rows.records, places), *asked, came=came)
        rows.finish_read(step, call.rank)
        self._attempt.notify()
        return BankAnswer.packed(answer)

    async def drain(self) -> None:
        """Refuse everything from now on, what waits included."""
        self._attempt.drain()

    async def take_snapshot(self, token: str, step: int) -> None:
        """Keep the rows as of ``step``, the next one, for a checkpoint, while the bank goes on; until they are written.

        Waits for all writes of the steps before it. May be asked for until the caller's own read of step + 1.
        """
        rows = await self._attempt.until_written_before(token, step, "snapshot")
        rows.take_snapshot(step, copy.copy(self._attempt.graphs))

    async def write_snapshot(self, token: str, step: int, uri: str) -> dict[str, Entry]:
        """Write the snapshot of ``step`` into the folder of a checkpoint, from a thread.

        Waits for a graph that was being built when it was taken. A shard that was lost in between and continues writes
        what the last checkpoint held.

        Returns:
            The entry of the file, by its name in the checkpoint.
        """
        snapshot = await self._snapshot_of(token, step)
        try:
            if snapshot.graphs.expected is not None:
                snapshot.graphs.put(
                    snapshot.graphs.expected, await self._attempt.graph(token, snapshot.graphs.expected)
                )
            header = PartHeader(start=self._start, stop=self._stop, step=step)
            return await self._in_thread(partial(_write_part, snapshot, header, uri))
        finally:
            if (rows := self._attempt.rows) and rows.snapshot is snapshot:
                rows.drop_snapshot()

    async def keep_features(self, token: str, step: int, graph: int) -> None:
        """Keep the rows as of ``step`` for graph number ``graph`` of their features; asked for as a snapshot may be."""
        rows = await self._attempt.until_written_before(token, step, "features")
        rows.keep_features(step)
        self._attempt.graphs.expect(graph)

    async def features(self, token: str, step: int, first: int, stop: int) -> NDArray[np.floating]:
        """[stop - first, V] the newest features as of ``step`` of the ids first..stop-1, which were kept."""
        if (kept := self._attempt.require(token).kept_features) is None or kept.step != step:
            raise NeighborServiceError(f"{self} keeps no features as of step {step}")
        places = self._places(np.array([first, stop - 1]))
        return await asyncio.to_thread(kept.features, places[0], places[1] + 1)

    async def drop_features(self, token: str) -> None:
        """Keep them no longer."""
        self._attempt.require(token).drop_features()

    async def put_graph(self, token: str, version: int, first: int, rows: NDArray[np.int32]) -> None:
        """[m, K] the next rows, from id ``first`` on, of the graph expected; who waits goes on with the last."""
        self._attempt.require(token)
        self._attempt.graphs.put(version, rows, first - self._start)
        self._attempt.notify()

    def __str__(self) -> str:
        return f"bank of ids {self._start}..{self._stop - 1}"

    async def _snapshot_of(self, token: str, step: int) -> BankSnapshot:
        """The snapshot of a step; of a shard that was lost meanwhile and continues, the rows of the last checkpoint."""
        rows = self._attempt.rows
        may_be_lost = self._reload is not None and (rows is None or rows.after_loss)
        snapshot = None if may_be_lost and rows is None else self._attempt.require(token).snapshot
        if snapshot and snapshot.step == step:
            return snapshot
        if not may_be_lost:
            raise NeighborServiceError(f"{self} holds no rows as of step {step}")
        newest = (await self._in_thread(self._restore_last)).newest(self._spec.momentum)
        graphs, nothing = GraphVersions(self._static.graph), blank(0, 0, self._spec)
        return BankSnapshot(step=step, rows=CopyOnWriteRows(newest), pending=nothing, graphs=graphs)

    def _restore_last(self) -> RestoredRows:
        return self._restore(self._reload() if self._reload else {}, None)

    def _restore(self, files: Files, step: int | None, known_rows: int | None = None) -> RestoredRows:
        return restore_or_start(files, self._start, self._static.static["label"], self._spec, step, known_rows)

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        """Do something with the storage, one thing after the other, while the shard answers on."""
        return await asyncio.get_running_loop().run_in_executor(self._storage, function)

    def _places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(ids) and not self._start <= ids.min() <= ids.max() < self._stop:
            raise NeighborServiceError(f"{self}: asked for ids {ids.min()}..{ids.max()}")
        return ids - self._start


def _write_part(snapshot: BankSnapshot, header: PartHeader, uri: str) -> dict[str, Entry]:
    """Write a part of a checkpoint into its folder; the entry of the file, by its name there."""
    file = part_file(snapshot.rows, snapshot.pending, header, snapshot.graphs.columns())
    return {header.name: checksums.write(storage.join(uri, header.name), io.BufferedReader(file), file.size)}
