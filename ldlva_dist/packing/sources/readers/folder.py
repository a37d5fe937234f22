"""A folder of images with a table that names them. n = rows of a block."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.packing.sources.readers.tables import csv_table, cut, image_uri, order_of, refuse_empty, spans
from ldlva_dist.packing.sources.rows import Part, Partition, Rows
from ldlva_dist.packing.sources.user_columns import UserColumns, find_columns, is_affectnet_layout, valence_arousal
from ldlva_dist.packing.tables.cells import label_cells
from ldlva_dist.storage.csv_file import csv_columns


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Image files named by a CSV. The reference's layout (subDirectory_filePath, expression, ...) needs no names.

    Rows come in an order shuffled by ``seed``: tables are often sorted by class.
    """

    tables: dict[Part, str]
    images: dict[Part, str]
    """Folder that the paths in each part's table start from."""
    columns: UserColumns = field(default_factory=UserColumns)
    delimiter: str | None = None
    """Between the cells of the tables; None takes it from each header."""
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind and table names."""
        return {"kind": "folder", **{part: posixpath.basename(uri) for part, uri in self.tables.items()}}

    def partitions(self) -> list[Partition]:
        """Stretches of each table's shuffled order."""
        found: list[Partition] = []
        for part, uri in self.tables.items():
            rows = len(self._table(uri))
            refuse_empty(part, rows, uri)
            found += cut(part, rows, uri)
        return found

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with the uris of their images."""
        table = self._table(partition.place)
        order = order_of(len(table), self.seed)
        for span in spans(partition):
            yield self._rows(partition, table, order[span.start : span.stop])

    def numbers_are_affectnets(self) -> bool:
        """Whether every table says by its columns that numbers are in AffectNet's order."""
        found = (self._columns_of(uri) for uri in self.tables.values())
        return all(is_affectnet_layout(columns.label, columns.valence, columns.arousal) for columns in found)

    def _columns_of(self, uri: str) -> UserColumns:
        return find_columns(csv_columns(uri, self.delimiter), self.columns, uri)

    def _table(self, uri: str) -> pa.Table:
        return csv_table(uri, self._columns_of(uri).present(), delimiter=self.delimiter)

    def _rows(self, partition: Partition, table: pa.Table, numbers: NDArray[np.int64]) -> Rows:
        part, uri = partition.part, partition.place
        columns = self._columns_of(uri)
        assert columns.path, "found by find_columns"
        assert columns.label, "found by find_columns"
        several_roots = len(set(self.images.values())) > 1
        prefix = posixpath.basename(self.images[part].rstrip("/")) + "/" if several_roots else ""
        table = table.take(numbers)
        paths = [path or "" for path in table[columns.path].to_pylist()]
        return Rows(
            part=part,
            numbers=numbers,
            keys=[sanitise_key(prefix + path) for path in paths],
            names=paths,
            images=[image_uri(self.images[part], path) for path in paths],
            labels=label_cells(table[columns.label], f"column {columns.label!r} of {uri}"),
            va=valence_arousal(table, columns, uri),
        )
