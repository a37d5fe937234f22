import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.index.graph import build_graph, nearest_neighbors, read_graph, require_graph


def naive(points: NDArray, k: int) -> tuple[NDArray, NDArray]:
    points, everyone = points.astype(np.float64), np.arange(len(points))
    ids, squared = np.empty((len(points), k), int), np.empty((len(points), k))
    for i, point in enumerate(points):
        distance = np.square(points - point).sum(axis=1)
        order = np.lexsort(((everyone - i) % len(points), distance))
        ids[i] = order[order != i][:k]
        squared[i] = distance[ids[i]]
    return ids, squared.astype(np.float32)


def point_sets() -> dict[str, NDArray]:
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    grid = np.stack(np.meshgrid(np.arange(16) / 8, np.arange(16) / 10), -1).reshape(-1, 2)
    return {
        "uniform": rng.uniform(-1, 1, (300, 2)),
        "clustered": rng.uniform(-1, 1, (5, 2))[rng.integers(0, 5, 300)] + rng.normal(0, 1e-3, (300, 2)),
        "duplicated": rng.uniform(-1, 1, (7, 2))[rng.integers(0, 7, 300)],
        "pairs": np.repeat(rng.uniform(-1, 1, (150, 2)), 2, axis=0)[rng.permutation(300)],
        "lattice": rng.integers(-4, 5, (300, 2)) / 4,
        "grid": grid[rng.permutation(len(grid))],
        "collinear": np.stack([rng.permutation(200) / 100, np.zeros(200)], axis=1),
        "one point": np.zeros((150, 2)),
        "one outlier": np.concatenate([np.zeros((150, 2)), [[1, 1]]]),
        "circle": np.concatenate([np.stack([np.cos(angle), np.sin(angle)], axis=1), [[0, 0]]]),
        "halving distances": 2.0 ** -rng.uniform(0, 140, (300, 2)),
        "very close": rng.normal(0, 1e-21, (300, 2)),
        "very far": rng.uniform(-1, 1, (300, 2)) * 3e18,
        "mixed": np.concatenate([np.zeros((80, 2)), -np.zeros((3, 2)), np.round(rng.uniform(-1, 1, (200, 2)), 1)]),
    }


@pytest.mark.parametrize("backend", ["kdtree", "faiss_cpu"])
@pytest.mark.parametrize("name", point_sets())
def test_neighbours_are_those_of_the_naive_loop_ties_included(name, backend):
    points = point_sets()[name].astype(np.float32)
    for k in (1, 8, 120):
        ids, squared = nearest_neighbors(points, k, backend=backend)
        expected_ids, expected_squared = naive(points, k)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(squared, expected_squared)


def test_distances_are_those_of_scipy_on_many_points():
    points = np.random.default_rng(2).normal(size=(20_000, 2)).astype(np.float32)
    _, squared = nearest_neighbors(points, 32, backend="kdtree")
    expected, _ = cKDTree(points).query(points, k=33)
    np.testing.assert_allclose(np.sqrt(squared), expected[:, 1:], rtol=1e-6)


def test_neighbours_whose_distances_float32_cannot_tell_apart_are_those_of_float64():
    angle = np.random.default_rng(4).uniform(0, 2 * np.pi, 3000)
    circle = np.concatenate([[[0.7, 0.7]], 0.7 + np.stack([np.cos(angle), np.sin(angle)], axis=1) / 3])
    points = circle.astype(np.float32)
    ids, squared = nearest_neighbors(points, 16, backend="kdtree", queries=range(1))
    exact = np.square(points.astype(np.float64) - points[0].astype(np.float64)).sum(axis=1)
    order = np.lexsort((np.arange(len(points)), exact))[1:17]
    assert np.diff(exact[order]).max() < 2e-7 * exact[order[0]]
    np.testing.assert_array_equal(ids[0], order)
    np.testing.assert_array_equal(squared[0], exact[order].astype(np.float32))


