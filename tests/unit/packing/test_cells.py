"""Cells of tables: the right label, number or flag from any type that can hold it, or an error of ours."""

import datetime
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.errors import DataError, LdlvaError, SettingError
from ldlva_dist.packing.classes.class_index import ClassIndex
from ldlva_dist.packing.sources.generic import Parquet
from ldlva_dist.packing.sources.readers.parquet import BAD_VOTES, ParquetSource
from ldlva_dist.packing.sources.readers.row_groups import read_stretch
from ldlva_dist.packing.sources.rows import Rows, all_rows
from ldlva_dist.packing.sources.user_columns import UserColumns
from ldlva_dist.packing.tables.cells import (
    CellError,
    flag_cells,
    label_cells,
    label_of,
    name_cells,
    number_cells,
    number_of,
    va_cells,
)

NAMES = pa.array(["Happy", None, "Fear"])


def _stored(tmp_path: Path, **columns: Any) -> pa.Table:
    """The columns as they come back from a parquet file."""
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    return pa.concat_tables(table for _, table in read_stretch(str(tmp_path / "x.parquet"), list(columns), 0, 3))


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        (NAMES, ["Happy", None, "Fear"]),
        (NAMES.cast(pa.large_string()), ["Happy", None, "Fear"]),
        (NAMES.cast(pa.string_view()), ["Happy", None, "Fear"]),
        (NAMES.dictionary_encode(), ["Happy", None, "Fear"]),
        (NAMES.cast(pa.binary()), ["Happy", None, "Fear"]),
        (
            pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.uint8()), ["Fear", "Happy"], ordered=True),
            ["Happy", None, "Fear"],  # polars' Enum
        ),
        (pa.array([3, None, 0]).dictionary_encode(), ["3", None, "0"]),
        (pa.array([3.0, math.nan, 1.5]), ["3", None, "1.5"]),
        (pa.array(np.array([3, np.nan, 1.5], np.float16)), ["3", None, "1.5"]),
        (pa.array([Decimal("3.00"), None, Decimal("1.50")], pa.decimal128(5, 2)), ["3", None, "1.50"]),
        (pa.array([3, None, 2**64 - 1], pa.uint64()), ["3", None, "18446744073709551615"]),
        (pa.array([True, None, False]), ["true", None, "false"]),
        (pa.array([[3], None, []]), ["3", None, None]),
        (pa.array([["Happy"], [None], ["Fear"]], pa.large_list(pa.large_string())), ["Happy", None, "Fear"]),
        (pa.array([[3], [4], None], pa.list_(pa.int64(), 1)), ["3", "4", None]),
        (pa.array(["", " ", "3.0"]), [None, None, "3.0"]),
        (pa.nulls(3), [None, None, None]),
    ],
    ids=lambda value: str(value.type).replace("\n", " ") if isinstance(value, pa.Array) else "",
)
def test_a_label_is_read_from_any_type_that_can_hold_it(
    tmp_path: Path, column: pa.Array, labels: list[str | None]
) -> None:
    assert label_cells(_stored(tmp_path, x=column)["x"], "column 'x'") == labels


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (
            pa.array([[3], [1, 3], None]),
            r"column 'x' \(list<.*: int64>\) must hold one label a row, got a list of 2",
        ),
        (pa.array([{"a": 1}, None, None]), r"column 'x' \(struct<a: int64>\) must hold names or numbers"),
        (pa.array([datetime.date(2026, 1, 1)] * 3), r"column 'x' \(date32\[day\]\) must hold names or numbers"),
        (pa.array([b"\xff", None, None]), r"column 'x' \(binary\) holds bytes that are no UTF-8 text"),
    ],
    ids=["lists", "struct", "date", "bytes"],
)
def test_a_column_of_other_things_is_one_sentence_with_column_and_type(
    tmp_path: Path, column: pa.Array, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        label_cells(_stored(tmp_path, x=column)["x"], "column 'x'")


@pytest.mark.parametrize(
    ("column", "numbers"),
    [
        (pa.array(["0.25", " -1 ", ""]).cast(pa.large_string()), [0.25, -1, np.nan]),
        (pa.array(["+0.25", "1e-1", None]).cast(pa.string_view()), [0.25, 0.1, np.nan]),
        (pa.array(["NA", "None", "nan"]), [np.nan] * 3),
        (pa.array(["null", "N/A", "1"]).dictionary_encode(), [np.nan, np.nan, 1]),
        (pa.array(["high", "1_0", "0,25"]), [np.inf] * 3),
        (pa.array(["inf", "1e400", "0x1"]), [np.inf] * 3),
        (pa.array([Decimal("0.25"), None, Decimal(-1)], pa.decimal128(5, 2)), [0.25, np.nan, -1]),
        (pa.array(np.array([0.25, np.nan, -1], np.float16)), [0.25, np.nan, -1]),
        (pa.array([1, None, 2**64 - 1], pa.uint64()), [1, np.nan, 2.0**64]),
        (pa.array([1e300, None, 0]), [np.inf, np.nan, 0]),
        (pa.nulls(3), [np.nan] * 3),
    ],
    ids=lambda value: str(value.type).replace("\n", " ") if isinstance(value, pa.Array) else "",
)
def test_a_number_is_read_from_any_type_that_can_hold_it(
    tmp_path: Path, column: pa.Array, numbers: list[float]
) -> None:
    found = number_cells(_stored(tmp_path, x=column)["x"], "column 'x'")
    np.testing.assert_allclose(found, numbers, rtol=1e-6)


def test_numbers_of_other_things_are_one_sentence(tmp_path: Path) -> None:
    for column, kind in ((pa.array([True, None, False]), "bool"), (pa.array([[1.0], None, None]), "list<")):
        with pytest.raises(SettingError, match=rf"column 'x' \({kind}.*\) must hold numbers"):
            number_cells(_stored(tmp_path, x=column)["x"], "column 'x'")


def test_minus_two_is_no_valence(tmp_path: Path) -> None:
    table = _stored(tmp_path, v=pa.array(["-2", "0.5", "-2.0"]), a=pa.array([-2.0, 0.25, -2.0]))
    np.testing.assert_array_equal(
        va_cells(table["v"], table["a"], "x"), [[np.nan, np.nan], [0.5, 0.25], [np.nan, np.nan]]
    )


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, False, None]), pa.array([1, 0, None]), pa.array([1.0, 0.0, math.nan]),
        pa.array(["Yes", "no", ""]), pa.array(["TRUE", "F", "NA"]).cast(pa.string_view()),
        pa.array(["y", "n", None]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type).replace("\n", " "),
)  # fmt: skip
def test_yes_and_no(tmp_path: Path, column: pa.Array) -> None:
    assert flag_cells(_stored(tmp_path, x=column)["x"], "column 'x'").tolist() == [True, False, False]


