"""Keys of their own for different rows whose slugs are the same. A = accepted rows."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.data.packing.places import Places
from ldlva_dist.data.packing.survey import key_hash
from ldlva_dist.data.shards import key_apart
from ldlva_dist.errors import DataError


def tell_apart(places: Places) -> pa.Array | None:
    """[A] the new keys of accepted rows whose keys meet, null for the others; None where no keys meet.

    A new key follows from part and name, and from nothing else: not from the other rows, nor from their order.

    Raises:
        DataError: for rows of one part and one name, which a source gives only to rows that are one.
    """
    row_A = np.flatnonzero(places.found.code_N < 0)
    meet_A = _meet(places.found.hash_N[row_A])
    if not meet_A.any():
        return None
    rows_n = row_A[meet_A]
    table = places.look_up(rows_n, ["key", "name"])
    parts = [places.partitions[number].part for number in places.found.partition_of(rows_n).tolist()]
    names = [f"{part}/{name}" for part, name in zip(parts, table["name"].to_pylist(), strict=True)]
    keys = [key_apart(key, name) for key, name in zip(table["key"].to_pylist(), names, strict=True)]
    places.found.hash_N[rows_n] = [key_hash(key) for key in keys]
    twins_A = _meet(places.found.hash_N[row_A])
    if twins_A.any():
        raise DataError(f"rows of one name cannot be told apart: {', '.join(places.of(row_A[twins_A][:2]))}")
    key_A = np.full(len(row_A), None, dtype=object)
    key_A[meet_A] = keys
    return pa.array(key_A, pa.string())


def _meet(hash_A: NDArray[np.uint64]) -> NDArray[np.bool_]:
    _, group_A, count = np.unique(hash_A, return_inverse=True, return_counts=True)
    return count[group_A] > 1
