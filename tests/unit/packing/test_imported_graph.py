"""The neighbours that the reference's CSV names, as a graph of the data set that was packed from it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.shards import key_apart
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.index.graph import read_graph, require_graph
from ldlva_dist.index.verify_graph import check_part
from ldlva_dist.packing.imported_graph import NeighborTable, import_graph
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.readers.folder import FolderSource
from testing.local_packing import pack_here

VA = np.array([[0, 0], [0.1, 0], [0, 0.2], [-0.3, 0], [0.4, 0.4]], dtype=np.float32)


def _dataset(folder: Path, paths: list[str], *, num_train: int | None = None, has_va: bool = True) -> str:
    """A data set whose id i is ``paths[i]``, at ``VA[i]``."""
    n = len(paths)
    num_train = n if num_train is None else num_train
    va_n2 = VA[:n] if has_va else np.full((n, 2), np.nan, dtype=np.float32)
    columns = {
        "id": np.arange(n),
        "key": [path.replace("/", "_").removesuffix(".jpg") for path in paths],
        **{name: np.zeros(n, dtype=np.int64) for name in ("shard", "offset", "size", "checksum", "label")},
        "valence": pa.array(va_n2[:, 0], from_pandas=True),
        "arousal": pa.array(va_n2[:, 1], from_pandas=True),
        "split": pa.array(np.where(np.arange(n) < num_train, "train", "holdout")).dictionary_encode(),
    }
    folder.mkdir()
    manifest.write_manifest(str(folder), pa.table(columns))
    info = manifest.DatasetInfo(
        name="test",
        class_names=("a", "b"),
        splits={
            "train": manifest.SplitInfo(first_id=0, rows=num_train),
            "holdout": manifest.SplitInfo(first_id=num_train, rows=n - num_train),
            "test": manifest.SplitInfo(first_id=n, rows=0),
        },
        shards=(),
        has_valence_arousal=has_va,
        content_hash="h",
        class_counts={},
    )
    manifest.write_info(str(folder), info)
    return str(folder)


def _table(tmp_path: Path, rows: list[tuple[str, str]], **named: str) -> NeighborTable:
    lines = [f'{path},0,0,0,"{knn}"' for path, knn in rows]
    (tmp_path / "train.csv").write_text("\n".join(["subDirectory_filePath,expression,valence,arousal,knn", *lines]))
    return NeighborTable(uri=str(tmp_path / "train.csv"), **named)


def _chain(tmp_path: Path) -> NeighborTable:
    """Rows 0..4 are x/0.jpg .. x/4.jpg; each names the others, the next one first."""
    return _table(tmp_path, [(f"x/{i}.jpg", ";".join(str((i + j) % 5) for j in range(1, 5))) for i in range(5)])


def test_row_numbers_become_ids_in_the_order_of_the_lists(tmp_path: Path) -> None:
    order = [3, 1, 4, 0, 2]  # id -> row
    uri = _dataset(tmp_path / "set", [f"x/{row}.jpg" for row in order])
    info = import_graph(Dataset.open(uri), _chain(tmp_path), k_min=4, part_rows=2)
    assert (info.num_samples, info.num_neighbors) == (5, 4)
    assert replace(require_graph(Dataset.open(uri), 4), checksums={}) == info
    ids, squared = read_graph(Dataset.open(uri), 0, 5, 4)
    expected = [[order.index((row + j) % 5) for j in range(1, 5)] for row in order]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(squared, np.square(VA[ids] - VA[:, None]).sum(axis=2), rtol=1e-5)


def test_rows_whose_keys_meet_are_found_by_their_paths(tmp_path: Path) -> None:
    names = ["a.png", "a.jpg", "b.png"]
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    for name in names:
        (tmp_path / name).write_bytes(buffer.getvalue())
    header = "subDirectory_filePath,expression,valence,arousal,knn"
    lines = [f"{name},{'xy'[i % 2]},0.{i},0,{(i + 1) % 3};{(i + 2) % 3}" for i, name in enumerate(names)]
    (tmp_path / "train.csv").write_text("\n".join([header, *lines]))
    source = FolderSource(tables={"train": (str(tmp_path / "train.csv"),)}, images={"train": str(tmp_path)})
    pack_here(source, tmp_path / "set", PackSettings(name="set", class_names=("x", "y"), holdout=0.0))
    import_graph(Dataset.open(str(tmp_path / "set")), NeighborTable(uri=str(tmp_path / "train.csv")), k_min=2)
    keys = Dataset.open(str(tmp_path / "set")).columns(["key"])["key"].to_pylist()
    order = [keys.index(key_apart("a", f"train/{name}")) for name in names[:2]] + [keys.index("b")]
    ids = read_graph(Dataset.open(str(tmp_path / "set")), 0, 3, 2)[0]
    assert [ids[order[i]].tolist() for i in range(3)] == [[order[(i + 1) % 3], order[(i + 2) % 3]] for i in range(3)]


def test_a_graph_in_the_order_of_the_table_is_no_finding(tmp_path: Path) -> None:
    uri = _dataset(tmp_path / "set", [f"x/{row}.jpg" for row in range(5)])
    info = import_graph(Dataset.open(uri), _chain(tmp_path), k_min=4)
    assert (np.diff(read_graph(Dataset.open(uri), 0, 5, 4)[1], axis=1) < 0).any()
    assert check_part(Dataset.open(uri), f"{uri}/graph-K4", info, 0) == []


def test_neighbours_that_are_no_training_samples_are_dropped_and_the_next_move_up(tmp_path: Path) -> None:
    uri = _dataset(tmp_path / "set", [f"x/{row}.jpg" for row in (0, 1, 2, 3)], num_train=3)  # 3 held out, 4 rejected
    info = import_graph(Dataset.open(uri), _chain(tmp_path), k_min=2)
    assert info.num_neighbors == 2
    np.testing.assert_array_equal(read_graph(Dataset.open(uri), 0, 3, 2)[0], [[1, 2], [2, 0], [0, 1]])


def test_too_few_neighbours_left_are_a_data_error_that_names_the_sample(tmp_path: Path) -> None:
    uri = _dataset(tmp_path / "set", [f"x/{row}.jpg" for row in (0, 1, 2, 3)], num_train=3)
    with pytest.raises(DataError, match=r"must have 3 neighbours .* 'x_0' has 2 of its 4 left: .*--holdout 0"):
        import_graph(Dataset.open(uri), _chain(tmp_path), k_min=3)
    with pytest.raises(DataError, match="has no neighbour graph"):
        require_graph(Dataset.open(uri), 2)


def test_the_row_itself_and_a_second_mention_are_dropped(tmp_path: Path) -> None:
    uri = _dataset(tmp_path / "set", ["x/0.jpg", "x/1.jpg", "x/2.jpg"])
    table = _table(tmp_path, [("x/0.jpg", "0;2;2;1"), ("x/1.jpg", "1;0;0;2"), ("x/2.jpg", "1;0")])
    import_graph(Dataset.open(uri), table, k_min=2)
    np.testing.assert_array_equal(read_graph(Dataset.open(uri), 0, 3, 2)[0], [[2, 1], [0, 2], [1, 0]])


@pytest.mark.parametrize("text", ["[1, 2]", "(1,2)", "1 2", "[1 2]", " 1;2 "])
def test_lists_are_read_with_brackets_commas_or_blanks(tmp_path: Path, text: str) -> None:
    uri = _dataset(tmp_path / "set", ["0.jpg", "1.jpg", "2.jpg"])
    import_graph(Dataset.open(uri), _table(tmp_path, [("0.jpg", text), ("1.jpg", "0;2"), ("2.jpg", "0;1")]), k_min=2)
    np.testing.assert_array_equal(read_graph(Dataset.open(uri), 0, 1, 2)[0], [[1, 2]])


@pytest.mark.parametrize("text", ["", "1;x", "-1;2", "1.0;2", "__import__('os')", "1;;2", "9" * 30])
def test_a_cell_that_is_no_list_is_a_data_error(tmp_path: Path, text: str) -> None:
    uri = _dataset(tmp_path / "set", ["0.jpg", "1.jpg", "2.jpg"])
    with pytest.raises(DataError, match="the neighbours of row 1 must be row numbers"):
        import_graph(
            Dataset.open(uri), _table(tmp_path, [("0.jpg", "1;2"), ("1.jpg", text), ("2.jpg", "0;1")]), k_min=1
        )


def test_a_row_number_that_is_no_row_is_a_data_error(tmp_path: Path) -> None:
    uri = _dataset(tmp_path / "set", ["0.jpg", "1.jpg"])
    with pytest.raises(DataError, match="has 2 rows, but names row 2 as a neighbour"):
        import_graph(Dataset.open(uri), _table(tmp_path, [("0.jpg", "1"), ("1.jpg", "2")]), k_min=1)


def test_a_table_of_other_rows_is_a_data_error(tmp_path: Path) -> None:
    uri = _dataset(tmp_path / "set", ["0.jpg", "1.jpg", "7.jpg"])
    with pytest.raises(DataError, match=r"1 of 3 training samples are not in .* the first is '7'"):
        import_graph(Dataset.open(uri), _table(tmp_path, [("0.jpg", "1"), ("1.jpg", "0")]), k_min=1)


def test_keys_that_begin_with_a_folder_are_found_by_their_prefix(tmp_path: Path) -> None:
    uri = _dataset(tmp_path / "set", ["train/0.jpg", "train/1.jpg"])
    table = _table(tmp_path, [("0.jpg", "1"), ("1.jpg", "0")], key_prefix="train/")
    assert import_graph(Dataset.open(uri), table, k_min=1).num_neighbors == 1


def test_settings_that_do_not_fit_are_named(tmp_path: Path) -> None:
    table = _table(tmp_path, [("0.jpg", "1"), ("1.jpg", "0")])
    uri = _dataset(tmp_path / "set", ["0.jpg", "1.jpg"])
    with pytest.raises(SettingError, match=r"--column must be a column .* got 'nn'; columns present: "):
        import_graph(Dataset.open(uri), replace(table, column="nn"))
    with pytest.raises(SettingError, match=r"--path-column must be a column .* got 'image'; columns present: "):
        import_graph(Dataset.open(uri), replace(table, path_column="image"))
    uri = _dataset(tmp_path / "flat", ["0.jpg", "1.jpg"], has_va=False)
    with pytest.raises(SettingError, match="must have valence-arousal"):
        import_graph(Dataset.open(uri), table)


def test_a_table_with_names_of_its_own_is_imported_by_them(tmp_path: Path) -> None:
    uri = _dataset(tmp_path / "set", ["0.jpg", "1.jpg", "2.jpg"])
    (tmp_path / "own.csv").write_text('image;nearest\n0.jpg;"2;1"\n1.jpg;"0;2"\n2.jpg;"1;0"\n')
    table = NeighborTable(uri=str(tmp_path / "own.csv"), path_column="image", column="nearest")
    assert import_graph(Dataset.open(uri), table, k_min=2).num_neighbors == 2
    np.testing.assert_array_equal(read_graph(Dataset.open(uri), 0, 3, 2)[0], [[2, 1], [0, 2], [1, 0]])
