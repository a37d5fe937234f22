"""Keys of their own for different rows whose slugs are the same. A = accepted rows."""

import numpy as np
import pyarrow as pa

from ldlva_dist.dataset.shards import key_apart, key_hash
from ldlva_dist.errors import DataError
from ldlva_dist.packing.passes.held import Held
from ldlva_dist.packing.passes.survey_columns import repeats
from ldlva_dist.packing.rules.places import Places


def tell_apart(places: Places, held: Held | None = None) -> pa.Array | None:
    """[A] the new keys of accepted rows whose keys meet, null for the others; None where no keys meet.

    A new key follows from part and name, and from nothing else: not from the other rows, nor from their order. With
    rows that are added it follows from how often some were added before, too.

    Args:
        places: Looks the rows up.
        held: Rows that the data set has already.

    Raises:
        DataError: for rows of one part and one name, which a source gives only to rows that are one.
    """
    row_A = np.flatnonzero(places.found.code_N < 0)
    taken_M, time = (held.hash_M, f"{len(held.info.before)}/") if held else (row_A[:0], "")
    hash_A = places.found.hash_N[row_A]
    meeting = np.union1d(np.union1d(*repeats(hash_A)), np.flatnonzero(np.isin(hash_A, taken_M)))
    if not len(meeting):
        return None
    rows_n = row_A[meeting]
    table = places.look_up(rows_n, ["key", "name"])
    parts = [places.partitions[number].part for number in places.found.partition_of(rows_n).tolist()]
    names = [f"{time}{part}/{name}" for part, name in zip(parts, table["name"].to_pylist(), strict=True)]
    keys = [key_apart(key, name) for key, name in zip(table["key"].to_pylist(), names, strict=True)]
    places.found.hash_N[rows_n] = [key_hash(key) for key in keys]
    again, first = repeats(places.found.hash_N[row_A])
    if len(again):
        twins = places.of(row_A[[first[0], again[0]]])
        raise DataError(f"rows of one name cannot be told apart: {', '.join(twins)}")
    key_A = np.full(len(row_A), None, dtype=object)
    key_A[meeting] = keys
    return pa.array(key_A, pa.string())
