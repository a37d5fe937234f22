"""The images that are predicted: a data set's, those of any folder, or a column of parquet files.

Every kind numbers its images 0..N-1, the same way in every process, and reads any stretch of them.
n = images of a block.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import EXTRA
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.passes.load_images import READ_THREADS, load_images
from ldlva_dist.packing.sources.readers.row_groups import group_rows, read_stretch
from ldlva_dist.packing.sources.rows import BLOCK_ROWS
from ldlva_dist.packing.sources.user_columns import columns_present, image_column, parquet_schema
from ldlva_dist.packing.tables.cells import name_cells


@dataclass(frozen=True)
class Block:
    """Some hundred encoded images."""

    names: pa.Table
    """[n] ``key``, and what else tells an image from the others."""
    images: Sequence[bytes | memoryview | DataError]
    """[n] or why there is none."""


class Inputs(Protocol):
    """Sent to the workers: plain values only."""

    @property
    def num_rows(self) -> int:
        """N."""
        ...

    def facts(self) -> dict[str, Any]:
        """Which images they are as they lie there now: what must be the same for earlier answers to be kept."""
        ...

    def blocks(self, begin: int, end: int) -> Iterator[Block]:
        """Images [begin, end) in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class DatasetInputs:
    """The rows of a split of a data set, or of all splits. ``key``, ``id`` and extra columns are the manifest's."""

    dataset: Dataset
    split: str | None
    """None: all."""

    @property
    def num_rows(self) -> int:
        """Of the split."""
        return self.dataset.info.splits[self.split].rows if self.split else self.dataset.num_rows

    def facts(self) -> dict[str, Any]:
        """The data set's version, and the split."""
        content_hash = Dataset.open(self.dataset.uri).info.content_hash
        return {"kind": "dataset", "content_hash": content_hash, "split": self.split or "all"}

    def blocks(self, begin: int, end: int) -> Iterator[Block]:
        """One ranged read a block and shard; an image whose bytes are damaged is an error of its own."""
        first = self.dataset.info.splits[self.split].first_id if self.split else 0
        stored = self.dataset.images(range(first + begin, first + end))
        extra = [name for name in self.dataset.column_names() if name.startswith(EXTRA)]
        more = self.dataset.columns(extra, first_id=first + begin, rows=end - begin)
        for at in range(0, end - begin, BLOCK_ROWS):
            block = stored.part(at, at + BLOCK_ROWS)
            names = block.rows.select(["key", "id"])
            for name in extra:
                names = names.append_column(name, more[name].slice(at, len(names)))
            yield Block(names, block.read_each())


@dataclass(frozen=True, kw_only=True)
class FolderInputs:
    """Image files in a folder and below; ``key`` is the path from the folder on.

    The list of them travels with the job: some 60 bytes an image. Files that come later are not in it.
    """

    folder: str
    paths: pa.StringArray

    @property
    def num_rows(self) -> int:
        """Files."""
        return len(self.paths)

    def facts(self) -> dict[str, Any]:
        """The folder, and a hash of the paths in it and of what changes when a file is written again."""
        paths = self.paths.to_pylist()
        digest = hashlib.sha256()
        for path, stamp in zip(paths, storage.stamps(self.folder, paths), strict=True):
            digest.update(f"{path}\0{stamp}\0".encode(errors="surrogateescape"))
        return {"kind": "folder", "folder": self.folder, "files": digest.hexdigest()}

    def blocks(self, begin: int, end: int) -> Iterator[Block]:
        """The files are read side by side."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for at in range(begin, end, BLOCK_ROWS):
                paths = self.paths.slice(at, min(BLOCK_ROWS, end - at))
                uris = [storage.join(self.folder, path) for path in paths.to_pylist()]
                yield Block(pa.table({"key": paths}), list(load_images(uris, None, pool)))


@dataclass(frozen=True, kw_only=True)
class ParquetInputs:
    """Encoded images in a column of parquet files, or in a struct's ``bytes`` as Hugging Face writes them.

    ``key`` is the text of ``key_column``; without one ``FILE:ROW``.
    """

    files: tuple[str, ...]
    image_column: str | None
    """None: the only column that can hold images."""
    key_column: str | None

    @cached_property
    def file_rows(self) -> tuple[int, ...]:
        """Rows of each file."""
        return tuple(sum(group_rows(uri)) for uri in self.files)

    @property
    def num_rows(self) -> int:
        """Of all files."""
        return sum(self.file_rows)

    def facts(self) -> dict[str, Any]:
        """Files, what changes when they are written again, and columns; SettingError for one that is not there."""
        columns = {uri: self._columns(uri) for uri in self.files}
        return {"kind": "parquet", "files": columns, "stamps": [storage.stamp(uri) for uri in self.files]}

    def blocks(self, begin: int, end: int) -> Iterator[Block]:
        """Only the row groups that hold them are read."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            first = 0
            for uri, rows in zip(self.files, self.file_rows, strict=True):
                low, high = max(begin - first, 0), min(end - first, rows)
                if low < high:
                    yield from self._blocks(uri, low, high, pool)
                first += rows

    def _blocks(self, uri: str, begin: int, end: int, pool: ThreadPoolExecutor) -> Iterator[Block]:
        image, *key = self._columns(uri)
        for row, table in read_stretch(uri, [image, *key], begin, end):
            column = table[image]
            if pa.types.is_struct(column.type):
                column = column.combine_chunks().field("bytes")
            file = uri.rpartition("/")[2]
            keys = (
                name_cells(table[key[0]], f"column {key[0]!r} of {uri}")
                if key
                else [f"{file}:{row + n}" for n in range(len(table))]
            )
            yield Block(pa.table({"key": keys}), list(load_images(column.to_pylist(), None, pool)))

    def _columns(self, uri: str) -> list[str]:
        """The images' column, and the keys'."""
        schema = parquet_schema(uri)
        image = image_column(schema, self.image_column, uri)
        if self.key_column is not None and self.key_column not in schema.names:
            raise SettingError(
                f"--key-column must be a column of {uri}, got {self.key_column!r}; {columns_present(schema.names)}"
            )
        return [image] + ([] if self.key_column is None else [self.key_column])
