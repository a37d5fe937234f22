"""A folder of images with tables that name them. n = rows."""

import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.classes.class_index import is_emotion, spelling
from ldlva_dist.packing.sources.readers.boxes import Box, Boxes
from ldlva_dist.packing.sources.readers.tables import (
    csv_table,
    cut,
    image_uri,
    order_of,
    refuse_empty,
    refuse_repeated,
    spans,
)
from ldlva_dist.packing.sources.rows import LEFT_OUT, Part, Partition, Rows
from ldlva_dist.packing.sources.user_columns import (
    UserColumns,
    find_columns,
    is_affectnet_copy,
    is_affectnet_layout,
    require_columns,
    valence_arousal,
)
from ldlva_dist.packing.tables.cells import label_cells, number_cells, text_cells
from ldlva_dist.storage.csv_file import csv_columns

LabelBy = Literal["column", "folder"]


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Image files named by tables. The reference's layout (subDirectory_filePath, expression, ...) needs no names.

    Rows of a table come in an order shuffled by ``seed``: tables are often sorted by class.
    """

    tables: dict[Part, tuple[str, ...]]
    images: dict[Part, str]
    """Folder that the paths in each part's tables start from."""
    columns: UserColumns = field(default_factory=UserColumns)
    delimiter: str | None = None
    """Between the cells of the tables; None takes it from each header."""
    names: tuple[str, ...] | None = None
    """Columns of tables without a header."""
    boxes: Boxes | None = None
    """Faces to cut out; several rows may be of one picture then."""
    at_least: tuple[tuple[str, float], ...] = ()
    """Pairs of a column and the number below which rows are left out."""
    label_by: LabelBy | None = None
    """Whether the label is the column's, or the name of the first folder in the path; None refuses contradictions of
    the two where the layout has both."""
    extra: tuple[str, ...] = ()
    kind: str = "folder"
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind, table names, filters."""
        tables = {part: " ".join(map(posixpath.basename, uris)) for part, uris in self.tables.items()}
        filters = {"at_least": dict(self.at_least)} if self.at_least else {}
        return {"kind": self.kind, **tables, **filters, **({"label_by": self.label_by} if self.label_by else {})}

    def partitions(self) -> list[Partition]:
        """Stretches of each table's shuffled order.

        Raises:
            SettingError: for a column that is not there, and where folders and labels contradict each other.
        """
        refuse_repeated([uri for uris in self.tables.values() for uri in uris], "--table and --test-table")
        found: list[Partition] = []
        for part, uris in self.tables.items():
            for uri in uris:
                rows = len(self._table(uri))
                refuse_empty(part, rows, uri)
                if self.label_by is None and self.names is None and is_affectnet_copy(csv_columns(uri, self.delimiter)):
                    self._refuse_contradictions(uri)
                found += cut(part, rows, uri)
        return found

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with the uris of their images, or with the faces cut out of them."""
        table = self._table(partition.place)
        order = order_of(len(table), self.seed)
        with ThreadPoolExecutor() as pool:
            for span in spans(partition):
                yield self._rows(partition, table, order[span.start : span.stop], pool)

    def numbers_are_affectnets(self) -> bool:
        """Whether every table says by its columns that numbers are in AffectNet's order."""
        found = (self._columns_of(uri) for uris in self.tables.values() for uri in uris)
        return all(is_affectnet_layout(columns.label, columns.valence, columns.arousal) for columns in found)

    def contradictions(self, uri: str) -> tuple[int, str]:
        """Rows of a table whose first folder is another emotion than their label, and the first of them in words."""
        columns, table = self._columns_of(uri), self._table(uri)
        paths, labels = (table[name].to_pylist() for name in (columns.path, columns.label))
        wrong = [
            (path, label)
            for path, label in zip(paths, labels, strict=True)
            if is_emotion(_folder_of(path)) and is_emotion(label) and spelling(_folder_of(path)) != spelling(label)
        ]
        return len(wrong), f"{wrong[0][0]!r} has the label {wrong[0][1]!r}" if wrong else ""

    def _refuse_contradictions(self, uri: str) -> None:
        count, first = self.contradictions(uri)
        if count:
            raise SettingError(
                f"--label-by must say which is right, column or folder: in {count} of {len(self._table(uri))} rows of "
                f"{uri} they differ, {first}"
            )

    def _columns_of(self, uri: str) -> UserColumns:
        return find_columns(self.names or csv_columns(uri, self.delimiter), self.columns, uri)

    def _table(self, uri: str) -> pa.Table:
        present = self.names or csv_columns(uri, self.delimiter)
        more = {name: setting for setting, names in self._more().items() for name in names}
        require_columns(present, more, uri)
        wanted = dict.fromkeys((*self._columns_of(uri).present(), *more))
        return csv_table(uri, tuple(wanted), names=self.names, delimiter=self.delimiter)

    def _more(self) -> dict[str, tuple[str, ...]]:
        """Further columns, by the setting that names them."""
        boxes = () if self.boxes is None else tuple(column for _, column in self.boxes.columns)
        return {
            "--box-columns": boxes,
            "--at-least": tuple(column for column, _ in self.at_least),
            "--keep-column": self.extra,
        }

    def _rows(
        self, partition: Partition, table: pa.Table, numbers: NDArray[np.int64], pool: ThreadPoolExecutor
    ) -> Rows:
        part, uri = partition.part, partition.place
        columns = self._columns_of(uri)
        assert columns.path, "found by find_columns"
        assert columns.label, "found by find_columns"
        several_roots = len(set(self.images.values())) > 1
        prefix = posixpath.basename(self.images[part].rstrip("/")) + "/" if several_roots else ""
        table = table.take(numbers)
        paths = names = [path or "" for path in table[columns.path].to_pylist()]
        labels = label_cells(table[columns.label], f"column {columns.label!r} of {uri}")
        images: list[bytes | str | None] = [image_uri(self.images[part], path) for path in paths]
        reasons = self._below(table, uri)
        if self.boxes is not None:
            boxes = self.boxes.of_rows(table)
            names = [f"{path}@{_box_name(box)}" for path, box in zip(paths, boxes, strict=True)]
            cuts = list(pool.map(self.boxes.cut_out, images, boxes, reasons))
            images, reasons = [image for image, _ in cuts], [reason for _, reason in cuts]
        return Rows(
            part=part,
            numbers=numbers,
            keys=[sanitise_key(prefix + name) for name in names],
            names=names,
            images=images,
            labels=[_folder_of(path) or None for path in paths] if self.label_by == "folder" else labels,
            va=valence_arousal(table, columns, uri),
            reasons=reasons,
            extra={name: text_cells(table[name], f"column {name!r} of {uri}") for name in self.extra},
            are_made=self.boxes is not None,
        )

    def _below(self, table: pa.Table, uri: str) -> list[str | None]:
        """[n] which rows a filter leaves out; one without a number is left out too."""
        reasons: list[str | None] = [None] * len(table)
        for column, least in self.at_least:
            values_n = number_cells(table[column], f"column {column!r} of {uri}")
            for row in np.flatnonzero(~(values_n >= least)).tolist():
                reasons[row] = f"{LEFT_OUT}{column} below {least:g}"
        return reasons


def label_by_notes(source: FolderSource) -> Iterator[str]:
    """How often folder and label differ in tables that have both."""
    for uri in (uri for uris in source.tables.values() for uri in uris):
        if source.label_by is None:
            continue
        count, first = source.contradictions(uri)
        if count:
            yield f"{uri}: the {source.label_by} is the label in {count} rows where folder and column differ, {first}"


def _folder_of(path: str | None) -> str:
    folder, slash, _ = (path or "").replace("\\", "/").removeprefix("./").partition("/")
    return folder if slash else ""


def _box_name(box: Box) -> str:
    return "_".join(f"{number:g}" for number in box)