def test_what_is_neither_yes_nor_no_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"column 'x' \(int64\) must hold yes or no, got '2'"):
        flag_cells(_stored(tmp_path, x=pa.array([1, 2, 0]))["x"], "column 'x'")


def test_names_may_be_numbers_and_are_empty_where_there_is_none(tmp_path: Path) -> None:
    assert name_cells(_stored(tmp_path, x=pa.array([7.0, math.nan, 8.5]))["x"], "x") == ["7", "", "8.5"]
    assert name_cells(_stored(tmp_path, x=pa.array([b"a/0.jpg", None, b""]))["x"], "x") == ["a/0.jpg", "", ""]


# parquet files as sources


def _parquet(path: Path, **columns: Any) -> str:
    columns = {"image": pa.array([b"x"] * 3), "label": NAMES, **columns}
    pq.write_table(pa.table(columns), path)
    return str(path)


def _rows(source: ParquetSource) -> Rows:
    return next(iter(all_rows(source)))


def test_images_are_read_from_views_and_dictionaries(tmp_path: Path) -> None:
    images = pa.array([b"a", None, b"c"])
    for kind in (images.cast(pa.binary_view()), images.cast(pa.large_binary()), images.dictionary_encode()):
        source = ParquetSource(files={"train": (_parquet(tmp_path / "a.parquet", image=kind),)}, columns=_LABEL)
        assert list(_rows(source).images) == [b"a", None, b"c"]
    struct = pa.StructArray.from_arrays([images.cast(pa.binary_view())], ["bytes"])
    source = ParquetSource(files={"train": (_parquet(tmp_path / "a.parquet", image=struct),)}, columns=_LABEL)
    assert list(_rows(source).images) == [b"a", None, b"c"]


_LABEL = UserColumns(label="label")


@pytest.mark.parametrize(
    "image",
    [
        pa.array([{"bytes": "/etc/hostname", "path": None}] * 3),
        pa.array([{"bytes": None, "path": "/etc/hostname"}] * 3),
        pa.array(["/etc/hostname"] * 3),
        pa.array(["/etc/hostname"] * 3).cast(pa.string_view()),
        pa.array([["/etc/hostname"]] * 3),
    ],
    ids=["text as bytes", "no bytes", "text", "view", "list"],
)
@pytest.mark.parametrize("named", [None, "image"])
def test_a_data_file_never_names_files_to_open(tmp_path: Path, image: pa.Array, named: str | None) -> None:
    source = ParquetSource(
        files={"train": (_parquet(tmp_path / "a.parquet", image=image),)}, columns=_LABEL, image=named
    )
    with pytest.raises(SettingError, match=r"--image-column must name a column of encoded images .*image \("):
        source.partitions()


def test_votes_are_counts_or_the_row_is_rejected(tmp_path: Path) -> None:
    uri = _parquet(tmp_path / "a.parquet", a=pa.array(["3", "", "x"]), b=pa.array([1.0, math.nan, 2.0]))
    rows = _rows(ParquetSource(files={"train": (uri,)}, columns=_LABEL, votes=("a", "b")))
    assert rows.votes is not None
    assert rows.votes[:2].tolist() == [[3, 1], [0, 0]]
    assert rows.reasons == [None, None, BAD_VOTES]


def _command(tmp_path: Path, *train: str) -> Parquet:
    return Parquet(output="x", train=tuple(str(tmp_path / name) for name in train), label_column="label")


