"""A table of points joined by key: exact, with counts of what does not fit."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.annotate.va_table import PointFile, PointTable, keys_of
from ldlva_dist.storage import csv_file


def _open(path: Path, *, clip: bool = False) -> PointTable:
    return PointTable(PointFile(uri=str(path), key="path", valence="v", arousal="a", clip=clip))


def _table(tmp_path: Path, text: str, *, clip: bool = False) -> PointTable:
    path = tmp_path / "points.csv"
    path.write_text(text)
    return _open(path, clip=clip)


def _points(table: PointTable, *keys: str) -> np.ndarray:
    columns = table.columns(pa.table({"key": list(keys)}))
    return np.stack([columns[name].to_numpy() for name in ("valence", "arousal")], axis=1)


@settings(deadline=None)
@given(st.lists(st.text(alphabet=st.sampled_from("abcXYZ019-_./ éß日\\"), max_size=100), max_size=8))
def test_keys_are_those_that_packing_makes(names: list[str]) -> None:
    assert keys_of(pa.array(names, pa.string())).to_pylist() == [sanitise_key(name) for name in names]


def test_points_come_by_key_in_any_order_and_unused_rows_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 64)  # a few lines a block
    rows = "".join(f"{i},faces/{i:03}.jpg,{i / 100},{-i / 200}\n" for i in np.random.default_rng(0).permutation(60))
    table = _table(tmp_path, "number,path,v,a\n" + rows)
    assert table.num_unused == 60
    found = _points(table, "faces_007", "faces_059", "elsewhere", "faces_000")
    np.testing.assert_allclose(found, [[0.07, -0.035], [0.59, -0.295], [np.nan, np.nan], [0, 0]], rtol=1e-6)
    _points(table, "faces_007")
    assert table.num_unused == 57


def test_an_empty_cell_is_a_row_without_a_point(tmp_path: Path) -> None:
    assert np.isnan(_points(_table(tmp_path, "path,v,a\nx.jpg,,\n"), "x")).all()


def test_values_out_of_range_are_counted_or_cut(tmp_path: Path) -> None:
    text = "path,v,a\nx.jpg,0.5,0\ny.jpg,1.5,0\nz.jpg,0,-9\n"
    with pytest.raises(DataError, match=r"2 rows outside \[-1, 1\], the first is y \(--clip"):
        _table(tmp_path, text)
    np.testing.assert_allclose(_points(_table(tmp_path, text, clip=True), "y", "z"), [[1, 0], [0, -1]])


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("path,v,a\nx.jpg,0,0\ny.png,0,0\nx.png,1,1\n", DataError, "1 keys that stood before, the first in row 3"),
        ("path,v\nx.jpg,0\n", SettingError, "--arousal-column must be a column .* got 'a'; columns present: path, v"),
        ("path,v,a\nx.jpg,high,0\n", DataError, "the valence or arousal of 'x' is no number"),
        ("path,v,a\nx.jpg,0\n", DataError, "is not a readable CSV"),
        ("path,v,a\n", DataError, "has no rows"),
        ("", DataError, "is not a readable CSV"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, text: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        _table(tmp_path, text)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv"):
        _open(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("clip", [False, True])
def test_what_says_none_is_none_and_never_clipped(tmp_path: Path, clip: bool) -> None:
    text = "path,v,a\nx.jpg,-2,-2\ny.jpg,-2.0, -2 \nz.jpg,NA,None\nw.jpg,,nan\nu.jpg,.5,-.25\n"
    np.testing.assert_array_equal(
        _points(_table(tmp_path, text, clip=clip), "x", "y", "z", "w", "u"), [*[[np.nan, np.nan]] * 4, [0.5, -0.25]]
    )


def test_clipping_makes_no_number_of_a_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the valence or arousal of 'x' is no number"):
        _table(tmp_path, "path,v,a\nx.jpg,high,0\n", clip=True)


def test_clip_is_advised_only_for_what_it_cuts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 1 rows outside \[-1, 1\], the first is y \(--clip cuts them\)"):
        _table(tmp_path, "path,v,a\nx.jpg,-2,-2\ny.jpg,1.5,0\n")
