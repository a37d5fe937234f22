"""What users have: tables, layouts, label spellings, filters."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.classes.class_index import ClassIndex
from ldlva_dist.packing.sources.generic import check_order_of_votes
from ldlva_dist.packing.sources.readers.folder import FolderSource
from ldlva_dist.packing.sources.readers.parquet import ParquetSource
from ldlva_dist.packing.sources.readers.tables import image_uri
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES, Rows, Source, all_rows
from ldlva_dist.packing.sources.user_columns import UserColumns


def _rows(source: Source) -> list[tuple[str, str, str | None]]:
    return [
        (rows.part, key, label) for rows in all_rows(source) for key, label in zip(rows.keys, rows.labels, strict=True)
    ]


def _only(source: Source) -> Rows:
    (rows,) = all_rows(source)
    return rows


def _folder(tmp_path: Path, csv: str, **columns: str) -> FolderSource:
    (tmp_path / "table.csv").write_text(csv)
    images = str(tmp_path / "faces")
    return FolderSource(
        tables={"train": (str(tmp_path / "table.csv"),)}, images={"train": images}, columns=UserColumns(**columns)
    )


def _parquet(tmp_path: Path, file: str = "rows.parquet", **columns: Any) -> str:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    rows = len(next(iter(columns.values())))
    pq.write_table(pa.table({"picture": [buffer.getvalue()] * rows, **columns}), tmp_path / file)
    return str(tmp_path / file)


def test_the_reference_layout_is_recognised_by_its_header(tmp_path: Path) -> None:
    csv = "subDirectory_filePath,expression,valence,arousal,knn\na/1.jpg,3,0.5,-0.25,[1 2]\na/2.jpg,0,0,0,[3]\n"
    source = _folder(tmp_path, csv)
    assert sorted(_rows(source)) == [("train", "a_1", "3"), ("train", "a_2", "0")]
    rows = _only(source)
    first = list(rows.keys).index("a_1")
    assert rows.images[first] == str(tmp_path / "faces" / "a" / "1.jpg")
    np.testing.assert_allclose(rows.va[first], [0.5, -0.25])


def test_named_columns_are_used_and_empty_cells_are_missing(tmp_path: Path) -> None:
    csv = "file,emotion,v,a\n1.jpg,happy,0.5,\n2.jpg,,x,0.1\n"
    source = _folder(tmp_path, csv, path="file", label="emotion", valence="v", arousal="a")
    rows = _only(source)
    order = np.argsort(rows.keys)
    assert [rows.labels[i] for i in order] == ["happy", None]
    np.testing.assert_allclose(rows.va[order], [[0.5, np.nan], [np.inf, 0.1]], rtol=1e-6)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--label-column must name the label column .*columns present: path, kind"):
        _rows(_folder(tmp_path, "path,kind\n1.jpg,happy\n", path="path"))
    with pytest.raises(SettingError, match=r"--label-column must be a column .* got 'emotion'"):
        _rows(_folder(tmp_path, "path,kind\n1.jpg,happy\n", path="path", label="emotion"))
    with pytest.raises(SettingError, match="must have valence and arousal, or neither"):
        _rows(_folder(tmp_path, "path,kind,valence\n1.jpg,happy,0\n", path="path", label="kind"))


def test_rows_of_a_folder_are_shuffled_the_same_way_every_time(tmp_path: Path) -> None:
    csv = "path,label\n" + "".join(f"{i:03d}.jpg,happy\n" for i in range(100))
    source = _folder(tmp_path, csv, path="path", label="label")
    keys = [key for _, key, _ in _rows(source)]
    assert keys == [key for _, key, _ in _rows(source)]
    assert keys != sorted(keys)
    assert sorted(keys) == [f"{i:03d}" for i in range(100)]


def test_a_broken_csv_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable CSV"):
        _rows(_folder(tmp_path, "path,label\n1.jpg\n", path="path", label="label"))


def test_parquet_rows_keep_their_order_and_votes(tmp_path: Path) -> None:
    file = _parquet(tmp_path, name=["b.png", "a.png"], emotion=["happy", None], x=[3, None], y=[1, 2])
    columns = UserColumns(label="emotion")
    rows = _only(ParquetSource(files={"train": (file,)}, columns=columns, key="name", votes=("y", "x")))
    assert list(rows.keys) == ["b", "a"]
    assert list(rows.labels) == ["happy", None]
    np.testing.assert_array_equal(rows.votes, [[1, 3], [2, 0]])
    assert np.isnan(rows.va).all()


def test_filters_apply_where_the_column_exists_and_numbers_count_all_rows(tmp_path: Path) -> None:
    train = _parquet(tmp_path, "train.parquet", label=[0, 1, 2], copy=[True, False, None])
    test = _parquet(tmp_path, "test.parquet", label=[3, 4, 5], good=[True, False, None])
    source = ParquetSource(
        files={"train": (train,), "test": (test,)}, columns=UserColumns(label="label"), keep=("good",), drop=("copy",)
    )
    assert [label for _, _, label in _rows(source)] == ["1", "2", "3"]
    assert [rows.numbers.tolist() for rows in all_rows(source)] == [[1, 2], [0]]
    with pytest.raises(SettingError, match="--keep and --drop must name a column of the files, got 'no'"):
        _rows(ParquetSource(files={"train": (train,)}, columns=UserColumns(label="label"), keep=("no",)))


def test_images_in_a_struct_as_hugging_face_writes_them_are_found(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "p"}], "label": [2]}), tmp_path / "hf.parquet")
    source = ParquetSource(files={"train": (str(tmp_path / "hf.parquet"),)}, columns=UserColumns(label="label"))
    assert list(_only(source).images) == [b"x"]


def _hugging_face(path: Path, labels: list[int], metadata: str) -> ParquetSource:
    table = pa.table({"image": [{"bytes": b"x", "path": None}] * len(labels), "label": labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)
    return ParquetSource(files={"train": (str(path),)}, columns=UserColumns(label="label"))


def test_class_labels_of_hugging_face_are_named_by_the_files_own_metadata(tmp_path: Path) -> None:
    names = {"info": {"features": {"label": {"names": ["sadness", "happiness"], "_type": "ClassLabel"}}}}
    source = _hugging_face(tmp_path / "hf.parquet", [1, 0, -1, 7], json.dumps(names))
    assert list(_only(source).labels) == ["happiness", "sadness", None, "ClassLabel 7"]


def test_integers_without_names_stay_indices(tmp_path: Path) -> None:
    plain = {"info": {"features": {"label": {"dtype": "int64", "_type": "Value"}}}}
    assert list(_only(_hugging_face(tmp_path / "hf.parquet", [1, 0], json.dumps(plain))).labels) == ["1", "0"]


def test_broken_metadata_of_hugging_face_are_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="huggingface metadata"):
        _only(_hugging_face(tmp_path / "hf.parquet", [1], "[]"))


def test_a_stretch_of_parquet_is_read_from_its_row_groups_only(tmp_path: Path) -> None:
    rows = 5000
    table = pa.table(
        {"image": [b"x"] * rows, "label": [i % 7 for i in range(rows)], "name": [f"k{i}" for i in range(rows)]}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1000)
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=5000)
    files = (str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"))
    source = ParquetSource(files={"train": files}, columns=UserColumns(label="label"), key="name")
    pieces = source.partitions()
    assert [(piece.first, piece.rows, piece.begin) for piece in pieces] == [
        (0, 2000, 0), (2000, 2000, 2000), (4000, 1000, 4000),
        (5000, 2048, 0), (7048, 2048, 2048), (9096, 904, 4096),
    ]  # fmt: skip
    for piece in pieces:
        found = [
            (n, key) for rows in source.read(piece) for n, key in zip(rows.numbers.tolist(), rows.keys, strict=True)
        ]
        assert found == [(n, f"k{n % rows}") for n in range(piece.first, piece.first + piece.rows)]


def test_an_image_column_must_hold_bytes(tmp_path: Path) -> None:
    file = _parquet(tmp_path, label=[1])
    source = ParquetSource(files={"train": (file,)}, columns=UserColumns(label="label"), image="label")
    with pytest.raises(SettingError, match=r"--image-column .* one of \['picture'\]"):
        _rows(source)


def test_a_file_that_is_no_parquet_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("hello")
    with pytest.raises(DataError, match="not a parquet file"):
        _rows(ParquetSource(files={"train": (str(tmp_path / "x.parquet"),)}))


@pytest.mark.parametrize(
    ("label", "index"),
    [("Happy", 1), (" happy", 1), ("happiness", 1), ("angry", 6), ("6", 6), ("0", 0), ("7", None), ("contempt", None)],
)
def test_labels_are_names_other_spellings_or_indices(label: str, index: int | None) -> None:
    assert ClassIndex(REFERENCE_CLASSES).find(label) == index


def test_class_names_must_differ() -> None:
    with pytest.raises(SettingError, match="different names"):
        ClassIndex(("angry", "Anger"))


@pytest.mark.parametrize(
    ("folder", "path", "uri"),
    [
        ("faces", r"0\1.jpg", "faces/0/1.jpg"),
        ("faces", r".\0\1.jpg", "faces/./0/1.jpg"),  # a disk follows it
        ("faces", "../other/1.jpg", "faces/../other/1.jpg"),
        ("faces", "", None),
        ("faces", None, None),
        ("s3://b/faces", "0/1.jpg", "s3://b/faces/0/1.jpg"),
        ("s3://b/faces/", "./0/1.jpg", "s3://b/faces/0/1.jpg"),
        ("s3://b/faces", r".\0\.\\1.jpg", "s3://b/faces/0/1.jpg"),
        ("s3://b/faces", "/0//1.jpg", "s3://b/faces/0/1.jpg"),
        ("s3://b/faces", "0/x/../1.jpg", "s3://b/faces/0/1.jpg"),
        ("s3://b/faces", "http://host/1.jpg", "s3://b/faces/http:/host/1.jpg"),
        ("s3://b/faces", "../1.jpg", None),
        ("s3://b/faces", "/../1.jpg", None),
        ("s3://b/faces", "0/../../faces2/1.jpg", None),
        ("s3://b/faces", ".", None),
        ("s3://b/faces", "..", None),
        ("s3://b/faces", "0\0.jpg", None),
        ("s3://b/faces", "x" * 1025, None),
    ],
)
def test_a_path_leads_where_it_does_on_a_disk(folder: str, path: str | None, uri: str | None) -> None:
    assert image_uri(folder, path) == uri


@pytest.mark.parametrize(
    ("columns", "wrong"),
    [
        ("neutral happiness surprise sadness anger disgust fear", "surprise in the place of Sad"),
        ("n_neutral n_happy n_sad n_surprise n_fear n_anger n_disgust", "n_anger in the place of Disgust"),
        ("neutral happiness sadness surprise fear disgust", "for each of the 7 classes, got 6"),
    ],
)
def test_votes_in_another_order_than_the_classes_are_refused(columns: str, wrong: str) -> None:
    with pytest.raises(SettingError, match=wrong):
        check_order_of_votes(columns.split(), REFERENCE_CLASSES)


def test_votes_in_the_order_of_the_classes_and_columns_of_other_names_are_taken() -> None:
    for columns in ("neutral happiness sadness surprise fear disgust anger", "a b c d e f g", ""):
        check_order_of_votes(columns.split(), REFERENCE_CLASSES)
    check_order_of_votes(["sad", "surprise"], ["Sad", "Surprise"])  # a shared letter is no prefix