def test_a_folder_of_parts_is_read_by_their_names(tmp_path: Path) -> None:
    for number in (1, 0):
        _parquet(tmp_path / f"train-{number:05}-of-00002.parquet", image=pa.array([bytes([number])] * 3))
    (tmp_path / "README.md").write_text("x")
    rows = [rows.images[0] for rows in all_rows(_command(tmp_path, ".").source())]
    assert rows == [b"\0", b"\1"]


def test_a_folder_of_several_parts_is_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        _parquet(tmp_path / f"{part}-00000-of-00001.parquet")
    with pytest.raises(SettingError, match=r"--train must be one part, but .* has files of test, train: name them"):
        _command(tmp_path, ".").source()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=r"--train must be a \.parquet file or a folder of them"):
        _command(tmp_path, "empty").source()


def test_parts_that_are_read_by_other_columns_are_one_sentence(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet")
    _parquet(tmp_path / "b.parquet", valence=pa.array([0.0] * 3), arousal=pa.array([0.0] * 3))
    with pytest.raises(DataError, match=r"b\.parquet is read by image, label, valence, arousal, .*by image, label$"):
        _command(tmp_path, "a.parquet", "b.parquet").source().partitions()


def test_a_column_that_stands_twice_is_one_sentence(tmp_path: Path) -> None:
    table = pa.table([pa.array([b"x"]), pa.array(["a"]), pa.array(["b"])], names=["image", "label", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has the column 'label' 2 times"):
        _command(tmp_path, "a.parquet").source().partitions()


# anything at all


def _error(call: Callable[[], Any]) -> str:
    """What an error of ours says; nothing where there is none."""
    try:
        call()
    except (LdlvaError, CellError) as error:
        return str(error)
    return ""


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=1),
    max_leaves=3,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_VALUES)
def test_any_value_is_a_label_and_a_number_or_an_error_of_ours(value: Any) -> None:
    if not _error(lambda: label_of(value)):
        label = label_of(value)
        assert label is None or (label.strip() and ClassIndex(("a", "b")).find(label) in (None, 0, 1))
    assert isinstance(number_of(value), float)


_KINDS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        (pa.string(), pa.large_string(), pa.string_view()), st.text(st.characters(codec="utf-8"), max_size=4)
    ),
    **dict.fromkeys((pa.binary(), pa.large_binary(), pa.binary_view()), st.binary(max_size=3)),
    **dict.fromkeys((pa.int8(), pa.uint64(), pa.duration("s")), st.integers(0, 9)),
    **dict.fromkeys((pa.float16(), pa.float64()), st.floats(width=16)),
    **dict.fromkeys((pa.decimal128(20, 3), pa.decimal256(40, 3)), st.decimals(-99, 99, places=3)),
    **dict.fromkeys((pa.list_(pa.int64()), pa.large_list(pa.float64())), st.lists(st.integers(0, 9), max_size=3)),
    pa.bool_(): st.booleans(),
    pa.null(): st.none(),
    pa.date32(): st.dates(),
    pa.timestamp("us"): st.datetimes(),
    pa.list_(pa.string_view()): st.lists(st.text("ab1", max_size=2), max_size=2),
    pa.list_(pa.int8(), 2): st.lists(st.integers(0, 9), min_size=2, max_size=2),
    pa.struct([("bytes", pa.binary_view())]): st.fixed_dictionaries({"bytes": st.none() | st.binary(max_size=3)}),
    pa.map_(pa.string(), pa.int8()): st.lists(st.tuples(st.text("ab", max_size=2), st.integers(0, 9)), max_size=2),
}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from(list(_KINDS)), st.booleans())
def test_any_parquet_column_is_read_or_an_error_of_ours(
    tmp_path_factory, data: st.DataObject, kind: pa.DataType, encode: bool
) -> None:
    column = pa.array(data.draw(st.lists(st.none() | _KINDS[kind], min_size=1, max_size=3)), kind)
    if encode and (pa.types.is_string(kind) or pa.types.is_integer(kind)):
        column = column.dictionary_encode()
    path = str(tmp_path_factory.getbasetemp() / "any.parquet")
    pq.write_table(pa.table({"x": column}), path)
    for reader in (label_cells, number_cells, flag_cells, name_cells):
        try:
            found = len(reader(next(read_stretch(path, ["x"], 0, len(column)))[1]["x"], "column x"))
        except LdlvaError as error:
            said, found = str(error), len(column)
            assert "column x" in said or path in said
        assert found == len(column)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_parquet_file_is_an_error_of_ours_or_rows(tmp_path_factory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    _parquet(path)
    whole = bytearray(path.read_bytes())
    for place, byte in data.draw(st.lists(st.tuples(st.integers(4, len(whole) - 1), st.integers(0, 255)), max_size=3)):
        whole[place] = byte
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))]))
    source = ParquetSource(files={"train": (str(path),)}, columns=_LABEL)
    said = _error(lambda: [len(rows.labels) for rows in all_rows(source)])
    assert not said or str(path) in said
