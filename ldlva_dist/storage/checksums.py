"""Files that a list knows by size and CRC-32: writing one gives its entry, reading it through compares with the entry.

An entry is ``{"size": bytes, "crc32": number}``.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from isal import isal_zlib

from ldlva_dist import storage
from ldlva_dist.errors import DataError

Entry = dict[str, int]
Files = Mapping[str, Entry]
"""Entries by uri."""
PIECE_BYTES = 8 << 20


class Reader:
    """A file that is read from its beginning to its end, and counted."""

    def __init__(self, file: Any) -> None:
        self._file, self._size, self._crc = file, 0, 0

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer at the end."""
        piece = self._file.read(size)
        self._size, self._crc = self._size + len(piece), isal_zlib.crc32(piece, self._crc)
        return piece

    @property
    def num_read(self) -> int:
        """Bytes that were read so far."""
        return self._size

    def entry(self) -> Entry:
        """Of the whole file; reads what is left of it."""
        while self.read(PIECE_BYTES):
            pass
        return {"size": self._size, "crc32": self._crc}


def describe(data: bytes) -> Entry:
    """The entry of a file with this content."""
    return {"size": len(data), "crc32": isal_zlib.crc32(data)}


def write(uri: str, source: IO[bytes], size: int) -> Entry:
    """Make a file of the next ``size`` bytes of ``source``: it appears whole or not at all."""
    return {"size": size, "crc32": storage.write_stream(uri, source, size)}


@contextmanager
def open_file(uri: str, entry: Entry) -> Iterator[Reader]:
    """A file to read; on leaving, whatever happened to who read it, DataError if it is not what its entry says."""
    with storage.open_input(uri) as file:
        reader = Reader(file)
        try:
            yield reader
        finally:
            compare(uri, entry, reader.entry())


def compare(uri: str, entry: Entry, found: Entry) -> None:
    """DataError if a file is not what its entry says."""
    for what, word in (("size", "bytes"), ("crc32", "checksum")):
        if found[what] != entry[what]:
            raise DataError(f"{uri} is damaged: {word} should be {entry[what]}, got {found[what]}")
