"""Parquet files with encoded images in a column. n = rows of a block, C = classes."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.sources.readers.row_groups import group_rows, read_stretch, stretches
from ldlva_dist.packing.sources.readers.tables import names_in, refuse_empty, refuse_repeated
from ldlva_dist.packing.sources.rows import Part, Partition, Rows
from ldlva_dist.packing.sources.user_columns import (
    UserColumns,
    class_label_names,
    columns_present,
    find_columns,
    image_column,
    is_affectnet_layout,
    named_labels,
    parquet_schema,
    valence_arousal,
)
from ldlva_dist.packing.sources.votes import raters_of
from ldlva_dist.packing.tables.cells import flag_cells, label_cells, name_cells, number_cells, text_cells
from ldlva_dist.storage.csv_file import check_once

BAD_VOTES = "the votes are no numbers"


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """Parquet files with encoded images in a binary column, or in a struct's ``bytes`` as Hugging Face writes them.

    Integer labels are indices into the classes, or what the file's own ``ClassLabel`` says that they mean.
    """

    files: dict[Part, tuple[str, ...]]
    columns: UserColumns = field(default_factory=UserColumns)
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
    extra: tuple[str, ...] = ()
    """Columns that ride along."""

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
                self._check_alike(uri, uris[0])
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
        wanted = [*self._roles(schema, uri), self.key, *self.votes, *self.extra]
        wanted += [name for name in (*self.keep, *self.drop) if name in schema.names]
        chosen = list(dict.fromkeys(name for name in wanted if name is not None))
        missing = [name for name in chosen if name not in schema.names]
        if missing:
            raise SettingError(f"{uri} has no column {missing[0]!r}; {columns_present(schema.names)}")
        check_once(schema.names, chosen, uri)
        return chosen

    def _roles(self, schema: pa.Schema, uri: str) -> tuple[str | None, ...]:
        """Its columns of images, labels, valence and arousal."""
        found = find_columns(schema.names, self.columns, uri, need_path=False)
        return image_column(schema, self.image, uri), found.label, found.valence, found.arousal

    def _check_alike(self, uri: str, first: str) -> None:
        """The files of a part must be read by the same columns."""
        ours, theirs = ([*self._roles(parquet_schema(file), file)] for file in (uri, first))
        if ours != theirs:
            raise DataError(
                f"the files of a part must have the same columns: {uri} is read by {', '.join(filter(None, ours))}, "
                f"{first} by {', '.join(filter(None, theirs))}"
            )

    def _rows(self, partition: Partition, table: pa.Table, first: int) -> Rows:
        part, uri = partition.part, partition.place
        found = find_columns(table.column_names, self.columns, uri, need_path=False)
        assert found.label, "found by find_columns"
        chosen = np.flatnonzero(self._mask(table, uri))
        table = table.take(chosen)
        image = table[image_column(table.schema, self.image, uri)]
        if pa.types.is_struct(image.type):
            image = image.combine_chunks().field("bytes")
        numbers = first + chosen
        names = [f"{part}-{n:09d}" for n in numbers] if self.key is None else name_cells(*_column(table, self.key, uri))
        labels = label_cells(*_column(table, found.label, uri))
        class_names = class_label_names(table.schema, found.label, uri)
        votes = self._votes(table, uri)
        return Rows(
            part=part,
            numbers=numbers,
            keys=[sanitise_key(name) for name in names],
            names=names_in(uri, self.files[part], names),
            images=image.to_pylist(),
            labels=labels if class_names is None else named_labels(labels, class_names),
            va=valence_arousal(table, found, uri),
            votes=votes,
            raters=None if votes is None else raters_of(votes),
            extra={name: text_cells(*_column(table, name, uri)) for name in self.extra},
            reasons=None if votes is None else [None if np.isfinite(row).all() else BAD_VOTES for row in votes],
        )

    def _votes(self, table: pa.Table, uri: str) -> NDArray[np.float32] | None:
        """[n, C]; an empty cell is no vote, a row with what is no count has infinite ones."""
        if not self.votes:
            return None
        votes_nC = np.stack([number_cells(*_column(table, name, uri)) for name in self.votes], axis=1)
        votes_nC[np.isnan(votes_nC)] = 0
        votes_nC[votes_nC < 0] = np.inf
        return votes_nC

    def _mask(self, table: pa.Table, uri: str) -> NDArray[np.bool_]:
        mask = np.ones(len(table), dtype=bool)
        for names, wanted in ((self.keep, True), (self.drop, False)):
            for name in names:
                if name in table.column_names:
                    mask &= flag_cells(*_column(table, name, uri)) == wanted
        return mask


def _column(table: pa.Table, name: str, uri: str) -> tuple[pa.ChunkedArray, str]:
    """A column, and how messages call it."""
    return table[name], f"column {name!r} of {uri}"
