"""Lines of a log on an object store, which cannot append: a file of most of them, and pieces with the newest."""

import re

from ldlva_dist import storage
from ldlva_dist.errors import DataError

NEW_SHARE = 1 / 8
"""Least share of the file that new lines must be to have it written anew: some ten times the bytes of a line."""
PIECE_LINES = 64
"""Lines of a piece at most: what a flush writes besides the new ones is less, however long the log is."""
SUFFIX = ".jsonl"


class StoredLines:
    """Lines of a file that is written anew once those that it lacks are a share of it.

    Until then a flush writes these into pieces beside it. Piece ``metrics-00002.jsonl`` of ``metrics.jsonl`` has, of
    the log's lines 128 to 191, those that the file lacks: no piece ever stands for other lines than these.
    """

    def __init__(self, folder_uri: str, name: str, lines: list[str]) -> None:
        """Write the file ``name`` with these lines; pieces that an earlier log left there are deleted."""
        self._folder, self._name, self._lines = folder_uri, name, lines
        self._in_file = self._flushed = 0
        self._pieces = set(_pieces(folder_uri, name))
        self._write_file()

    def add(self, line: str) -> None:
        """Add one; nothing is written yet."""
        self._lines.append(line)

    @property
    def are_many(self) -> bool:
        """Whether the lines that the file lacks are enough to write it anew."""
        return len(self._lines) - self._in_file >= NEW_SHARE * self._in_file

    def flush(self) -> None:
        """Write what was not written yet."""
        if self._flushed == len(self._lines):
            return
        if self.are_many:
            self._write_file()
            return
        for number in range(self._flushed // PIECE_LINES, -(-len(self._lines) // PIECE_LINES)):
            first, piece = max(self._in_file, number * PIECE_LINES), f"{_stem(self._name)}-{number:05d}{SUFFIX}"
            self._pieces.add(piece)
            self._write(piece, self._lines[first : (number + 1) * PIECE_LINES])
        self._flushed = len(self._lines)

    def close(self) -> None:
        """Leave the file alone, with all lines."""
        if self._pieces or self._in_file < len(self._lines):
            self._write_file()

    def _write_file(self) -> None:
        """Write the file anew. The pieces go only after that: at any time each line is somewhere."""
        self._write(self._name, self._lines)
        self._in_file = self._flushed = len(self._lines)
        for piece in self._pieces:
            storage.delete_file(storage.join(self._folder, piece))
        self._pieces.clear()

    def _write(self, name: str, lines: list[str]) -> None:
        storage.write_bytes(storage.join(self._folder, name), "".join(line + "\n" for line in lines).encode())


def read_files(folder_uri: str, name: str) -> list[tuple[str, bytes]]:
    """A file and its pieces, by their uris, in the order of their lines; some may stand there twice.

    The file is read last: what a piece had that was deleted meanwhile is in it, and no lines are missing in between.
    """
    pieces = [storage.join(folder_uri, piece) for piece in _pieces(folder_uri, name)]
    newest = [(uri, _read_if_there(uri)) for uri in pieces]
    uri = storage.join(folder_uri, name)
    return [(uri, storage.read_bytes(uri)), *newest]


def _pieces(folder_uri: str, name: str) -> list[str]:
    """Names of a file's pieces, in the order of their lines."""
    pattern = re.compile(rf"{re.escape(_stem(name))}-(\d{{5,}}){re.escape(SUFFIX)}")
    found = [(int(match[1]), piece) for piece in storage.list_folder(folder_uri) if (match := pattern.fullmatch(piece))]
    return [piece for _, piece in sorted(found)]


def _read_if_there(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except DataError:
        if storage.exists(uri):
            raise
        return b""


def _stem(name: str) -> str:
    return name.removesuffix(SUFFIX)
