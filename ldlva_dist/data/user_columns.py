"""The columns of a user's table: which is which, and their cells as labels and numbers. n = rows."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist.data import storage
from ldlva_dist.errors import DataError, SettingError

USUAL_NAMES = {"path": "subDirectory_filePath", "label": "expression", "valence": "valence", "arousal": "arousal"}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the user's columns; None takes the usual name where the table has it."""

    path: str | None = None
    label: str | None = None
    valence: str | None = None
    arousal: str | None = None

    def present(self) -> tuple[str, ...]:
        """The names that are known."""
        names = (self.path, self.label, self.valence, self.arousal)
        return tuple(name for name in names if name is not None)


def csv_columns(uri: str, delimiter: str = ",") -> list[str]:
    """The header of a CSV; what is none is a DataError."""
    parse = pa_csv.ParseOptions(delimiter=delimiter)
    try:
        with storage.open_input(uri) as stream:
            options = pa_csv.ReadOptions(use_threads=False)
            return pa_csv.open_csv(stream, read_options=options, parse_options=parse).schema.names
    except pa.ArrowInvalid as error:
        raise DataError(f"{uri} is not a readable CSV: {error}") from error


def read_csv(
    uri: str, keep: Sequence[str] | None = None, *, names: Sequence[str] | None = None, delimiter: str = ","
) -> pa.Table:
    """A CSV with every column as text; what is none is a DataError.

    Args:
        uri: The file.
        keep: Columns to keep, of those that are there; None keeps all.
        names: Those of the columns, for a file without a header.
        delimiter: What stands between two cells.
    """
    found = list(names or csv_columns(uri, delimiter))
    kept = [name for name in found if keep is None or name in keep]
    options = pa_csv.ReadOptions(use_threads=False, column_names=None if names is None else found)
    text = pa_csv.ConvertOptions(column_types=dict.fromkeys(found, pa.string()), include_columns=kept)
    try:
        with storage.open_input(uri) as stream:
            parse = pa_csv.ParseOptions(delimiter=delimiter)
            return pa_csv.read_csv(stream, read_options=options, parse_options=parse, convert_options=text)
    except pa.ArrowInvalid as error:
        raise DataError(f"{uri} is not a readable CSV: {error}") from error


def parquet_schema(uri: str) -> pa.Schema:
    """The columns of a parquet file; anything else is a DataError."""
    try:
        with storage.open_input(uri) as stream:
            return pq.read_schema(stream)
    except pa.ArrowInvalid as error:
        raise DataError(f"{uri} is not a parquet file: {error}") from error


def find_columns(names: Sequence[str], wanted: Columns, uri: str, need_path: bool = True) -> Columns:
    """Settle which column is which; one that is named but absent, or needed but not found, is a SettingError."""
    found: dict[str, str | None] = {}
    for role, usual_name in USUAL_NAMES.items():
        name = getattr(wanted, role)
        if name is not None and name not in names:
            raise SettingError(f"--{role}-column must be a column of {uri}, got {name!r}; {columns_present(names)}")
        found[role] = name or (usual_name if usual_name in names else None)
    for role in ("path", "label") if need_path else ("label",):
        if found[role] is None:
            raise SettingError(f"--{role}-column must name the {role} column of {uri}; {columns_present(names)}")
    if (found["valence"] is None) != (found["arousal"] is None):
        raise SettingError(f"{uri} must have valence and arousal, or neither; {columns_present(names)}")
    return Columns(**found)


def is_affectnet_layout(label: str | None, valence: str | None, arousal: str | None) -> bool:
    """Whether a table says by its columns that its numbers are in AffectNet's order.

    So do a column of labels with the name it has in AffectNet's and the reference's lists, and valence-arousal beside
    the labels, which sets with other orders do not bring.
    """
    return label == USUAL_NAMES["label"] or (valence is not None and arousal is not None)


def columns_present(names: Collection[str]) -> str:
    """For a message: what the user could have meant."""
    return "columns present: " + ", ".join(sorted(names) if isinstance(names, set) else names)


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column can hold encoded images: bytes, or a struct with a field ``bytes``."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def class_label_names(schema: pa.Schema, column: str, uri: str) -> tuple[str, ...] | None:
    """What the integers of a column mean, where Hugging Face's ``datasets`` wrote that down (a ``ClassLabel``)."""
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return None
    try:
        feature = json.loads(written)["info"]["features"].get(column) or {}
        return tuple(feature["names"]) if feature.get("_type") == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the huggingface metadata of {uri} are not as datasets writes them: {error!r}") from error


def named_labels(labels: Sequence[str | None], names: Sequence[str]) -> list[str | None]:
    """Class names for indices; None for -1, which says "no label", and a text that is no class for other numbers."""
    meaning = {None: None, "-1": None, **{str(i): name for i, name in enumerate(names)}}
    return [meaning.get(label, f"ClassLabel {label}") for label in labels]


def label_cells(column: pa.ChunkedArray) -> list[str | None]:
    """Labels as text; None where the cell is empty."""
    if pa.types.is_floating(column.type):
        column = column.cast(pa.int64())
    return [None if label is None or not label.strip() else label for label in column.cast(pa.string()).to_pylist()]


def va_cells(table: pa.Table, columns: Columns) -> NDArray[np.float32]:
    """[n, 2]; NaN where a cell is empty, infinity where it is not a number."""
    if columns.valence is None or columns.arousal is None:
        return np.full((len(table), 2), np.nan, dtype=np.float32)
    return np.stack([numbers_of(table[name]) for name in (columns.valence, columns.arousal)], axis=1)


def numbers_of(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """[n]; NaN where a cell is empty, infinity where it is not a number."""
    if not pa.types.is_string(column.type):
        return column.cast(pa.float64()).to_numpy().astype(np.float32)
    return np.asarray([_number(text) for text in column.to_pylist()], dtype=np.float32)


def _number(text: str | None) -> float:
    if text is None or not text.strip():
        return np.nan
    try:
        return float(text)
    except ValueError:
        return np.inf