def test_a_range_of_queries_gives_the_rows_of_the_whole():
    points = point_sets()["mixed"].astype(np.float32)
    whole = nearest_neighbors(points, 5)[0]
    np.testing.assert_array_equal(nearest_neighbors(points, 5, queries=range(70, 190))[0], whole[70:190])


def test_thousands_of_samples_on_one_point_share_the_load_of_being_a_neighbour():
    ids, squared = nearest_neighbors(np.zeros((30_000, 2), dtype=np.float32), 4)
    np.testing.assert_array_equal(ids[[0, 29_998]], [[1, 2, 3, 4], [29_999, 0, 1, 2]])
    assert np.bincount(ids.ravel()).max() == 4
    assert not squared.any()


def test_as_many_neighbours_as_samples_are_refused():
    with pytest.raises(SettingError, match=r"num_neighbors must be .* training samples \(5\), got 5"):
        nearest_neighbors(np.zeros((5, 2), dtype=np.float32), 5)


def test_missing_valence_arousal_is_refused_with_its_count():
    points = np.array([[0, 0], [np.nan, 0], [1, 1]], dtype=np.float32)
    with pytest.raises(SettingError, match=r"must have valence-arousal .* 1 of 3"):
        nearest_neighbors(points, 1)


def write_dataset(folder, va: NDArray, *, num_train: int, has_va: bool = True, content: str = "a") -> str:
    n = len(va)
    split = np.where(np.arange(n) < num_train, "train", "test")
    columns = {
        "id": np.arange(n),
        "key": [f"k{i}" for i in range(n)],
        "shard": np.zeros(n, np.int32),
        "offset": np.zeros(n, np.int64),
        "size": np.ones(n, np.int32),
        "checksum": np.zeros(n, np.uint32),
        "label": (np.arange(n) % 7).astype(np.int16),
        "valence": va[:, 0] if has_va else pa.nulls(n, pa.float32()),
        "arousal": va[:, 1] if has_va else pa.nulls(n, pa.float32()),
        "split": pa.array(split).dictionary_encode(),
    }
    folder.mkdir(exist_ok=True)
    manifest.write_manifest(str(folder), pa.table(columns))
    info = manifest.DatasetInfo(
        name="test",
        class_names=tuple("abcdefg"),
        splits={
            "train": manifest.SplitInfo(first_id=0, rows=num_train),
            "holdout": manifest.SplitInfo(first_id=num_train, rows=0),
            "test": manifest.SplitInfo(first_id=num_train, rows=n - num_train),
        },
        shards=(),
        has_valence_arousal=has_va,
        content_hash=content,
        class_counts={},
    )
    manifest.write_info(str(folder), info)
    return str(folder)


JOB = Path(__file__).parents[3] / "jobs" / "build_index.py"


def run_job(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(JOB), *arguments], capture_output=True, text=True, timeout=120)


VA = np.random.default_rng(3).uniform(-1, 1, (60, 2)).astype(np.float32)


def test_a_graph_reads_back_any_range_and_prefix_of_the_training_split_only(tmp_path):
    uri = write_dataset(tmp_path / "set", VA, num_train=50)
    build_graph(Dataset.open(uri), k_max=6, part_rows=20)
    expected = nearest_neighbors(VA[:50], 6)

    for first, rows, k in ((0, 50, 6), (15, 30, 4), (19, 1, 1), (40, 10, 6), (50, 0, 6)):
        ids, squared = read_graph(Dataset.open(uri), first, rows, k)
        np.testing.assert_array_equal(ids, expected[0][first : first + rows, :k])
        np.testing.assert_array_equal(squared, expected[1][first : first + rows, :k])
        assert (ids.dtype, squared.dtype) == (np.int32, np.float32)
    assert sorted(p.name for p in (tmp_path / "set" / "graph-K6").iterdir()) == [
        *(f"distances-0000{i}.npy" for i in range(3)),
        "graph.json",
        *(f"ids-0000{i}.npy" for i in range(3)),
    ]


