"""A user's table of valence and arousal by key, joined to a data set. M = rows of the table, n = rows of a row group.

In memory a row is 17 bytes (about 60 while the table is read), whatever its key.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.core.util.hashing import hash_array

from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.sources.user_columns import columns_present
from ldlva_dist.packing.tables.cells import va_cells
from ldlva_dist.storage.csv_file import csv_blocks, csv_columns

_PLAIN = r"^[A-Za-z0-9_\-./ ]{1,80}$"


@dataclass(frozen=True, kw_only=True)
class PointFile:
    """A CSV of points, and which of its columns is what."""

    uri: str
    key: str = "key"
    valence: str = "valence"
    arousal: str = "arousal"
    delimiter: str | None = None
    """Between its cells; None takes it from the header."""
    clip: bool = False
    """Cut values outside [-1, 1] instead of refusing them."""


class PointTable:
    """Points by a 64-bit hash of their key."""

    def __init__(self, file: PointFile) -> None:
        """Read a CSV; -2 and empty cells are none.

        Raises:
            SettingError: for a column that is not there.
            DataError: for a file that is no CSV, points that are no numbers, or outside [-1, 1] unless clipped, and for
                a key that stands twice.
        """
        uri, hashes, points, num_bad, first_bad = file.uri, [], [], 0, ""
        for block in _read(file):
            keys = keys_of(block["key"].combine_chunks().fill_null(""))
            va_n2 = va_cells(block["valence"], block["arousal"], uri)
            _check_numbers(va_n2, keys, uri)
            va_n2 = np.clip(va_n2, -1, 1) if file.clip else va_n2
            bad_n = (np.abs(va_n2) > 1).any(axis=1)
            first_bad = first_bad or (str(keys[int(bad_n.argmax())]) if bad_n.any() else "")
            num_bad += int(bad_n.sum())
            hashes.append(_hash(keys))
            points.append(va_n2)
        if num_bad:
            raise DataError(f"{uri} has {num_bad} rows outside [-1, 1], the first is {first_bad} (--clip cuts them)")
        if not hashes:
            raise DataError(f"{uri} has no rows")
        hash_M = np.concatenate(hashes)
        order_M = np.argsort(hash_M, kind="stable")
        self._hash_M, self._va_M2 = hash_M[order_M], np.concatenate(points)[order_M]
        self._used_M = np.zeros(len(hash_M), dtype=bool)
        repeated = np.flatnonzero(self._hash_M[1:] == self._hash_M[:-1])
        if len(repeated):
            raise DataError(
                f"{uri} has {len(repeated)} keys that stood before, the first in row {order_M[repeated + 1].min() + 1}"
            )

    def columns(self, block: pa.Table) -> Mapping[str, pa.Array]:
        """For ``versions.Change``: valence and arousal of a row group; NaN for a key that the table does not have."""
        hash_n = _hash(block["key"].combine_chunks())
        place_n = np.minimum(np.searchsorted(self._hash_M, hash_n), len(self._hash_M) - 1)
        found_n = self._hash_M[place_n] == hash_n
        self._used_M[place_n[found_n]] = True
        va_n2 = np.where(found_n[:, None], self._va_M2[place_n], np.float32(np.nan))
        return {name: pa.array(va_n2[:, i]) for i, name in enumerate(("valence", "arousal"))}

    @property
    def num_unused(self) -> int:
        """Rows whose key no row group so far had."""
        return int((~self._used_M).sum())


def keys_of(names: pa.StringArray) -> pa.StringArray:
    """What :func:`sanitise_key` makes of each name, without a loop over those of plain letters."""
    call = pc.call_function
    odd = call("invert", [call("match_substring_regex", [names], pc.MatchSubstringOptions(_PLAIN))])
    text = call("replace_substring_regex", [names], pc.ReplaceSubstringOptions(r"\.[A-Za-z]{1,4}$", ""))
    text = call("utf8_trim", [text], pc.TrimOptions("./ "))
    keys = call("replace_substring_regex", [text], pc.ReplaceSubstringOptions(r"[^A-Za-z0-9_-]", "_"))
    slow = [sanitise_key(name) for name in names.filter(odd).to_pylist()]
    return call("replace_with_mask", [keys, odd, pa.array(slow, pa.string())])


def _hash(keys: pa.Array) -> NDArray[np.uint64]:
    return hash_array(keys.to_numpy(zero_copy_only=False), categorize=False)


def _read(file: PointFile) -> Iterator[pa.Table]:
    """Blocks of the columns key, valence and arousal, as text."""
    columns = {"key": file.key, "valence": file.valence, "arousal": file.arousal}
    names = csv_columns(file.uri, file.delimiter)
    for role, name in columns.items():
        if name not in names:
            raise SettingError(
                f"--{role}-column must be a column of {file.uri}, got {name!r}; {columns_present(names)}"
            )
    for block in csv_blocks(file.uri, list(columns.values()), delimiter=file.delimiter):
        yield pa.table({role: block[name] for role, name in columns.items()})


def _check_numbers(va_n2: NDArray[np.float32], keys: pa.StringArray, uri: str) -> None:
    bad_n = np.isinf(va_n2).any(axis=1)
    if bad_n.any():
        raise DataError(f"{uri}: the valence or arousal of {str(keys[int(bad_n.argmax())])!r} is no number")
