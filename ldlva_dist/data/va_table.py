"""A user's table of valence and arousal by key, joined to a data set. M = rows of the table, n = rows of a row group.

In memory a row is 17 bytes (about 60 while the table is read), whatever its key.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray
from pandas.core.util.hashing import hash_array

from ldlva_dist.data import storage
from ldlva_dist.data.shards import sanitise_key
from ldlva_dist.data.user_columns import columns_present
from ldlva_dist.errors import DataError, SettingError

BLOCK_BYTES = 16 << 20
_PLAIN = r"^[A-Za-z0-9_\-./ ]{1,80}$"


class PointTable:
    """Points by a 64-bit hash of their key."""

    def __init__(self, uri: str, columns: Mapping[str, str], *, clip: bool) -> None:
        """Read a CSV; ``columns`` names its key, valence and arousal.

        Raises:
            SettingError: for a column that is not there.
            DataError: for a file that is no CSV, points outside [-1, 1] unless clipped, or a key that stands twice.
        """
        hashes, points, num_bad, first_bad = [], [], 0, ""
        for block in _read(uri, columns):
            keys = keys_of(block["key"].combine_chunks().fill_null(""))
            va_n2 = np.stack([block[name].to_numpy() for name in ("valence", "arousal")], axis=1).astype(np.float32)
            va_n2 = np.clip(va_n2, -1, 1) if clip else va_n2
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


def _read(uri: str, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    """Blocks of the columns key (text), valence and arousal (numbers; an empty cell is NaN)."""
    options = pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
    try:
        with storage.open_input(uri) as stream:
            names = pa_csv.open_csv(stream, read_options=options).schema.names
        for role, name in columns.items():
            if name not in names:
                raise SettingError(f"--{role}-column must be a column of {uri}, got {name!r}; {columns_present(names)}")
        wanted = list(columns.values())
        convert = pa_csv.ConvertOptions(
            include_columns=wanted,
            column_types=dict(zip(wanted, (pa.string(), pa.float64(), pa.float64()), strict=True)),
        )
        with storage.open_input(uri) as stream:
            for batch in pa_csv.open_csv(stream, read_options=options, convert_options=convert):
                yield pa.Table.from_batches([batch]).rename_columns(list(columns))
    except pa.ArrowInvalid as error:
        raise DataError(f"{uri} is not a readable CSV of keys and numbers: {error}") from error