def test_a_small_set_keeps_all_its_neighbours_instead_of_k_max(tmp_path):
    uri = write_dataset(tmp_path / "set", VA[:5], num_train=5)
    assert build_graph(Dataset.open(uri)).num_neighbors == 4
    assert require_graph(Dataset.open(uri), 3).num_neighbors == 4


def test_a_missing_or_unfinished_graph_is_an_error_that_names_the_job(tmp_path):
    uri = write_dataset(tmp_path / "set", VA, num_train=50)
    with pytest.raises(DataError, match=r"no neighbour graph; run: python jobs/build_index.py --dataset"):
        require_graph(Dataset.open(uri), 4)
    build_graph(Dataset.open(uri), k_max=6)
    (tmp_path / "set" / "graph-K6" / "graph.json").unlink()
    with pytest.raises(DataError, match="no neighbour graph"):
        read_graph(Dataset.open(uri), 0, 5, 4)


def test_a_graph_of_another_version_of_the_data_set_is_refused(tmp_path):
    uri = write_dataset(tmp_path / "set", VA, num_train=50)
    build_graph(Dataset.open(uri), k_max=6)
    write_dataset(tmp_path / "set", VA, num_train=50, content="b")
    with pytest.raises(DataError, match="another version of the data set"):
        require_graph(Dataset.open(uri), 4)


def test_more_neighbours_than_the_graph_keeps_are_refused_and_a_second_graph_helps(tmp_path):
    uri = write_dataset(tmp_path / "set", VA, num_train=50)
    build_graph(Dataset.open(uri), k_max=6)
    with pytest.raises(SettingError, match=r"num_neighbors must be <= the K of the neighbour graph \(6\), got 8"):
        require_graph(Dataset.open(uri), 8)
    with pytest.raises(SettingError, match=r"training samples \(50\), got 50"):
        require_graph(Dataset.open(uri), 50)
    build_graph(Dataset.open(uri), k_max=9)
    assert require_graph(Dataset.open(uri), 8).num_neighbors == 9


def test_a_data_set_without_valence_arousal_gets_no_graph(tmp_path):
    uri = write_dataset(tmp_path / "set", VA, num_train=50, has_va=False)
    with pytest.raises(SettingError, match="must have valence-arousal"):
        build_graph(Dataset.open(uri))
    assert not list((tmp_path / "set").glob("graph*"))


def test_graph_json_says_what_it_was_built_from(tmp_path):
    uri = write_dataset(tmp_path / "set", VA, num_train=50)
    build_graph(Dataset.open(uri), k_max=6)
    folder = tmp_path / "set" / "graph-K6"
    files = {name: np.load(folder / name) for name in ("distances-00000.npy", "ids-00000.npy")}
    assert json.loads((folder / "graph.json").read_text()) == {
        "num_samples": 50,
        "num_neighbors": 6,
        "content_hash": "a",
        "part_rows": 262_144,
        "imported": False,
        "checksums": {name: zlib.crc32(array.tobytes()) for name, array in files.items()},
        "format_version": 1,
    }


def test_the_job_builds_the_graph_and_says_what_it_built(tmp_path):
    uri = write_dataset(tmp_path / "set", VA, num_train=50)
    done = run_job("--dataset", uri, "--k-max", "6", "--backend", "kdtree")
    assert done.returncode == 0
    assert "graph-K6: N 50, K 6, kdtree" in done.stdout
    assert require_graph(Dataset.open(uri), 6).num_neighbors == 6


def test_the_job_refuses_numbers_of_shards_that_are_none(tmp_path):
    done = run_job("--dataset", str(tmp_path), "--num-shards", "0")
    assert done.returncode == 2
    assert "--num-shards must be a whole number >= 1 and <= 4096 or none, got 0" in done.stderr


def test_the_job_refuses_a_data_set_without_valence_arousal_in_one_sentence(tmp_path):
    uri = write_dataset(tmp_path / "set", VA, num_train=50, has_va=False)
    done = run_job("--dataset", uri)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "must have valence-arousal" in done.stderr
