"""The columns of a user's table: which is which. n = rows."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.classes.known_layouts import AFFECTNET_COPY
from ldlva_dist.packing.sources.rows import USUAL_NAMES
from ldlva_dist.packing.tables.cells import plain_type, va_cells
from ldlva_dist.storage.csv_file import check_once


@dataclass(frozen=True, kw_only=True)
class UserColumns:
    """Names of the user's columns; None takes the usual name where the table has it."""

    path: str | None = None
    label: str | None = None
    valence: str | None = None
    arousal: str | None = None
    va_scale: tuple[float, float] | None = None
    """Numbers that stand for -1 and 1; None: the numbers are in [-1, 1], and -2 says that there is none."""

    def present(self) -> tuple[str, ...]:
        """The names that are known."""
        names = (self.path, self.label, self.valence, self.arousal)
        return tuple(name for name in names if name is not None)


def parquet_schema(uri: str) -> pa.Schema:
    """The columns of a parquet file; anything else is a DataError."""
    try:
        with storage.open_input(uri) as stream:
            return pq.read_schema(stream)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{uri} is not a parquet file: {error}") from error


def find_columns(names: Sequence[str], wanted: UserColumns, uri: str, need_path: bool = True) -> UserColumns:
    """Settle which column is which.

    Raises:
        SettingError: for a column that is named but absent, or needed but not found.
        DataError: for one that stands twice.
    """
    found: dict[str, str | None] = {}
    usual_names = {**USUAL_NAMES, **AFFECTNET_COPY} if is_affectnet_copy(names) else USUAL_NAMES
    for role in USUAL_NAMES:
        usual_name = usual_names[role]
        name = getattr(wanted, role)
        if name is not None and name not in names:
            raise SettingError(f"--{role}-column must be a column of {uri}, got {name!r}; {columns_present(names)}")
        found[role] = name or (usual_name if usual_name in names else None)
    for role in ("path", "label") if need_path else ("label",):
        if found[role] is None:
            raise SettingError(f"--{role}-column must name the {role} column of {uri}; {columns_present(names)}")
    if (found["valence"] is None) != (found["arousal"] is None):
        raise SettingError(f"{uri} must have valence and arousal, or neither; {columns_present(names)}")
    settled = UserColumns(**found, va_scale=wanted.va_scale)
    check_once(names, settled.present(), uri)
    return settled


def is_affectnet_layout(label: str | None, valence: str | None, arousal: str | None) -> bool:
    """Whether a table says by its columns that its numbers are in AffectNet's order.

    So do a column of labels with the name it has in AffectNet's and the reference's lists, and valence-arousal beside
    the labels, which sets with other orders do not bring.
    """
    return label == USUAL_NAMES["label"] or (valence is not None and arousal is not None)


def is_affectnet_copy(names: Collection[str]) -> bool:
    """Whether a table has the columns that the copies of AffectNet on Kaggle have."""
    return set(AFFECTNET_COPY.values()) <= set(names)


def require_columns(names: Collection[str], wanted: Mapping[str, str], uri: str) -> None:
    """SettingError for a column that a setting names and the table does not have; ``wanted`` has the settings."""
    for name, setting in wanted.items():
        if name not in names:
            raise SettingError(f"{setting} must name columns of {uri}, got {name!r}; {columns_present(names)}")


def columns_present(names: Collection[str]) -> str:
    """For a message: what the user could have meant."""
    return "columns present: " + ", ".join(sorted(names) if isinstance(names, set) else names)


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column can hold encoded images: bytes, or a struct with a field ``bytes`` of bytes.

    Text never does: it would be the path of a file, and a data file does not decide which files are opened.
    """
    kind = plain_type(kind)
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and holds_images(kind.field(place).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def image_column(schema: pa.Schema, wanted: str | None, uri: str) -> str:
    """The column of encoded images: the one that is wanted, or the only one that can hold them; else a SettingError."""
    candidates = [field.name for field in schema if holds_images(field.type)]
    if wanted in candidates or (wanted is None and len(candidates) == 1):
        return wanted or candidates[0]
    present = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise SettingError(
        f"--image-column must name a column of encoded images in {uri}, one of {candidates}, got {wanted!r}; "
        f"columns present: {present[:500]}"
    )


def class_label_names(schema: pa.Schema, column: str, uri: str) -> tuple[str, ...] | None:
    """What the integers of a column mean, where Hugging Face's ``datasets`` wrote that down (a ``ClassLabel``)."""
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return None
    try:
        feature = json.loads(written)["info"]["features"].get(column) or {}
        feature = feature.get("feature") or feature  # a list of them
        return tuple(feature["names"]) if feature.get("_type") == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the huggingface metadata of {uri} are not as datasets writes them: {error!r}") from error


def named_labels(labels: Sequence[str | None], names: Sequence[str]) -> list[str | None]:
    """Class names for indices; None for -1, which says "no label", and a text that is no class for other numbers."""
    meaning = {None: None, "-1": None, **{str(i): name for i, name in enumerate(names)}}
    return [meaning.get(label, f"ClassLabel {label}") for label in labels]


def valence_arousal(table: pa.Table, columns: UserColumns, uri: str) -> NDArray[np.float32]:
    """[n, 2] of the rows of a table; NaN where there is none, infinity where a cell is no number."""
    if columns.valence is None or columns.arousal is None:
        return np.full((len(table), 2), np.nan, dtype=np.float32)
    return va_cells(table[columns.valence], table[columns.arousal], uri, columns.va_scale)
