"""The one reader of CSV files: whoever wrote them, the right cells or one sentence."""

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.storage import csv_file
from ldlva_dist.storage.csv_file import csv_columns, csv_delimiter, delimiter_option, delimiter_remark, read_csv

ROWS = {"file": ["é/0.jpg", "1.jpg"], "expression": ["3", "Happy"]}


def _write(tmp_path: Path, data: bytes | str) -> str:
    path = tmp_path / "faces.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_csv_is_read_in_its_encoding_and_by_its_delimiter(
    tmp_path: Path, encoding: str, delimiter: str, end: str
) -> None:
    lines = ["file,expression", "é/0.jpg,3", "1.jpg,Happy", ""]
    uri = _write(tmp_path, end.join(lines).replace(",", delimiter).encode(encoding))
    assert read_csv(uri).to_pydict() == ROWS
    assert csv_columns(uri) == ["file", "expression"]
    assert csv_delimiter(uri) == delimiter
    assert (delimiter_remark(uri, None) is None) == (delimiter == ",")


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [("file,a;b", ","), ("file;a\tb", ","), ("file", ","), ('file;"a,b"', ";"), ("a|b", "|")],
)
def test_a_delimiter_is_guessed_only_where_it_is_unmistakable(tmp_path: Path, header: str, delimiter: str) -> None:
    assert csv_delimiter(_write(tmp_path, f"{header}\n")) == delimiter


def test_a_delimiter_that_was_said_is_not_guessed(tmp_path: Path) -> None:
    uri = _write(tmp_path, "file:label;x\n0.jpg:3;y\n")
    assert read_csv(uri, delimiter=":").to_pydict() == {"file": ["0.jpg"], "label;x": ["3;y"]}
    assert [delimiter_option(text) for text in (None, ";", "\\t", "tab", "\t")] == [None, ";", "\t", "\t", "\t"]
    for text in ("", ";;", '"', "\n"):
        with pytest.raises(SettingError, match="--delimiter must be one character"):
            delimiter_option(text)


def test_quoted_line_breaks_are_part_of_their_cell_even_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 64)
    uri = _write(tmp_path, "file,remark,label\n" + "".join(f'{i}.jpg,"two\nlines, ""{i}""",{i}\n' for i in range(50)))
    assert read_csv(uri, ("file", "label")).to_pydict() == {
        "file": [f"{i}.jpg" for i in range(50)],
        "label": [str(i) for i in range(50)],
    }
    assert read_csv(uri)["remark"].to_pylist()[7] == 'two\nlines, "7"'


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("file,expression,remarque_\u00e9\n0.jpg,3,ok\n".encode("latin-1"), r"faces\.csv must be text in UTF-8"),
        ("file,expression\n\u00e9.jpg,3\n".encode("latin-1"), r"faces\.csv must be text in UTF-8"),
        ("file,expression\n0.jpg,3\n".encode("utf-16-le"), r"faces\.csv must be text, but there are NUL bytes"),
        ("file,expression,expression\n0.jpg,3,3\n", r"faces\.csv has the column 'expression' 2 times"),
        ("file,expression\n0.jpg,3,4\n", r"faces\.csv is not a readable CSV: .*Expected 2 columns, got 3"),
        ("file,expression\n0.jpg\n", r"faces\.csv is not a readable CSV: .*Expected 2 columns, got 1"),
        ('file,expression,remark\n0.jpg,3,"cut\n1.jpg,4,"fine"\n', r"faces\.csv, line 3: quotes are not closed"),
        ('file,expression\n"0".jpg,3\n', r"faces\.csv, line 2: quotes are not closed"),
        ('file,expression\n0.jpg,"3\n', r"faces\.csv, line 2: quotes are not closed"),
        ("", r"faces\.csv is not a readable CSV: Empty CSV file"),
    ],
)
def test_a_file_that_is_no_such_csv_is_one_sentence_that_names_it(
    tmp_path: Path, data: bytes | str, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        read_csv(_write(tmp_path, data), ("file", "expression"))
    assert "\n" not in str(caught.value)


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert read_csv(_write(tmp_path, "file,expression\n")).to_pydict() == {"file": [], "expression": []}


def test_columns_that_nobody_reads_may_stand_twice_and_hold_anything(tmp_path: Path) -> None:
    uri = _write(tmp_path, b"x,file,x\n\xe9,0.jpg,\xff\n")
    assert read_csv(uri, ("file",)).to_pydict() == {"file": ["0.jpg"]}


_CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(_CELLS, _CELLS), min_size=1, max_size=6), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_what_a_writer_of_csvs_writes_comes_back(tmp_path_factory, rows: list[tuple[str, str]], quoting) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=quoting, lineterminator="\n").writerows([("a", "b"), *rows])
    uri = _write(tmp_path_factory.getbasetemp(), text.getvalue())
    assert read_csv(uri).to_pydict() == {"a": [a for a, _ in rows], "b": [b for _, b in rows]}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=60) | st.text(alphabet='a,;\t|"\n\r\0é1.', max_size=40).map(str.encode))
def test_any_bytes_are_a_table_or_an_error_of_ours(tmp_path_factory, data: bytes) -> None:
    uri = _write(tmp_path_factory.getbasetemp(), data)
    cells: list[Any] = []
    with suppress(DataError):
        cells = [cell for column in read_csv(uri).columns for cell in column.to_pylist()]
    assert all(isinstance(cell, str) for cell in cells)
