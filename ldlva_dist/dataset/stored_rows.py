"""A parquet file of ours, whoever wrote it again: its rows by number, in the kinds of a schema, or a DataError.

Row groups are those of the file; other encodings, widths and text kinds of a column are read as what they mean.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError, DataError

BUFFER_BYTES = 4 << 20
"""Bytes of each column that are read at once: a row group may be as large as the file."""
BATCH_ROWS = 65_536


class StoredRows:
    """An open file."""

    def __init__(self, uri: str, file: pq.ParquetFile, schema: pa.Schema, required: Collection[str]) -> None:
        """``schema`` has the columns that may be read, ``required`` those of them that have no nulls."""
        self._uri, self._file, self._schema, self._required = uri, file, schema, required
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self.num_rows = file.metadata.num_rows
        if min(counts, default=0) < 0 or sum(counts) != self.num_rows:
            raise DataError(f"{uri} is damaged: its row groups do not hold its {self.num_rows} rows")
        names: list[str] = file.schema_arrow.names
        self.names = tuple(name for name in names if name in schema.names)
        """The columns that are there."""
        if len(set(self.names)) < len(self.names):
            raise DataError(f"{uri} is damaged: it has the column {max(self.names, key=self.names.count)!r} twice")

    def read(self, columns: Sequence[str], first: int, rows: int) -> pa.Table:
        """Rows [first, first + rows), which must be there; only the row groups that hold them are read."""
        tables = list(self._read(columns, first, rows))
        return pa.concat_tables(tables) if tables else self._empty(columns)

    def blocks(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """All rows, so many at a time; the last may be fewer."""
        for table in regrouped(self._read(columns, 0, self.num_rows), rows):
            yield table.unify_dictionaries().combine_chunks()

    def _read(self, columns: Sequence[str], first: int, rows: int) -> Iterator[pa.Table]:
        missing = [name for name in columns if name not in self.names]
        if missing:
            raise DataError(f"{self._uri} has no column {missing[0]!r}")
        if not rows:
            return
        begin, end = (int(np.searchsorted(self._ends, row, side="right")) for row in (first, first + rows - 1))
        groups, at = list(range(begin, end + 1)), int(self._ends[begin - 1]) if begin else 0
        for batch in self._file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(columns)):
            low, high = max(first, at), min(first + rows, at + batch.num_rows)
            if low < high:
                yield self._typed(pa.Table.from_batches([batch.slice(low - at, high - low)]), columns, low)
            at += batch.num_rows
        if at < first + rows:
            raise DataError(f"{self._uri} is damaged: it ends at row {at} of {self.num_rows}")

    def _typed(self, table: pa.Table, columns: Sequence[str], first: int) -> pa.Table:
        found = {}
        for name in columns:
            found[name] = column = self._cast(table[name], self._schema.field(name), first)
            if name in self._required and column.null_count:
                row = first + int(column.is_null().to_numpy().argmax())
                raise DataError(f"{self._uri} is damaged: {self._name(row)} has no {name}")
        return pa.table(found, schema=pa.schema([self._schema.field(name) for name in columns]))

    def _cast(self, column: pa.ChunkedArray, field: pa.Field, first: int) -> pa.ChunkedArray:
        kind = field.type
        if column.type.equals(kind):
            return column
        if not _means(column.type, kind):
            raise DataError(f"{self._uri} is damaged: column {field.name!r} must be {kind}, got {column.type}")
        try:
            if pa.types.is_dictionary(kind):
                return column.cast(kind.value_type).dictionary_encode().cast(kind)
            return column.cast(kind)
        except pa.ArrowInvalid as error:
            fits = _fits(column, kind)
            where = "" if fits is None else f"{self._name(first + int(np.argmin(fits)))}: "
            raise DataError(f"{self._uri} is damaged: {where}{field.name} must fit in {kind} ({error})") from error

    def _name(self, row: int) -> str:
        """A row for people, with its key where it has one."""
        if "key" not in self.names:
            return f"row {row}"
        group = int(np.searchsorted(self._ends, row, side="right"))
        at = row - (int(self._ends[group - 1]) if group else 0)
        return f"row {row} ({self._file.read_row_group(group, columns=['key'])['key'][at].as_py()!r})"

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        return pa.schema([self._schema.field(name) for name in columns]).empty_table()


@contextmanager
def open_rows(
    uri: str, schema: pa.Schema, required: Collection[str], *, texts: str | None = None
) -> Iterator[StoredRows]:
    """A file whose rows are read; whatever is wrong with it is a DataError that names it.

    Args:
        uri: The file.
        schema: Columns that may be read.
        required: Those of them without nulls.
        texts: Beginning of the names of further columns, of text.
    """
    try:
        with storage.open_input(uri) as stream, pq.ParquetFile(stream, buffer_size=BUFFER_BYTES) as file:
            more = [name for name in file.schema_arrow.names if texts is not None and name.startswith(texts)]
            known = pa.schema([*schema, *(pa.field(name, pa.string()) for name in dict.fromkeys(more))])
            yield StoredRows(uri, file, known, required)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{uri} is damaged: it cannot be read as parquet ({_reason(error)})") from error
    except OSError as error:  # what parquet finds wrong has no number of the system's
        if error.errno is None:
            raise DataError(f"{uri} is damaged: it cannot be read as parquet ({_reason(error)})") from error
        raise ClusterError(f"the store failed at {uri}: {error.strerror or error}") from error


def regrouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly so many; the last may be shorter."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= rows:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, rows)
            waiting = [joined.slice(rows)]
    rest = pa.concat_tables(waiting) if waiting else None
    if rest is not None and len(rest):
        yield rest


def _means(found: pa.DataType, kind: pa.DataType) -> bool:
    """Whether a column of one kind can be read as another without a guess."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_integer(kind):
        return pa.types.is_integer(found)
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)
    if pa.types.is_null(found):
        return True
    if pa.types.is_list(kind):
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        return any(is_list(found) for is_list in lists) and _means(found.value_type, kind.value_type)
    return pa.types.is_floating(kind) and (pa.types.is_floating(found) or pa.types.is_integer(found))


def _fits(column: pa.ChunkedArray, kind: pa.DataType) -> np.ndarray | None:
    """[n] which whole numbers a narrower kind holds; None for columns of other kinds."""
    if not pa.types.is_integer(kind):
        return None
    back = column.cast(kind, safe=False).cast(column.type, safe=False)
    return pc.call_function("equal", [back, column]).fill_null(True).to_numpy()


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
