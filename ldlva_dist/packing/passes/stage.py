"""Where a data set lies while it is packed: finished pieces stay there until the data set is complete.

Local: a hidden folder beside the output, whose ``set`` is renamed to the output at the end. On a store: shards go to
their final keys, pieces under ``.packing/``, and ``dataset.json`` comes last; without it there is no data set.
"""

import errno
import io
import json
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError, DataError, SettingError

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)
FINGERPRINT = "fingerprint.json"
SHARDS = "shards.json"


@dataclass(frozen=True)
class Stage:
    """Two folders: ``final`` takes what the data set is made of, ``pieces`` what only the packing needs."""

    output: str
    root: str
    """Folder that is removed at the end."""
    final: str

    @property
    def pieces(self) -> str:
        """Folder of the pieces."""
        return self.root if self.final == self.output else storage.join(self.root, "pieces")

    def begin(self, fingerprint: str) -> frozenset[str]:
        """Names of the pieces that an interrupted packing of the same rows left; other leftovers are removed."""
        known = storage.join(self.pieces, FINGERPRINT)
        if storage.exists(known) and json.loads(storage.read_bytes(known)) == fingerprint:
            return frozenset(storage.list_folder(self.pieces))
        self.discard()
        self.write(known, json.dumps(fingerprint).encode())
        return frozenset()

    def write(self, uri: str, data: bytes) -> None:
        """Write a file of either folder; it appears complete or not at all.

        Raises:
            DataError: where the packing was given up meanwhile: a late task must not bring the folder back.
        """
        known = storage.join(self.pieces, FINGERPRINT)
        if uri != known and not storage.exists(known):
            raise DataError(f"the packing of {self.output} was given up")
        with full_disk_said(self.root):
            storage.write_bytes(uri, data)

    def write_piece(self, name: str, table: pa.Table, compression: str = "zstd") -> None:
        """Write a piece."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression=compression)
        self.write(storage.join(self.pieces, name), buffer.getvalue())

    def open_piece(self, name: str) -> pq.ParquetFile:
        """A piece, ready to be read."""
        return pq.ParquetFile(pa.BufferReader(storage.read_bytes(storage.join(self.pieces, name))))

    def has_piece(self, name: str) -> bool:
        """Whether a piece was written."""
        return storage.exists(storage.join(self.pieces, name))

    def write_json(self, name: str, value: Any) -> None:
        """Write a few facts among the pieces."""
        self.write(storage.join(self.pieces, name), json.dumps(value).encode())

    def read_json(self, name: str) -> Any:
        """Read them back."""
        return json.loads(storage.read_bytes(storage.join(self.pieces, name)))

    def discard(self) -> None:
        """Remove everything: pieces, and the shards that they say may have been written."""
        if storage.is_remote(self.output) and storage.exists(storage.join(self.pieces, SHARDS)):
            for name in self.read_json(SHARDS):
                storage.delete_file(storage.join(self.final, name))
        storage.delete_folder(self.root)

    def publish(self) -> None:
        """Make the complete data set appear."""
        if not storage.is_remote(self.output):
            try:
                os.rename(self.final, storage.resolve(self.output)[1])
            except OSError as error:
                raise SettingError(f"--output must not exist, got {self.output!r}: {error.strerror}") from error
        storage.delete_folder(self.root)

    def kept(self) -> str:
        """What to say of an interrupted packing."""
        return f"what is done is kept in {self.root}: run the same command again to resume from there"


def stage_of(output: str) -> Stage:
    """The stage of a data set to be."""
    if storage.is_remote(output):
        output = output.rstrip("/")
        return Stage(output, storage.join(output, ".packing"), output)
    folder, name = posixpath.split(storage.resolve(output)[1])
    root = posixpath.join(folder, f".{name}.packing")
    return Stage(output, root, posixpath.join(root, "set"))


@contextmanager
def full_disk_said(root: str) -> Iterator[None]:
    """An error of a full disk becomes a ClusterError that names the disk."""
    try:
        yield
    except (OSError, ClusterError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in DISK_IS_FULL:
            raise ClusterError(f"the disk of {Path(root).parent} is full") from error
        raise
