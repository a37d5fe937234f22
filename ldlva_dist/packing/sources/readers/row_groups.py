"""Parquet files: those of a folder, and any stretch of the rows of one, reading no row group that it does not touch."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.sources.rows import BLOCK_ROWS, PARTITION_ROWS
from ldlva_dist.packing.tables.cells import plain_table


def group_rows(uri: str) -> list[int]:
    """Rows of each row group; what is no parquet file is a DataError."""
    try:
        with storage.open_input(uri) as stream:
            metadata = pq.read_metadata(stream)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{uri} is not a parquet file: {error}") from error
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def stretches(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of rows: whole row groups up to ``PARTITION_ROWS`` together, pieces of a group that is larger."""
    begin = end = 0
    for count in rows:
        if begin < end and end + count - begin > PARTITION_ROWS:
            yield begin, end
            begin = end
        end += count
        while end - begin > PARTITION_ROWS:
            yield begin, begin + PARTITION_ROWS
            begin += PARTITION_ROWS
    if begin < end:
        yield begin, end


def read_stretch(uri: str, columns: Sequence[str], begin: int, end: int) -> Iterator[tuple[int, pa.Table]]:
    """Rows [begin, end) of a file, some hundred at a time, each table with the row it starts at; types are plain."""
    ends = np.cumsum(group_rows(uri))
    first, last = (int(np.searchsorted(ends, row, side="right")) for row in (begin, end - 1))
    at = int(ends[first - 1]) if first else 0
    try:
        with storage.open_input(uri) as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(BLOCK_ROWS, row_groups=list(range(first, last + 1)), columns=list(columns)):
                low, high = max(begin, at), min(end, at + batch.num_rows)
                if low < high:
                    # Sliced last: pyarrow casts a slice of structs with an empty child to structs that are not valid.
                    yield low, plain_table(pa.Table.from_batches([batch])).slice(low - at, high - low)
                at += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{uri} is damaged, or holds what cannot be read: {error}") from error


def parquet_files(uri: str, setting: str = "--parquet") -> tuple[str, ...]:
    """A file, on this machine of any name, or those in a folder by name; SettingError where there is none."""
    if uri.endswith(".parquet") or os.path.isfile(uri):
        return (uri,)
    names = [name for name in storage.list_folder(uri) if name.endswith(".parquet") and not name.startswith(".")]
    if not names:
        raise SettingError(f"{setting} must be a .parquet file or a folder of them, got {uri!r}")
    return tuple(storage.join(uri, name) for name in names)
