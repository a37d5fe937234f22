"""What a rank tells and asks a shard in one call, and the one buffer that is the answer.

n = rows asked for, m = samples whose neighbours are asked for, K = neighbours, r = bytes of a record.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.neighbors.outputs import STATIC, BankSpec, Write

HELD = np.dtype(np.float64)


def no_ids() -> NDArray[np.int64]:
    """An empty question."""
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one rank tells and asks one shard at once."""

    rank: int
    write: Write | None = None
    """Its outputs of a step."""
    samples: NDArray[np.int64] = field(default_factory=no_ids)
    """[m] the neighbours' ids of these are asked for."""
    graph: int = 0
    """The graph that they are to come from (graphs.py)."""
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
    held_s: float
    """Seconds that the call was held, waiting for other ranks included."""

    @classmethod
    def of(cls, buffer: NDArray[np.uint8], call: Call, spec: BankSpec) -> "Answer":
        """The parts of a buffer, which travels whole because one array costs less than three."""
        n, m = len(call.ids), len(call.samples)
        cuts = np.cumsum([HELD.itemsize, n * spec.record.itemsize, n * STATIC.itemsize])
        held, rows, static, neighbors = np.split(buffer, cuts)
        return cls(
            rows=rows.reshape(n, spec.record.itemsize),
            static=static.reshape(n, STATIC.itemsize),
            neighbors=neighbors.view(np.int32).reshape(m, -1 if m else 0),
            held_s=held.view(HELD).item(),
        )
