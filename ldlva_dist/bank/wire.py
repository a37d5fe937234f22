"""What a rank tells and asks a shard in one call, and what it answers: one run of bytes either way.

n = rows asked for, m = samples whose neighbours are asked for, K = neighbours, r = bytes of a record.
"""

import threading
import time
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.records import STATIC, BankSpec, Write

TOKEN_BYTES = 32
HEADER = Struct(f"<{TOKEN_BYTES}s7q")
"""Of a call: token, rank, graph, step of the read, step of the write, m, n, rows written."""
NO_STEP = -1
HELD = np.dtype(np.float64)
MESSAGE_BYTES = 256 << 10
"""A smaller answer travels as bytes; a larger one is read in place, from Ray's object store (runtime/connect.py)."""


def no_ids() -> NDArray[np.int64]:
    """An empty question."""
    return np.zeros(0, dtype=np.int64)


NO_WRITE = Write(step=NO_STEP, positions=np.zeros(0, np.int32), ids=no_ids(), rows=np.zeros((0, 0), np.uint8))


@dataclass(frozen=True, slots=True, kw_only=True)
class BankCall:
    """What one rank tells and asks one shard at once."""

    token: str
    """The attempt that it belongs to; at most 32 bytes."""
    rank: int
    write: Write | None = None
    """Its outputs of a step."""
    samples: NDArray[np.int64] = field(default_factory=no_ids)
    """[m] the neighbours' ids of these are asked for."""
    graph: int = 0
    """The graph that they are to come from (graph_versions.py)."""
    read_step: int | None = None
    """The step that a read is for; None = no read."""
    ids: NDArray[np.int64] = field(default_factory=no_ids)
    """[n] the rows of these are asked for."""

    def pack(self) -> bytes:
        """The header, samples, ids, and of the write ids, rows and positions. Ray carries bytes as they are."""
        token, write = self.token.encode(), self.write or NO_WRITE
        assert len(token) <= TOKEN_BYTES, f"a token has at most {TOKEN_BYTES} bytes, got {self.token!r}"
        read_step = NO_STEP if self.read_step is None else self.read_step
        lengths = len(self.samples), len(self.ids), len(write.ids)
        header = HEADER.pack(token, self.rank, self.graph, read_step, write.step, *lengths)
        arrays = [np.ascontiguousarray(ids, np.int64) for ids in (self.samples, self.ids, write.ids)]
        arrays += [write.rows, np.ascontiguousarray(write.positions, np.int32)]
        return b"".join([header, *(array.data for array in arrays)])

    @classmethod
    def unpack(cls, data: bytes, spec: BankSpec) -> "BankCall":
        """The same call; its arrays are views of ``data``."""
        token, rank, graph, read_step, write_step, m, n, w = HEADER.unpack_from(data)
        numbers, r = np.frombuffer(data, np.int64, m + n + w, HEADER.size), spec.record.itemsize
        at = HEADER.size + numbers.nbytes
        rows, positions = np.frombuffer(data, np.uint8, w * r, at), np.frombuffer(data, np.int32, w, at + w * r)
        write = Write(step=write_step, positions=positions, ids=numbers[m + n :], rows=rows.reshape(w, r))
        return cls(
            token=token.rstrip(b"\0").decode(),
            rank=rank,
            write=None if write_step == NO_STEP else write,
            samples=numbers[:m],
            graph=graph,
            read_step=None if read_step == NO_STEP else read_step,
            ids=numbers[m : m + n],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BankAnswer:
    """The answer to a call, row by row as asked; views into what travels."""

    rows: NDArray[np.uint8]
    """[n, r] records."""
    static: NDArray[np.uint8]
    """[n, bytes of STATIC]"""
    neighbors: NDArray[np.int32]
    """[m, K]"""
    held_s: float
    """Seconds that the call was held, waiting for other ranks included."""

    @classmethod
    def of(cls, sent: bytes | NDArray[np.uint8], call: BankCall, spec: BankSpec) -> "BankAnswer":
        """The parts of what :meth:`packed` sent, which travels whole because one thing costs less than three."""
        n, m = len(call.ids), len(call.samples)
        buffer, end = np.frombuffer(sent, np.uint8), HELD.itemsize
        rows = buffer[end : (end := end + n * spec.record.itemsize)]
        static = buffer[end : (end := end + n * STATIC.itemsize)]
        return cls(
            rows=rows.reshape(n, spec.record.itemsize),
            static=static.reshape(n, STATIC.itemsize),
            neighbors=buffer[end:].view(np.int32).reshape(m, -1 if m else 0),
            held_s=buffer[: HELD.itemsize].view(HELD).item(),
        )

    @staticmethod
    def packed(buffer: NDArray[np.uint8]) -> bytes | NDArray[np.uint8]:
        """The form in which a buffer travels: bytes in Ray's message, which it does not pickle, or an array."""
        return buffer.tobytes() if buffer.nbytes < MESSAGE_BYTES else buffer

    @staticmethod
    def gather(*sources: tuple[NDArray[Any], NDArray[np.int64]], came: float) -> NDArray[np.uint8]:
        """The buffer of an answer to a call that came at a moment: of each source some rows, copied once.

        Args:
            sources: For rows, static and neighbors: C-contiguous rows, and which of them; none may be out of range.
            came: ``time.monotonic()`` of then.
        """
        sizes = [source.strides[0] for source, _ in sources]
        ends = np.cumsum([HELD.itemsize, *(size * len(at) for size, (_, at) in zip(sizes, sources, strict=True))])
        buffer = np.empty(ends[-1], dtype=np.uint8)
        for size, begin, end, (source, at) in zip(sizes, ends[:-1], ends[1:], sources, strict=True):
            if not size:  # a bank without neighbours
                continue
            # With "clip" numpy gathers into ``out`` without a copy.
            target = buffer[begin:end].reshape(-1, size)
            source.view(np.uint8).reshape(-1, size).take(at, axis=0, out=target, mode="clip")
        buffer[: HELD.itemsize].view(HELD)[0] = time.monotonic() - came
        return buffer


@dataclass(slots=True)
class Traffic:
    """Counts of one client, added to by its threads; whoever logs them sets them back."""

    busy_s: float = 0.0
    """Seconds that the training thread spent in the client: sending, and waiting for the lookups."""
    shard_s: float = 0.0
    """Seconds from a question's arrival at the slowest shard to its answer, waiting for other ranks included."""
    bytes_read: int = 0
    bytes_written: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, *, busy_s: float = 0.0, shard_s: float = 0.0, bytes_read: int = 0, bytes_written: int = 0) -> None:
        """Count some more."""
        with self._lock:
            self.busy_s += busy_s
            self.shard_s += shard_s
            self.bytes_read += bytes_read
            self.bytes_written += bytes_written

    def drain(self) -> "Traffic":
        """The counts so far; counting begins anew."""
        with self._lock:
            counted = Traffic(self.busy_s, self.shard_s, self.bytes_read, self.bytes_written)
            self.busy_s = self.shard_s = 0.0
            self.bytes_read = self.bytes_written = 0
        return counted
