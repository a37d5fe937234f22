"""A shard's rows of the graphs of one run: the data set's, and those found anew in feature space, whole or not at all.

n = rows held, K = neighbours.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.errors import NeighborServiceError

GRAPHS_KEPT = 2
"""Graphs held at once: ranks may be two steps apart, graphs are further apart."""


class GraphVersions:
    """Graph 0 is the data set's; a later one is expected from the step at which its features were taken."""

    def __init__(self, rows_nK: NDArray[np.int32]) -> None:
        self._rows = {0: rows_nK}
        self.expected: int | None = None
        """The graph that is being built."""
        self._coming_nK, self._came = rows_nK, 0

    @property
    def versions(self) -> list[int]:
        """The graphs held, ascending."""
        return sorted(self._rows)

    @property
    def num_bytes(self) -> int:
        """Memory of the rows held."""
        return sum(rows.nbytes for rows in self._rows.values())

    def expect(self, version: int) -> None:
        """From now on a snapshot waits for this graph."""
        if version != self.versions[-1] + 1:
            raise NeighborServiceError(f"graph {version} was begun while the newest is {self.versions[-1]}")
        self.expected = version

    def put(self, version: int, rows_mK: NDArray[np.int32], first: int = 0) -> None:
        """Copy rows first, first + 1, ... of the graph that is expected; with the last of them let the oldest go."""
        newest = self._rows[self.versions[-1]]
        if not first:
            self._coming_nK, self._came = np.empty_like(newest), 0
        stop = first + len(rows_mK)
        fits = first == self._came and stop <= len(newest) and rows_mK.shape[1:] == newest.shape[1:]
        if version != self.expected or not fits:
            raise NeighborServiceError(
                f"graph {version} came with rows {rows_mK.shape} from row {first}, expected was {self.expected} with "
                f"{newest.shape} from row {self._came}"
            )
        self._coming_nK[first:stop], self._came = rows_mK, stop
        if stop == len(newest):
            self._rows = {kept: self._rows[kept] for kept in self.versions[1 - GRAPHS_KEPT :]}
            self._rows[version] = self._coming_nK
            self.expected = None

    def has(self, version: int) -> bool:
        """Whether the graph is here already."""
        return version <= self.versions[-1]

    def rows(self, version: int) -> NDArray[np.int32]:
        """[n, K] of a graph that is here."""
        if version not in self._rows:
            raise NeighborServiceError(f"graph {version} was asked for after it was over; held are {self.versions}")
        return self._rows[version]

    def columns(self) -> dict[str, NDArray[np.int32]]:
        """What a checkpoint must keep, by name: every graph but the data set's."""
        return {f"graph_{version}": rows for version, rows in self._rows.items() if version}

    @classmethod
    def restored(cls, dataset_nK: NDArray[np.int32], columns: Mapping[str, NDArray[np.int32]]) -> "GraphVersions":
        """The graphs of a checkpoint, as :meth:`columns` gave them, beside the data set's."""
        graphs = cls(dataset_nK)
        found = {int(name.removeprefix("graph_")): rows for name, rows in columns.items()}
        if found:
            graphs._rows = ({0: dataset_nK} if min(found) == 1 and len(found) < GRAPHS_KEPT else {}) | found
        return graphs
