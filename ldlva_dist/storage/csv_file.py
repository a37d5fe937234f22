"""The one reader of CSV files: every cell as text, whoever wrote the file, or one sentence that says why not.

Files are UTF-8, or UTF-16 or UTF-32 with a byte order mark. Cells stand between commas, or between whatever a header
without a comma shows. Cells may be quoted, with line breaks in them; a quote that is not closed, which would swallow
rows, is an error.
"""

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.csv as pa_csv

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError

DELIMITERS = (",", ";", "\t", "|")
BLOCK_BYTES = 16 << 20
HEAD_BYTES = 64 << 10
_MARKS = (  # UTF-32's mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_QUOTED = re.compile(r'"[^"]*"')


def delimiter_option(text: str | None) -> str | None:
    """``--delimiter`` as one character; a tab may be written as its escape, or in letters. None leaves it open."""
    found = {"\\t": "\t", "tab": "\t"}.get(text or "", text)
    if found is not None and (len(found) != 1 or found in '"\r\n'):
        raise SettingError(f"--delimiter must be one character, or tab, got {text!r}")
    return found


def csv_delimiter(uri: str) -> str:
    """What stands between the cells: a comma, or the only one of ``;``, tab and ``|`` in a header without commas."""
    header = _QUOTED.sub("", _head(uri)[1])
    present = [delimiter for delimiter in DELIMITERS if delimiter in header]
    return present[0] if len(present) == 1 else ","


def delimiter_remark(uri: str, delimiter: str | None) -> str | None:
    """What to say aloud where nobody said the delimiter and it is no comma."""
    found = csv_delimiter(uri) if delimiter is None else ","
    return None if found == "," else f"{uri}: the cells are read as separated by {found!r} (--delimiter says otherwise)"


def csv_columns(uri: str, delimiter: str | None = None) -> list[str]:
    """The header of a CSV; what is none is a DataError."""
    return list(_open(uri, delimiter, None)[1])


def csv_blocks(
    uri: str, keep: Sequence[str] | None = None, *, names: Sequence[str] | None = None, delimiter: str | None = None
) -> Iterator[pa.Table]:
    """A CSV in tables of some megabytes, every column as text; what is none is a DataError.

    Args:
        uri: The file.
        keep: Columns to keep, of those that are there; None keeps all.
        names: Those of the columns, for a file without a header.
        delimiter: What stands between two cells; None takes it from the header.
    """
    delimiter, present = _open(uri, delimiter, names)
    kept = [name for name in present if keep is None or name in keep]
    check_once(present, kept, uri)
    encoding = _head(uri)[0]
    options = pa_csv.ReadOptions(
        use_threads=False, column_names=None if names is None else present, encoding=encoding, block_size=BLOCK_BYTES
    )
    text = pa_csv.ConvertOptions(column_types=dict.fromkeys(present, pa.string()), include_columns=kept)
    with storage.open_input(uri) as stream:
        watched = _Watched(stream)
        try:
            with pa.PythonFile(watched, mode="r") as file:
                for batch in pa_csv.open_csv(file, options, _parsing(delimiter), text):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowInvalid, UnicodeError) as error:
            raise _unreadable(uri, error) from error
    if watched.has_quotes:
        _check_quotes(uri, delimiter, encoding)


def read_csv(
    uri: str, keep: Sequence[str] | None = None, *, names: Sequence[str] | None = None, delimiter: str | None = None
) -> pa.Table:
    """:func:`csv_blocks` as one table."""
    blocks = list(csv_blocks(uri, keep, names=names, delimiter=delimiter))
    if blocks:
        return pa.concat_tables(blocks)
    present = csv_columns(uri, delimiter) if names is None else names
    kept = [name for name in present if keep is None or name in keep]
    return pa.table({name: pa.array([], pa.string()) for name in kept})


def read_text(uri: str) -> str:
    """A whole file of text in an encoding that this module reads; a DataError for any other."""
    data = storage.read_bytes(uri)
    try:
        return data.decode(_encoding(data)).removeprefix("\ufeff")
    except UnicodeError as error:
        raise _unreadable(uri, error) from error


def check_once(present: Sequence[str], wanted: Sequence[str], uri: str) -> None:
    """DataError where a column that is to be read stands twice."""
    twice = [name for name in wanted if list(present).count(name) > 1]
    if twice:
        raise DataError(f"{uri} has the column {twice[0]!r} {list(present).count(twice[0])} times: which one is meant?")


class _Watched(io.RawIOBase):
    """A stream of bytes that remembers whether a quotation mark went by."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream, self.has_quotes = stream, False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(None if size < 0 else size)
        self.has_quotes = self.has_quotes or b'"' in data
        return data


def _open(uri: str, delimiter: str | None, names: Sequence[str] | None) -> tuple[str, list[str]]:
    """The delimiter, and the names of the columns."""
    delimiter = delimiter or csv_delimiter(uri)
    if names is not None:
        return delimiter, list(names)
    encoding, header = _head(uri)
    if "\0" in header:
        raise DataError(f"{uri} must be text, but there are NUL bytes in its first line (UTF-16 without its mark?)")
    options = pa_csv.ReadOptions(use_threads=False, encoding=encoding, block_size=BLOCK_BYTES)
    try:
        with storage.open_input(uri) as stream:
            return delimiter, pa_csv.open_csv(stream, options, _parsing(delimiter)).schema.names
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise _unreadable(uri, error) from error


def _head(uri: str) -> tuple[str, str]:
    """The encoding, and the first line."""
    with storage.open_input(uri) as stream:
        data = stream.read(HEAD_BYTES)
    encoding = _encoding(data)
    lines = data.decode(encoding, errors="replace").splitlines()
    return encoding, lines[0] if lines else ""


def _encoding(data: bytes) -> str:
    return next((name for mark, name in _MARKS if data.startswith(mark)), "utf8")


def _parsing(delimiter: str) -> pa_csv.ParseOptions:
    return pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def _unreadable(uri: str, error: Exception) -> DataError:
    said = str(error).splitlines()[0][:300]
    if isinstance(error, UnicodeError) or "UTF8" in said:
        return DataError(
            f"{uri} must be text in UTF-8, or UTF-16 with its mark, and is not (Latin-1, Windows-1252?): save it so"
        )
    return DataError(f"{uri} is not a readable CSV: {said}")


def _check_quotes(uri: str, delimiter: str, encoding: str) -> None:
    """DataError where quotes are not as a CSV has them: the quick parser would join rows, or cut cells."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with storage.open_input(uri) as stream:
            text = io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            try:
                for _ in reader:
                    pass
            except csv.Error as error:
                raise DataError(f"{uri}, line {reader.line_num}: quotes are not closed as in a CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
