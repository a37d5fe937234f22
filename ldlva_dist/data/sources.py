"""What a user has: a folder of images with a table, or parquet files with images in them. Read block by block."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist.data import storage
from ldlva_dist.data.rows import BLOCK_ROWS, Part, Rows
from ldlva_dist.data.shards import sanitise_key
from ldlva_dist.data.user_columns import (
    Columns,
    columns_present,
    find_columns,
    holds_images,
    label_cells,
    parquet_schema,
    read_csv,
    va_cells,
)
from ldlva_dist.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Image files named by a CSV. The reference's layout (subDirectory_filePath, expression, ...) needs no names.

    Rows come in an order shuffled by ``seed``: tables are often sorted by class.
    """

    tables: dict[Part, str]
    images: dict[Part, str]
    """Folder that the paths in each part's table start from."""
    columns: Columns = field(default_factory=Columns)
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind and table names."""
        return {"kind": "folder", **{part: posixpath.basename(uri) for part, uri in self.tables.items()}}

    def blocks(self) -> Iterator[Rows]:
        """All rows, training part first."""
        several_roots = len(set(self.images.values())) > 1
        for part, uri in self.tables.items():
            prefix = posixpath.basename(self.images[part].rstrip("/")) + "/" if several_roots else ""
            table = read_csv(uri)
            columns = find_columns(table.column_names, self.columns, uri)
            order = np.random.default_rng((self.seed, len(table))).permutation(len(table))
            for begin in range(0, len(order), BLOCK_ROWS):
                numbers = order[begin : begin + BLOCK_ROWS]
                yield self._rows(part, prefix, table.take(numbers), columns, numbers)

    def _rows(self, part: Part, prefix: str, table: pa.Table, columns: Columns, numbers: NDArray[np.int64]) -> Rows:
        assert columns.path, "found by find_columns"
        assert columns.label, "found by find_columns"
        paths = [path or "" for path in table[columns.path].to_pylist()]
        return Rows(
            part=part,
            numbers=numbers,
            keys=[sanitise_key(prefix + path) for path in paths],
            images=[storage.join(self.images[part], path) if path else None for path in paths],
            labels=label_cells(table[columns.label]),
            va=va_cells(table, columns),
        )


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """Parquet files with encoded images in a binary column, or in a struct's ``bytes`` as Hugging Face writes them."""

    files: dict[Part, tuple[str, ...]]
    columns: Columns = field(default_factory=Columns)
    image: str | None = None
    """None: the only column that can hold images."""
    key: str | None = None
    """Column of names; None numbers the rows."""
    votes: tuple[str, ...] = ()
    """Columns of votes, one per class, in the order of the classes."""
    keep: tuple[str, ...] = ()
    """Boolean columns: only rows where each is true stay."""
    drop: tuple[str, ...] = ()
    """Boolean columns: rows where any is true go."""

    def describe(self) -> dict[str, Any]:
        """Kind, file names and filters."""
        files = {part: [posixpath.basename(uri) for uri in uris] for part, uris in self.files.items()}
        return {"kind": "parquet", **files, "keep": list(self.keep), "drop": list(self.drop)}

    def blocks(self) -> Iterator[Rows]:
        """All rows that the filters leave, training part first."""
        self._check_filters()
        for part, uris in self.files.items():
            number = 0
            for uri in uris:
                for batch in self._batches(uri):
                    yield self._rows(part, batch, number, uri)
                    number += batch.num_rows

    def _check_filters(self) -> None:
        present = {name for uris in self.files.values() for uri in uris for name in parquet_schema(uri).names}
        for name in (*self.keep, *self.drop):
            if name not in present:
                raise SettingError(
                    f"--keep and --drop must name a column of the files, got {name!r}; {columns_present(present)}"
                )

    def _batches(self, uri: str) -> Iterator[pa.RecordBatch]:
        schema = parquet_schema(uri)
        found = find_columns(schema.names, self.columns, uri, need_path=False)
        wanted = [self._image_column(schema, uri), self.key, found.label, found.valence, found.arousal, *self.votes]
        wanted += [name for name in (*self.keep, *self.drop) if name in schema.names]
        missing = [name for name in wanted if name is not None and name not in schema.names]
        if missing:
            raise SettingError(f"{uri} has no column {missing[0]!r}; {columns_present(schema.names)}")
        with storage.open_input(uri) as stream, pq.ParquetFile(stream) as file:
            yield from file.iter_batches(BLOCK_ROWS, columns=list(dict.fromkeys(c for c in wanted if c is not None)))

    def _image_column(self, schema: pa.Schema, uri: str) -> str:
        candidates = [field.name for field in schema if holds_images(field.type)]
        if self.image is not None and self.image in candidates:
            return self.image
        if self.image is None and len(candidates) == 1:
            return candidates[0]
        raise SettingError(f"--image-column must name a column of encoded images in {uri}, one of {candidates}")

    def _rows(self, part: Part, batch: pa.RecordBatch, first: int, uri: str) -> Rows:
        table = pa.Table.from_batches([batch])
        found = find_columns(table.column_names, self.columns, uri, need_path=False)
        assert found.label, "found by find_columns"
        chosen = np.flatnonzero(self._mask(table))
        table = table.take(chosen)
        image = table[self._image_column(table.schema, uri)]
        if pa.types.is_struct(image.type):
            image = image.combine_chunks().field("bytes")
        numbers = first + chosen
        names = [f"{part}-{n:09d}" for n in numbers] if self.key is None else table[self.key].to_pylist()
        votes = [table[name].fill_null(0).to_numpy().astype(np.float32) for name in self.votes]
        return Rows(
            part=part,
            numbers=numbers,
            keys=[sanitise_key(str(name)) for name in names],
            images=image.to_pylist(),
            labels=label_cells(table[found.label]),
            va=va_cells(table, found),
            votes=np.stack(votes, axis=1) if votes else None,
        )

    def _mask(self, table: pa.Table) -> NDArray[np.bool_]:
        mask = np.ones(len(table), dtype=bool)
        for names, wanted in ((self.keep, True), (self.drop, False)):
            for name in names:
                if name in table.column_names:
                    mask &= table[name].cast(pa.bool_()).fill_null(False).to_numpy() == wanted
        return mask
