"""safetensors files written and read piece by piece, so that no array stands in memory a second time.

n = rows of a column.
"""

import io
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.errors import DataError
from ldlva_dist.storage.checksums import PIECE_BYTES, Reader

DTYPES = {"I8": "int8", "I32": "int32", "I64": "int64", "F16": "float16", "F32": "float32"}
"""The format's names of the kinds of numbers that are stored here."""
MOST_HEADER_BYTES = 100_000_000
"""What the format allows."""
CODES = {name: code for code, name in DTYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """An array [n, ...] whose rows are asked for when they are written."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: Callable[[int, int], NDArray[Any]]
    """Rows first..last-1, the same whenever they are asked for."""

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Column":
        """An array that is there, and does not change."""
        return cls(dtype=array.dtype, shape=array.shape, rows=lambda first, last: array[first:last])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows."""
        return self.row_bytes * self.shape[0]

    def cut(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Bytes begin..end-1."""
        first, last = begin // self.row_bytes, -(-end // self.row_bytes)
        rows = np.ascontiguousarray(self.rows(first, last)).reshape(-1).view(np.uint8)
        return rows[begin - first * self.row_bytes : end - first * self.row_bytes]


class TensorFile(io.RawIOBase):
    """The bytes of a safetensors file of some columns, to be read by whoever stores them, more than once if need be."""

    def __init__(self, columns: Mapping[str, Column], metadata: Mapping[str, str]) -> None:
        super().__init__()
        order = sorted(columns, key=lambda name: (-columns[name].dtype.itemsize, name))  # so that all are aligned
        ends = list(accumulate(columns[name].num_bytes for name in order))
        entries = {
            name: {
                "dtype": CODES[columns[name].dtype.name],
                "shape": list(columns[name].shape),
                "data_offsets": [end - columns[name].num_bytes, end],
            }
            for name, end in zip(order, ends, strict=True)
        }
        text = json.dumps({"__metadata__": dict(metadata), **entries}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        head = np.frombuffer(len(text).to_bytes(8, "little") + text, dtype=np.uint8)
        self._parts = [Column.of(head), *(columns[name] for name in order)]
        self._begins = [0, len(head), *(len(head) + end for end in ends)]
        self._place = 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._begins[-1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        """The next bytes; as many as the buffer takes, fewer only at the end."""
        target = np.frombuffer(buffer, dtype=np.uint8)
        began, end = self._place, min(self._place + len(target), self.size)
        while self._place < end:
            at = bisect_right(self._begins, self._place) - 1
            begin, stop = self._place - self._begins[at], min(end, self._begins[at + 1]) - self._begins[at]
            target[self._place - began :][: stop - begin] = self._parts[at].cut(begin, stop)
            self._place += stop - begin
        return max(0, end - began)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A column of a file, as its header tells."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows; ValueError for a shape that is none."""
        if not self.shape or any(type(length) is not int or length < 0 for length in self.shape):
            raise ValueError(f"the shape of {self.name}")
        return self.dtype.itemsize * math.prod(self.shape)

    def pieces(self, file: Reader) -> Iterator[tuple[int, NDArray[Any]]]:
        """The number of the first row and the rows of each piece; the file must stand at the column's beginning."""
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        step = max(1, PIECE_BYTES // max(1, row_bytes))
        for first in range(0, self.shape[0], step):
            count = min(step, self.shape[0] - first)
            rows = np.frombuffer(file.read(count * row_bytes), dtype=self.dtype)
            yield first, rows.reshape(count, *self.shape[1:])

    def whole(self, file: Reader) -> NDArray[Any]:
        """All rows."""
        empty = np.empty((0, *self.shape[1:]), dtype=self.dtype)
        return np.concatenate([empty, *(rows for _, rows in self.pieces(file))])


def read_header(file: Reader) -> tuple[dict[str, str], list[Stored]]:
    """A file's metadata, and its columns in the order in which they follow; DataError for other bytes."""
    size = int.from_bytes(file.read(8), "little")
    if size > MOST_HEADER_BYTES:
        raise DataError(f"no file of tensors has a header of {size} bytes")
    try:
        entries = json.loads(file.read(size))
        metadata = entries.pop("__metadata__", {})
        order = sorted(entries, key=lambda name: entries[name]["data_offsets"])
        columns = [
            Stored(name=name, dtype=np.dtype(DTYPES[entries[name]["dtype"]]), shape=tuple(entries[name]["shape"]))
            for name in order
        ]
        ends = list(accumulate(column.num_bytes for column in columns))
        offsets = [entries[name]["data_offsets"] for name in order]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"its header is no header of tensors ({str(error)[:100]})") from error
    if offsets != [list(pair) for pair in zip([0, *ends], ends, strict=False)]:
        raise DataError("its tensors have not the sizes that its header says")
    return metadata, columns
