"""Labels that a person corrected, as a new version of a data set. M = corrected samples, n = rows of one row group.

The corrections are a CSV such as the report's page exports: columns id, key, given_label and proposed_label (class
names); others are ignored. Every cell is checked against the data set, so that a list made from another one, or from
another version, is refused instead of being applied to the wrong faces.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.dataset.versions import Change, new_version
from ldlva_dist.errors import DataError
from ldlva_dist.packing.classes.class_index import ClassIndex
from ldlva_dist.packing.sources.readers.tables import need_columns
from ldlva_dist.storage.csv_file import read_csv

COLUMNS = ("id", "key", "given_label", "proposed_label")
GUARDED = re.compile(r"'[' ]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""A cell that begins as a formula does, with the apostrophe that the page puts before it (templates/marks.js)."""
MAX_DIGITS = 18  # of an id


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """What a list asks for, by id in ascending order."""

    uri: str
    class_names: Sequence[str]
    ids_M: NDArray[np.int64]
    keys_M: pa.StringArray
    given_M: NDArray[np.int16]
    """The labels that the list takes the samples to have."""
    proposed_M: NDArray[np.int16]

    @property
    def num_changed(self) -> int:
        """Samples that get another label; a list may confirm some."""
        return int((self.given_M != self.proposed_M).sum())

    def columns(self, block: pa.Table) -> Mapping[str, pa.Array]:
        """For ``versions.Change``: labels, the labels before all corrections, and which are known to be wrong.

        A corrected label is not known to be wrong any more; only where the parent says what was right before it was
        flipped on purpose is a third label known to be wrong too.
        """
        first, label_n = block["id"][0].as_py(), block["label"].to_numpy().copy()
        mine = slice(*np.searchsorted(self.ids_M, [first, first + len(block)]))
        row_m, old_m, new_m = self.ids_M[mine] - first, self.given_M[mine], self.proposed_M[mine]
        self._check(block, row_m, mine)
        label_n[row_m] = new_m
        original_n = block["original_label" if "original_label" in block.column_names else "label"].to_numpy()
        columns = {"label": pa.array(label_n), "original_label": pa.array(original_n)}
        if "flipped" in block.column_names:
            flipped_n = block["flipped"].to_numpy().astype(bool).copy()
            before_m = original_n[row_m]
            still_m = (old_m == new_m) | ((before_m != old_m) & (before_m != new_m))
            flipped_n[row_m] &= still_m
            columns["flipped"] = pa.array(flipped_n)
        return columns

    def _check(self, block: pa.Table, row_m: NDArray[np.int64], mine: slice) -> None:
        names = pa.array(self.class_names)
        for what, found_m, listed_m in (
            ("key", block["key"].take(pa.array(row_m)).combine_chunks(), self.keys_M[mine]),
            ("label", names.take(block["label"].take(pa.array(row_m))), names.take(pa.array(self.given_M[mine]))),
        ):
            differs_m = pc.call_function("not_equal", [found_m, listed_m]).to_numpy(zero_copy_only=False)
            if differs_m.any():
                place = int(differs_m.argmax())
                raise DataError(
                    f"{self.uri} was made from another data set or version: sample {self.ids_M[mine][place]} has the "
                    f"{what} {found_m[place].as_py()!r} here and {listed_m[place].as_py()!r} there"
                )


def read_corrections(uri: str, info: DatasetInfo) -> Corrections:
    """A list of corrections for a data set.

    Raises:
        DataError: for a file without the columns or without a row, an id that is none or stands twice, or a label that
            is no class; keys and given labels are compared when they are applied.
    """
    table = read_csv(uri, COLUMNS)
    need_columns(table.column_names, COLUMNS, uri)
    if not len(table):
        raise DataError(f"{uri} has no rows: nothing was marked")
    ids_M = _ids(uri, table["id"].to_pylist(), sum(split.rows for split in info.splits.values()))
    order_M = np.argsort(ids_M, kind="stable")
    twice = np.flatnonzero(np.diff(ids_M[order_M]) == 0)
    if len(twice):
        raise DataError(f"{uri} has sample {ids_M[order_M][twice[0]]} twice")
    given_M, proposed_M = (_labels(uri, table, name, info)[order_M] for name in ("given_label", "proposed_label"))
    return Corrections(
        uri=uri,
        class_names=info.class_names,
        ids_M=ids_M[order_M],
        keys_M=pa.array(_texts(table, "key")).take(pa.array(order_M)),
        given_M=given_M,
        proposed_M=proposed_M,
    )


def relabel(dataset: Dataset, name: str, corrections: Corrections) -> Dataset:
    """Write the version ``name`` of a data set, or of one of its versions, with corrected labels.

    The labels before all corrections stay beside them, as ``original_label``.

    Raises:
        SettingError: for a name that is taken.
        DataError: for a list of another data set or version, or one that changes nothing.
    """
    if not corrections.num_changed:
        raise DataError(f"{corrections.uri} changes nothing: every proposed label is the given one")
    source = {"relabelled": corrections.num_changed, "relabelled_by": corrections.uri.rpartition("/")[2]}
    line = f"{corrections.num_changed} labels corrected by hand"
    return new_version(dataset, name, Change(line=line, columns=corrections.columns, source=source))


def _ids(uri: str, texts: list[str], rows: int) -> NDArray[np.int64]:
    for line, text in enumerate(texts, 2):
        if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text) < rows):
            raise DataError(f"{uri}, line {line}: id must be one of the samples 0..{rows - 1}, got {text[:40]!r}")
    return np.array([int(text) for text in texts], dtype=np.int64)


def _texts(table: pa.Table, column: str) -> list[str]:
    """Cells without the apostrophe of what begins as a formula does."""
    return [text[1:] if GUARDED.match(text) else text for text in table[column].to_pylist()]


def _labels(uri: str, table: pa.Table, column: str, info: DatasetInfo) -> NDArray[np.int16]:
    classes = ClassIndex(info.class_names)
    found = [classes.find(text) for text in _texts(table, column)]
    if None in found:
        line = found.index(None)
        raise DataError(
            f"{uri}, line {line + 2}: {column} must be a class ({', '.join(info.class_names)}), "
            f"got {table[column][line].as_py()[:100]!r}"
        )
    return np.array(found, dtype=np.int16)
