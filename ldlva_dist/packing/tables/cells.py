"""Cells of a user's tables as labels, numbers, yes or no, and names, however they are stored. n = cells of a column.

One cell is read by the same rules from CSV, JSON and parquet. ``where`` names a column in messages.
"""

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.sources.rows import NO_VALUE

ABSENT = -2.0
"""Valence or arousal that is not there, as AffectNet writes it."""
YES, NO = frozenset({"true", "yes", "t", "y", "1"}), frozenset({"false", "no", "f", "n", "0"})


class CellError(ValueError):
    """Why a cell cannot be read."""


def label_of(value: Any) -> str | None:
    """A label as text, a whole number without decimals; None where there is none. A list of one label is that label.

    Raises:
        CellError: for a list of several labels, and for what is neither a name nor a number.
    """
    if isinstance(value, list):
        if len(value) > 1:
            raise CellError(f"must hold one label a row, got a list of {len(value)}")
        return label_of(value[0]) if value else None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise CellError("holds bytes that are no UTF-8 text") from error
    if value is None or isinstance(value, str):
        return value if value and value.strip() else None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int | float | Decimal):
        return None if math.isnan(value) else str(value)
    raise CellError("must hold names or numbers")


def number_of(value: Any) -> float:
    """A number, or text that is one; NaN for what says that there is none, infinity for anything else."""
    if value is None or (isinstance(value, str) and value.strip().lower() in NO_VALUE):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, str) and "_" in value):
        return math.inf
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.inf


def label_cells(column: pa.ChunkedArray, where: str) -> list[str | None]:
    """[n] :func:`label_of` every cell; DataError for one that cannot be read."""
    try:
        return [label_of(value) for value in column.to_pylist()]
    except CellError as error:
        raise DataError(f"{where} ({column.type}) {error}") from error


def name_cells(column: pa.ChunkedArray, where: str) -> list[str]:
    """[n] names as text; empty where there is none."""
    return [label or "" for label in label_cells(column, where)]


def text_cells(column: pa.ChunkedArray, where: str) -> list[str | None]:
    """[n] texts and numbers as text; None where there is none."""
    return [None if text is None or text.strip().lower() in NO_VALUE else text for text in label_cells(column, where)]


def flag_cells(column: pa.ChunkedArray, where: str) -> NDArray[np.bool_]:
    """[n] yes or no, written as such, as true or false, or as 1 or 0; no where there is none. Else a SettingError."""
    words = [name.strip().lower() for name in name_cells(column, where)]
    strange = [word for word in words if word not in YES | NO | NO_VALUE]
    if strange:
        raise SettingError(f"{where} ({column.type}) must hold yes or no, got {strange[0]!r}")
    return np.array([word in YES for word in words], dtype=bool)


def number_cells(column: pa.ChunkedArray, where: str) -> NDArray[np.float32]:
    """[n]; NaN where there is none, infinity where a text is no number. A column of anything else is a SettingError."""
    kind = column.type
    if pa.types.is_string(kind):
        return float32(_numbers(column))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return float32(column.cast(pa.float64(), safe=False).to_numpy())
    raise SettingError(f"{where} ({kind}) must hold numbers")


def va_cells(
    valence: pa.ChunkedArray, arousal: pa.ChunkedArray, where: str, scale: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """[n, 2] numbers of two columns of a table, see :func:`scaled_va`."""
    pairs = (("valence", valence), ("arousal", arousal))
    va_n2 = np.stack([number_cells(column, f"the {role} of {where}") for role, column in pairs], axis=1)
    return scaled_va(va_n2, scale)


def scaled_va(va_n2: NDArray[np.float32], scale: tuple[float, float] | None) -> NDArray[np.float32]:
    """[n, 2] valence and arousal of another scale in [-1, 1]; where none is said, -2 says that there is no value."""
    if scale is None:
        return np.where(va_n2 == ABSENT, np.float32(np.nan), va_n2)
    low, high = scale
    return float32((va_n2.astype(np.float64) - low) * (2 / (high - low)) - 1)


def check_scale(scale: tuple[float, float] | None) -> None:
    """SettingError for two numbers that are no scale."""
    if scale is not None and not (math.isfinite(scale[0]) and math.isfinite(scale[1]) and scale[0] < scale[1]):
        raise SettingError(f"--va-scale must be the numbers that stand for -1 and 1, got {scale[0]:g} {scale[1]:g}")


def float32(numbers: Any) -> NDArray[np.float32]:
    """Numbers as float32; those beyond its range become infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(numbers, dtype=np.float64).astype(np.float32)


def plain_table(table: pa.Table) -> pa.Table:
    """The same cells in the plain types that pyarrow can work with; ArrowInvalid for text that is none."""
    fields = [field.with_type(plain_type(field.type)) for field in table.schema]
    plain = table.cast(pa.schema(fields, table.schema.metadata))
    plain.validate(full=True)
    return plain


def plain_type(kind: pa.DataType) -> pa.DataType:
    """No views, which pyarrow can neither take nor filter, no dictionaries and no extensions."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type))
    return kind


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """[n] :func:`number_of` every text, all at once where all of them are numbers or none."""
    call = pc.call_function
    trimmed = call("utf8_trim_whitespace", [column])
    is_none = call("is_in", [call("utf8_lower", [trimmed])], pc.SetLookupOptions(pa.array(sorted(NO_VALUE))))
    try:
        numbers = call("if_else", [is_none, pa.scalar(None, pa.string()), trimmed]).cast(pa.float64())
    except pa.ArrowInvalid:
        return np.array([number_of(text) for text in column.to_pylist()], dtype=np.float64)
    return numbers.to_numpy()
