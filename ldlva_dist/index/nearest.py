"""The k nearest samples of some queries, and how the answers of two sets of samples become that of both.

n = queries, k = neighbours, N = all samples. Nearer comes first; of two equally far the one whose id comes first when
counting round from the query's own id, so that no sample of many on one point is everybody's neighbour.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """Samples nearest to each query, nearest first."""

    ids: NDArray[Any]
    """[n, k]; -1 where fewer than k samples exist."""
    squared: NDArray[Any]
    """[n, k] squared distances; infinite where the id is -1. Those in float64 are exact."""

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows_m: Any) -> "Nearest":
        """Some of the queries."""
        return Nearest(ids=self.ids[rows_m], squared=self.squared[rows_m])

    @property
    def radius(self) -> Floats:
        """[n] not less than the squared distance of the last neighbour: nothing farther can be one."""
        last_n = self.squared[:, -1]
        return last_n if last_n.dtype == np.float64 else np.nextafter(last_n, np.float32(np.inf)).astype(np.float64)


def empty_result(num_queries: int, k: int) -> Nearest:
    """The answer of a set without samples: no neighbour of any query."""
    return Nearest(ids=np.full((num_queries, k), -1), squared=np.full((num_queries, k), np.inf))


def merge_nearest(one: Nearest, other: Nearest, ids_n: Ids, num_samples: int) -> Nearest:
    """The nearest of both, for queries that count ties from the ids ``ids_n``."""
    k = one.ids.shape[1]
    ids = np.concatenate([one.ids, other.ids], axis=1)
    squared = np.concatenate([one.squared, other.squared], axis=1)
    order = np.argsort(squared, axis=1, kind="stable")
    ordered = np.take_along_axis(squared, order, axis=1)
    tied = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & np.isfinite(ordered[:, 1:])).any(axis=1))
    if len(tied):
        turn = (ids[tied] - ids_n[tied, None]) % num_samples
        order[tied] = np.lexsort((turn, squared[tied]), axis=1)
    order = order[:, :k]
    return Nearest(ids=np.take_along_axis(ids, order, axis=1), squared=np.take_along_axis(squared, order, axis=1))


def pad_to(found: Nearest, k: int) -> Nearest:
    """The same with room for k neighbours."""
    if found.ids.shape[1] == k:
        return found
    missing = ((0, 0), (0, k - found.ids.shape[1]))
    return Nearest(
        ids=np.pad(found.ids, missing, constant_values=-1),
        squared=np.pad(found.squared, missing, constant_values=np.inf),
    )
