"""Parquet files with encoded images in a column. n = rows of a block, C = classes."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.data.rows import Part, Partition, Rows
from ldlva_dist.data.shards import sanitise_key
from ldlva_dist.data.sources.listing import names_in, refuse_repeated
from ldlva_dist.data.sources.row_groups import group_rows, read_stretch, stretches
from ldlva_dist.data.sources.tables import refuse_empty
from ldlva_dist.data.user_columns import (
    Columns,
    class_label_names,
    columns_present,
    find_columns,
    holds_images,
    is_affectnet_layout,
    label_cells,
    named_labels,
    parquet_schema,
    va_cells,
)
from ldlva_dist.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """Parquet files with encoded images in a binary column, or in a struct's ``bytes`` as Hugging Face writes them.

    Integer labels are indices into the classes, or what the file's own ``ClassLabel`` says that they mean.
    """

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

    def partitions(self) -> list[Partition]:
        """Stretches of at most ``PARTITION_ROWS`` rows of one file, by its row groups."""
        self._check_filters()
        refuse_repeated(chain.from_iterable(self.files.values()))
        found: list[Partition] = []
        for part, uris in self.files.items():
            first = 0
            for uri in uris:
                self._columns_of(parquet_schema(uri), uri)
                rows = group_rows(uri)
                found += (
                    Partition(part=part, first=first + begin, rows=end - begin, place=uri, begin=begin)
                    for begin, end in stretches(rows)
                )
                first += sum(rows)
            if uris:
                refuse_empty(part, first, ", ".join(uris))
        return found

    def read(self, partition: Partition) -> Iterator[Rows]:
        """The rows that the filters leave; a number counts the rows of all files of its part."""
        uri, begin = partition.place, partition.begin
        wanted = self._columns_of(parquet_schema(uri), uri)
        for row, table in read_stretch(uri, wanted, begin, begin + partition.rows):
            yield self._rows(partition, table, partition.first + row - begin)

    def numbers_are_affectnets(self) -> bool:
        """Whether every file says by its columns that numbers are in AffectNet's order."""
        uris = [uri for uris in self.files.values() for uri in uris]
        found = (find_columns(parquet_schema(uri).names, self.columns, uri, need_path=False) for uri in uris)
        return all(is_affectnet_layout(columns.label, columns.valence, columns.arousal) for columns in found)

    def _check_filters(self) -> None:
        present = {name for uris in self.files.values() for uri in uris for name in parquet_schema(uri).names}
        for name in (*self.keep, *self.drop):
            if name not in present:
                raise SettingError(
                    f"--keep and --drop must name a column of the files, got {name!r}; {columns_present(present)}"
                )

    def _columns_of(self, schema: pa.Schema, uri: str) -> list[str]:
        found = find_columns(schema.names, self.columns, uri, need_path=False)
        wanted = [self._image_column(schema, uri), self.key, found.label, found.valence, found.arousal, *self.votes]
        wanted += [name for name in (*self.keep, *self.drop) if name in schema.names]
        missing = [name for name in wanted if name is not None and name not in schema.names]
        if missing:
            raise SettingError(f"{uri} has no column {missing[0]!r}; {columns_present(schema.names)}")
        return list(dict.fromkeys(name for name in wanted if name is not None))

    def _image_column(self, schema: pa.Schema, uri: str) -> str:
        candidates = [field.name for field in schema if holds_images(field.type)]
        if self.image is not None and self.image in candidates:
            return self.image
        if self.image is None and len(candidates) == 1:
            return candidates[0]
        raise SettingError(f"--image-column must name a column of encoded images in {uri}, one of {candidates}")

    def _rows(self, partition: Partition, table: pa.Table, first: int) -> Rows:
        part, uri = partition.part, partition.place
        found = find_columns(table.column_names, self.columns, uri, need_path=False)
        assert found.label, "found by find_columns"
        chosen = np.flatnonzero(self._mask(table))
        table = table.take(chosen)
        image = table[self._image_column(table.schema, uri)]
        if pa.types.is_struct(image.type):
            image = image.combine_chunks().field("bytes")
        numbers = first + chosen
        names = [f"{part}-{n:09d}" for n in numbers] if self.key is None else table[self.key].to_pylist()
        labels = label_cells(table[found.label])
        class_names = class_label_names(table.schema, found.label, uri)
        votes = [table[name].fill_null(0).to_numpy().astype(np.float32) for name in self.votes]
        return Rows(
            part=part,
            numbers=numbers,
            keys=[sanitise_key(str(name)) for name in names],
            names=names_in(uri, self.files[part], names),
            images=image.to_pylist(),
            labels=labels if class_names is None else named_labels(labels, class_names),
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
