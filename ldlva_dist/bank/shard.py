"""The bank: the last outputs of one range of sample ids, under one rule of time.

**A read for step t sees exactly all ranks' writes of the steps up to t - 2**, never more or less. In every step every
rank sends every shard one read and one write, empty ones too. Writes of step s stay apart until all of them and all
reads of step s + 1 have come, and then become visible together; a read that comes too early waits.
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
from ldlva_dist.bank.checkpoint_parts import PartHeader, Restored, part_file, unpack
from ldlva_dist.bank.copy_on_write import FrozenRows, Held
from ldlva_dist.bank.graph_versions import Graphs
from ldlva_dist.bank.ledger import Ledger
from ldlva_dist.bank.records import BankSpec, Outputs, as_records, blank, decode_features, from_labels, merge
from ldlva_dist.bank.static_rows import ShardRows
from ldlva_dist.bank.wire import Answer, Call
from ldlva_dist.errors import NeighborServiceError, StateLost
from ldlva_dist.storage import checksums
from ldlva_dist.storage.checksums import Entry, Files

T = TypeVar("T")


Recall = Callable[[], Files]
"""The bank's files in the run's last checkpoint; none if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """What a shard says of itself when it is ready."""

    start: int
    stop: int
    spec: BankSpec
    num_bytes: int
    """Memory of its arrays."""
    pid: int


