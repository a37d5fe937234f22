"""The rows of a bank as they stood at a step, while the bank itself goes on."""

import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.graph_versions import GraphVersions
from ldlva_dist.bank.records import BankRows, as_bytes, decode_features
from ldlva_dist.checkpoint.tensor_file import Column
from ldlva_dist.errors import NeighborServiceError


class CopyOnWriteRows:
    """A view, not a copy: rows that are overwritten later are kept here first.

    The bank's own thread calls ``keep`` before it overwrites; any other thread may read meanwhile.
    """

    def __init__(self, live: BankRows, changed: BankRows | None = None) -> None:
        """``live`` are a whole range of ids; ``changed`` some of them with the values that they had at the step."""
        self._live, self._lock = live, threading.Lock()
        self._kept = np.empty(0, dtype=live.records.dtype)
        self._count = 0
        # Where each row stands among those kept, from 1; of an array of zeros only the pages that are written cost.
        self._where = np.zeros(len(live.ids), dtype=np.int32)
        self._is_released = False
        if changed is not None:
            self._add(np.searchsorted(live.ids, changed.ids), changed.records)

    def keep(self, ids: NDArray[np.int64]) -> None:
        """These distinct ids are about to be overwritten."""
        rows = np.searchsorted(self._live.ids, ids)
        new = rows[self._where[rows] == 0]
        self._add(new, self._live.records.take(new))

    @property
    def ids(self) -> NDArray[np.int64]:
        """[n] of all rows."""
        return self._live.ids

    def release(self) -> None:
        """Whoever reads on fails."""
        self._is_released = True

    def column(self, name: str) -> Column:
        """One field of all rows."""
        field = self._live.records[name]
        return Column(dtype=field.dtype, shape=field.shape, rows=partial(self.read, name))

    def read(self, name: str, first: int, last: int) -> NDArray[Any]:
        """[last - first, ...] a field of the rows first..last-1."""
        if self._is_released:
            raise NeighborServiceError("rows as of a step were asked for after they were given up")
        values = self._live.records[name][first:last].copy()
        with self._lock:  # only now: what was overwritten while it was copied is kept already
            places = self._where[first:last]
            changed = np.flatnonzero(places)
            values[changed] = self._kept[name][places[changed] - 1]
        return values

    def _add(self, rows: NDArray[np.intp], records: NDArray[np.void]) -> None:
        end = self._count + len(rows)
        with self._lock:
            if end > len(self._kept):
                more = np.empty(min(2 * end, len(self._where)), dtype=self._kept.dtype)
                as_bytes(more)[: self._count] = as_bytes(self._kept)[: self._count]
                self._kept = more
            as_bytes(self._kept)[self._count : end] = as_bytes(records)
            self._where[rows] = np.arange(self._count + 1, end + 1)
            self._count = end


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsAsOf:
    """One shard's rows as of a step, kept while the bank goes on."""

    step: int
    rows: CopyOnWriteRows
    """Rows as a read of the step sees them."""
    pending: BankRows
    """Writes of the step before, which reads see from the step after on."""

    def features(self, first: int, last: int) -> NDArray[np.floating]:
        """[last - first, V] the newest features of the rows first..last-1: every write before the step counts."""
        records = np.empty(last - first, dtype=self.pending.records.dtype)
        for name in ("scales", "features"):
            if name in (records.dtype.names or ()):
                records[name] = self.rows.read(name, first, last)
        places = np.searchsorted(self.rows.ids, self.pending.ids)
        is_here = (places >= first) & (places < last)
        features = np.array(decode_features(records))  # floats would be a view of records
        features[places[is_here] - first] = decode_features(self.pending.records[is_here])
        return features


@dataclass(frozen=True, slots=True, kw_only=True)
class BankSnapshot(RowsAsOf):
    """One shard's rows as of a step, kept for a part of a checkpoint."""

    graphs: GraphVersions
    """Graphs as they were; one that was being built is still to come."""