class BankShard:
    """One id range of a run's bank: static rows, graph rows and stored outputs. All of it is in memory."""

    def __init__(self, load: Callable[[], ShardRows], spec: BankSpec, recall: Recall | None = None) -> None:
        """``recall`` reads the run's last checkpoint, for a shard that goes on after a loss."""
        self._rows, self._spec, self._recall = load(), spec, recall
        self._start, self._stop = self._rows.start, self._rows.start + len(self._rows.static)
        self._ledger: Ledger | None = None
        self._graphs = Graphs(self._rows.graph)
        self._outputs = blank(self._start, self._stop, spec)
        self._restored = self._young = self._undo = blank(0, 0, spec)
        self._held: Held | None = None
        self._storage = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage")
        self._changed = asyncio.Event()
        self._rejoining = asyncio.Lock()
        self._is_drained = False

    async def facts(self) -> ShardFacts:
        """What it holds; answers as soon as everything is loaded."""
        arrays = self._rows.static, self._rows.graph, self._outputs.records
        num_bytes = sum(array.nbytes for array in arrays)
        return ShardFacts(start=self._start, stop=self._stop, spec=self._spec, num_bytes=num_bytes, pid=os.getpid())

    async def begin(self, token: str, world_size: int, step: int, files: Files) -> None:
        """Start an attempt whose next step is ``step``: as a new bank, or from the files of a checkpoint of that step.

        Files may be cut at other ids than this shard, which reads those that hold any of its own. A part that is being
        written for an earlier attempt is given up, and messages of earlier attempts are refused from now on.
        """
        self._require_service()
        self._release()
        restored = await self._in_thread(partial(self._read, files, step))
        self._graphs = Graphs.restored(self._rows.graph, restored.graphs)
        self._outputs, self._restored = restored.old, restored.young
        self._young = self._undo = blank(0, 0, self._spec)
        self._ledger = Ledger(token=token, world_size=world_size, first=step)
        self._notify()

    async def rejoin(self, token: str, world_size: int, step: int) -> None:
        """Go on with an attempt that this actor's predecessor was lost in, at the request of a rank; more may ask.

        The caller's read of ``step``, or its write of step - 1, was not answered. So no rank can have got an answer to
        its read of step + 2, and every rank will still ask for it: there the rule of time begins again. Reads before it
        are answered at once out of the run's last checkpoint, and writes before it are gone, as those that the
        predecessor had taken since that checkpoint.
        """
        self._require_service()
        async with self._rejoining:
            if self._ledger is not None:
                self._require(token)
                return
            restored = await self._in_thread(self._read_last)
            self._graphs = Graphs.restored(self._rows.graph, restored.graphs)
            self._outputs = restored.newest(self._spec.momentum)
            self._ledger = Ledger(token=token, world_size=world_size, first=step + 2, after_loss=True)

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

    async def exchange(self, packed: bytes) -> NDArray[np.uint8]:
        """Store a rank's outputs of a step, which reads see two steps later, and answer its questions.

        A read sees the rows as its step must; it waits for the ranks that are behind, and for the graph that it names.

        Args:
            packed: A :class:`Call`.

        Returns:
            The buffer of an :class:`Answer`.
        """
        came, call = time.monotonic(), Call.unpack(packed, self._spec)
        places, samples = self._places(call.ids), self._places(call.samples)
        if call.write is not None:
            self._places(call.write.ids)
            ledger = self._require(call.token)
            if not ledger.lost(call.write.step):
                ledger.note_write(call.rank, call.write)
                self._advance(ledger)
        graph = await self._graph(call.token, call.graph) if len(samples) else self._rows.graph
        if call.read_step is None:
            return self._answer(places, samples, graph, came)
        step = call.read_step
        ledger = await self._until(
            call.token, lambda now: now.visible >= step - 2, f"the read of step {step} of rank {call.rank}"
        )
        if ledger.lost(step):
            return self._answer(places, samples, graph, came)
        if ledger.visible > step - 2 or call.rank in ledger.reads.get(step, ()):
            raise NeighborServiceError(f"{self}: rank {call.rank} asked for step {step} twice or after it was over")
        answer = self._answer(places, samples, graph, came)
        ledger.note_read(step, call.rank)
        self._advance(ledger)
        return answer

    async def drain(self) -> None:
        """Refuse everything from now on, what waits included."""
        self._is_drained = True
        self._notify()

    async def hold(self, token: str, step: int) -> None:
        """Keep the rows as of ``step``, the next one, for a checkpoint, while the bank goes on; until they are written.

        Waits for all writes of the steps before it. May be asked for until the caller's own read of step + 1.
        """
        changed, young = await self._as_of(token, step, f"the snapshot of step {step}")
        self._release()
        old = FrozenRows(self._outputs, changed)
        self._held = Held(step=step, old=old, young=young, graphs=copy.copy(self._graphs))

    async def write_held(self, token: str, step: int, uri: str) -> dict[str, Entry]:
        """Write the rows that are held as of ``step`` into the folder of a checkpoint, from a thread.

        Waits for a graph that was being built when they were taken. A shard that was lost in between and goes on writes
        what the last checkpoint held.

        Returns:
            The entry of the file, by its name in the checkpoint.
        """
        held = await self._held_as_of(token, step)
        try:
            if held.graphs.expected is not None:
                held.graphs.put(held.graphs.expected, await self._graph(token, held.graphs.expected))
            header = PartHeader(start=self._start, stop=self._stop, step=step)
            file = part_file(held.old, held.young, header, held.graphs.columns())
            write = partial(checksums.write, storage.join(uri, header.name), io.BufferedReader(file), file.size)
            return {header.name: await self._in_thread(write)}
        finally:
            if self._held is held:
                self._release()

    async def features(self, token: str, step: int, graph: int) -> tuple[NDArray[np.floating], None]:
        """[n, V] the newest features as of ``step``, out of which graph number ``graph`` will be made.

        May be asked for as rows may be held. The second value only tells that the first is there.
        """
        changed, young = await self._as_of(token, step, f"the features of step {step}")
        self._graphs.expect(graph)
        features = np.array(decode_features(self._outputs.records))  # floats would be a view of the bank itself
        for some in (changed, young):
            features[np.searchsorted(self._outputs.ids, some.ids)] = decode_features(some.records)
        return features, None

    async def put_graph(self, token: str, version: int, rows: NDArray[np.int32]) -> None:
        """[n, K] the graph that was expected; questions and snapshots that waited for it go on."""
        self._require(token)
        self._graphs.put(version, rows)
        self._notify()

    def __str__(self) -> str:
        return f"bank of ids {self._start}..{self._stop - 1}"

    async def _held_as_of(self, token: str, step: int) -> Held:
        """What is held as of a step; of a shard that was lost meanwhile and goes on, what the last checkpoint held."""
        is_lost = self._recall is not None and (self._ledger is None or self._ledger.after_loss)
        if self._ledger is not None or not is_lost:
            self._require(token)
        if self._held and self._held.step == step:
            return self._held
        if not is_lost:
            raise NeighborServiceError(f"{self} holds no rows as of step {step}")
        restored = await self._in_thread(self._read_last)
        old = FrozenRows(restored.newest(self._spec.momentum))
        return Held(step=step, old=old, young=blank(0, 0, self._spec), graphs=Graphs(self._rows.graph))

    def _release(self) -> None:
        """Hold no rows any more; a part that is being written is given up."""
        if self._held:
            self._held.old.release()
        self._held = None

    def _read_last(self) -> Restored:
        return self._read(self._recall() if self._recall else {})

    def _read(self, files: Files, step: int | None = None) -> Restored:
        """This shard's rows of a checkpoint; without files, of a new bank."""
        if files:
            return unpack(files, self._start, self._stop, self._spec, step)
        return Restored(old=self._new_outputs(), young=blank(0, 0, self._spec), graphs={})

    async def _in_thread(self, function: Callable[[], T]) -> T:
        """Do something with the storage, one thing after the other, while the shard answers on."""
        return await asyncio.get_running_loop().run_in_executor(self._storage, function)

    def _new_outputs(self) -> Outputs:
        if self._spec.label_smoothing is None:
            return blank(self._start, self._stop, self._spec)
        return from_labels(self._start, self._rows.static["label"], self._spec)

    def _places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(ids) and not self._start <= ids.min() <= ids.max() < self._stop:
            raise NeighborServiceError(f"{self}: asked for ids {ids.min()}..{ids.max()}")
        return ids - self._start

    async def _as_of(self, token: str, step: int, what: str) -> tuple[Outputs, Outputs]:
        """The rows that were other when a read of ``step`` saw them, and those that become visible after it."""
        ledger = await self._until(token, lambda now: now.has_come(step - 1), what)
        nothing = blank(0, 0, self._spec)
        if ledger.lost(step):
            return nothing, nothing
        if ledger.visible == step - 1:  # another rank went on already
            return self._undo, self._young
        if ledger.visible != step - 2:
            raise NeighborServiceError(f"{self}: {what} was asked for after it was over")
        return nothing, self._pending(ledger, step - 1)

    async def _graph(self, token: str, version: int) -> NDArray[np.int32]:
        """[n, K] of a graph; waits, within the limit, for one that is being built."""
        if self._graphs.has(version):
            return self._graphs.rows(version)
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                while not self._graphs.has(version):
                    self._require(token)
                    await self._changed.wait()
        except TimeoutError as e:
            raise NeighborServiceError(
                f"{self} waited {self._spec.timeout_s:g} s for graph {version}: the index takes longer than half of "
                "index.rebuild_every_epochs"
            ) from e
        return self._graphs.rows(version)

    def _answer(
        self, places: NDArray[np.int64], samples: NDArray[np.int64], graph: NDArray[np.int32], came: float
    ) -> NDArray[np.uint8]:
        sources = (self._outputs.records, places), (self._rows.static, places), (graph, samples)
        return Answer.gather(*sources, came=came)

    def _pending(self, ledger: Ledger, step: int) -> Outputs:
        """All ranks' outputs of a step that is not visible yet."""
        return self._restored if step < ledger.first else merge(ledger.writes_of(step), self._spec)

    def _advance(self, ledger: Ledger) -> None:
        """Make visible what is due, keeping the last step's old rows for a snapshot."""
        while ledger.is_due():
            self._young = self._pending(ledger, ledger.visible + 1)
            if self._held:
                self._held.old.keep(self._young.ids)
            self._undo = self._outputs.put(self._young, self._spec.momentum)
            ledger.pass_step()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _require(self, token: str) -> Ledger:
        self._require_service()
        if self._ledger is None:
            raise StateLost(f"{self} does not know attempt {token!r}: it restarted and lost its state")
        if self._ledger.token != token:
            raise NeighborServiceError(
                f"{self} does not know attempt {token!r}: the message belongs to an earlier attempt"
            )
        return self._ledger

    def _require_service(self) -> None:
        if self._is_drained:
            raise NeighborServiceError(f"{self} takes nothing more: its service was drained")

    async def _until(self, token: str, ready: Callable[[Ledger], bool], what: str) -> Ledger:
        """Wait, within the limit, for other ranks' messages."""
        if ready(ledger := self._require(token)):
            return ledger
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                while not ready(ledger := self._require(token)):
                    await self._changed.wait()
        except TimeoutError as e:
            raise NeighborServiceError(
                f"{self} held {what} for {self._spec.timeout_s:g} s: {self._require(token).missing()}"
            ) from e
        return ledger
