"""The index as actors. One service for most tests: each starts processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
import ray
from numpy.typing import NDArray

from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import ClusterError, NeighborServiceError, SettingError
from ldlva_dist.index.client import IndexClient
from ldlva_dist.index.graph import build_graph, nearest_neighbors, plan_graph, read_graph, require_graph
from ldlva_dist.index.service import IndexService, build_graph_with_actors, start_index
from ldlva_dist.index.shard_answers import IndexFacts
from ldlva_dist.runtime.placement import IndexPlace
from testing.array_rows import ArrayRows

OPTIONS = {"num_cpus": 0.25, "max_restarts": 0}
PLACE = IndexPlace(options=OPTIONS, num_actors=2, start_limit_s=60.0)


def write_dataset(folder: Path, va: NDArray) -> Dataset:
    n = len(va)
    columns = {
        "id": np.arange(n),
        "key": [f"k{i}" for i in range(n)],
        "shard": np.zeros(n, np.int32),
        "offset": np.zeros(n, np.int64),
        "size": np.ones(n, np.int32),
        "checksum": np.zeros(n, np.uint32),
        "label": np.zeros(n, np.int16),
        "valence": va[:, 0],
        "arousal": va[:, 1],
        "split": pa.array(["train"] * n).dictionary_encode(),
    }
    folder.mkdir()
    manifest.write_manifest(str(folder), pa.table(columns))
    splits = {name: manifest.SplitInfo(first_id=n, rows=0) for name in manifest.SPLITS}
    splits["train"] = manifest.SplitInfo(first_id=0, rows=n)
    info = manifest.DatasetInfo(
        name="test",
        class_names=("a", "b"),
        splits=splits,
        shards=(),
        has_valence_arousal=True,
        content_hash="a",
        class_counts={},
    )
    manifest.write_info(str(folder), info)
    return Dataset(str(folder), info)


def plane(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Half of the samples share points."""
    rng = np.random.default_rng(seed)
    va = rng.uniform(-1, 1, (n, 2))
    va[::2] = np.round(va[::2], 1)
    return va.astype(np.float32)


def exhaustive(points: NDArray, queries: NDArray, k: int) -> tuple[NDArray, NDArray]:
    """By distance, then by id."""
    squared = np.square(queries[:, None].astype(np.float64) - points).sum(axis=2)
    ids = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(squared, ids, axis=1)


@pytest.fixture(scope="module")
def service(cluster: None) -> Iterator[IndexService]:
    service = start_index(3, actor_options=OPTIONS)
    yield service
    service.stop()


@pytest.fixture
def client(service: IndexService) -> IndexClient:
    return service.client(timeout_s=60)


def test_the_graph_of_actors_is_that_of_one_index_in_one_process(client, tmp_path):
    va = plane(3000)
    dataset = write_dataset(tmp_path / "set", va)
    build_graph(dataset, 7, part_rows=800)
    expected = read_graph(dataset, 0, 3000, 7)
    (tmp_path / "set" / "graph-K7").rename(tmp_path / "one")

    info = build_graph_with_actors(dataset, 7, num_shards=2, place=PLACE, part_rows=800)

    assert info == require_graph(dataset, 7)
    for ours, theirs in zip(read_graph(dataset, 0, 3000, 7), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "set" / "graph-K7" / path.name).read_bytes()


def test_new_points_are_answered_as_by_the_naive_loop_and_a_rebuild_swaps_the_whole_answer(client, tmp_path):
    old, new = plane(500), plane(700, seed=1)
    queries = np.concatenate([plane(40, seed=2), [[9, 9], [-9, 0]]]).astype(np.float32)
    assert client.build_from_dataset(write_dataset(tmp_path / "old", old)).version == client.facts.version
    first = client.search(queries, 9)
    np.testing.assert_array_equal(first.ids, exhaustive(old, queries, 9)[0])
    np.testing.assert_array_equal(first.squared, exhaustive(old, queries, 9)[1])

    client.build_from_dataset(write_dataset(tmp_path / "new", new))
    second = client.search(queries, 700)
    assert second.version == first.version + 1
    np.testing.assert_array_equal(second.ids, exhaustive(new, queries, 700)[0])


def wait_for(path: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One sample, as soon as a file is there."""
    end = time.monotonic() + 60
    while not Path(path).exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)
    return np.zeros(1, np.int64), np.zeros((1, 2), np.float32)


def test_while_a_version_is_built_the_old_one_answers_and_from_the_swap_on_the_new_one(client, service, tmp_path):
    """The second shard's build waits for a file; the first has the new version by then, and still answers the old."""
    old, new, queries = plane(500), plane(600, seed=1), plane(80, seed=2)
    before = client.build_from_dataset(write_dataset(tmp_path / "old", old)).version
    service.shards[1].prepare.options(concurrency_group="build").remote(
        99, 1, partial(wait_for, str(tmp_path / "gate"))
    )
    with ThreadPoolExecutor() as pool:
        building = pool.submit(client.build_from_dataset, write_dataset(tmp_path / "new", new))
        end = time.monotonic() + 60
        while ray.get(service.shards[0].versions.remote(), timeout=60) != [before, before + 1]:
            assert time.monotonic() < end, "the first shard did not build"
        meanwhile = client.search(queries, 5)
        assert not building.done()
        (tmp_path / "gate").touch()
        assert building.result(timeout=60).version == before + 1
    after = client.search(queries, 5)
    for found, version, points in ((meanwhile, before, old), (after, before + 1, new)):
        assert found.version == version
        np.testing.assert_array_equal(found.ids, exhaustive(points, queries, 5)[0])
    assert ray.get([shard.versions.remote() for shard in service.shards], timeout=60) == [[before + 1]] * 3


def test_a_rebuild_that_fails_leaves_the_old_version_in_use(client, tmp_path):
    old = plane(100)
    client.build_from_dataset(write_dataset(tmp_path / "old", old))
    features = np.full((10, 2), np.nan, dtype=np.float32)
    with pytest.raises(NeighborServiceError, match=r"index shards .* failed when asked to take rows.* finite"):
        client.build_from_rows(ArrayRows([features]), k=2)
    np.testing.assert_array_equal(client.search(old[:5], 3).ids, exhaustive(old, old[:5], 3)[0])


def test_graph_rows_of_features_are_those_of_the_naive_loop_whatever_the_parts_and_ranges(client, monkeypatch):
    monkeypatch.setattr("ldlva_dist.index.client.GRAPH_BLOCK_ROWS", 64)
    features = np.random.default_rng(3).normal(size=(400, 20)).astype(np.float16)
    features[::5] = features[0]
    client.build_from_rows(ArrayRows([features[:130], features[130:131], features[131:]]), k=6)

    rows = ray.get(client.graph([(0, 150), (150, 151), (151, 400)], 6), timeout=60)

    exact = features.astype(np.float64)
    squared = np.square(exact[:, None] - exact).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    turn = (np.arange(400) - np.arange(400)[:, None]) % 400
    np.testing.assert_array_equal(np.concatenate(rows), np.lexsort((turn, squared), axis=1)[:, :6])
    assert [part.shape for part in rows] == [(150, 6), (1, 6), (249, 6)]
    assert rows[0].dtype == np.int32


def built_and_asked(features: NDArray, min_recall: float) -> tuple[list[IndexFacts], float]:
    """Two versions of an approximate index of 2 shards, and the second's recall of 2,000 samples' 8 neighbours."""
    service = start_index(2, min_recall=min_recall, backend="faiss_cpu", actor_options=OPTIONS)
    try:
        client = service.client(timeout_s=120)
        versions = [client.build_from_rows(ArrayRows([features]), k=8) for _ in range(2)]
        [ids] = ray.get(client.graph([(0, 2000)], 8), timeout=60)
    finally:
        service.stop()
    flat = faiss.IndexFlatL2(features.shape[1])
    flat.add(features)
    expected = flat.search(features[:2000], 9)[1][:, 1:]
    return versions, (ids[:, :, None] == expected[:, None]).any(axis=2).mean()


def test_effort_grows_until_the_measured_recall_is_what_was_asked_for(cluster):
    features = np.random.default_rng(4).normal(size=(40_000, 48)).astype(np.float32)
    [facts, again], recall = built_and_asked(features, 0.92)
    assert 1 < facts.effort < facts.most_effort
    assert not facts.compares_everything
    assert 0.92 <= facts.recall < 1
    assert abs(recall - facts.recall) < 0.03
    assert (again.effort, again.recall) == (facts.effort, facts.recall)  # a resumed run counts versions anew


def test_where_no_effort_of_hnsw_finds_enough_everything_is_compared(cluster):
    """60 % of the points lie close together, and its links lose the others."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(20_000, 64)).astype(np.float32)
    near = rng.permutation(len(features))[: 6 * len(features) // 10]
    features[near] = features[0] + 0.1 * rng.normal(size=(len(near), 64)).astype(np.float32)
    [facts, _], recall = built_and_asked(features, 0.95)
    assert facts.effort == facts.most_effort > 0
    assert facts.compares_everything
    assert facts.recall == 1
    assert recall > 0.999  # the flat index here rounds


def loaded_modules(ids: NDArray, squared: NDArray) -> list[str]:
    return sorted(sys.modules)


def test_an_index_actor_never_imports_torch(client, service, tmp_path):
    client.build_from_dataset(write_dataset(tmp_path / "set", plane(50)))
    answers = client._queries(client.facts).ask([(np.arange(50), loaded_modules)], 3)
    [modules] = ray.get(answers, timeout=60)
    assert "ldlva_dist.index.shard" in modules
    assert "torch" not in modules


def test_a_killed_actor_is_named_and_nothing_is_taken_for_a_whole_graph(cluster, tmp_path):
    dataset = write_dataset(tmp_path / "set", plane(300))
    service = start_index(3, actor_options=OPTIONS)
    try:
        client = service.client(timeout_s=30)
        client.build_from_dataset(dataset)
        ray.kill(service.shards[1])
        with pytest.raises(ClusterError, match=r"index shards \[1\] died or cannot be reached"):
            client.write_graph(dataset.uri, plan_graph(dataset, 4))
        with pytest.raises(ClusterError, match=r"index shards \[1\] died or cannot be reached"):
            client.search(plane(200, seed=5), 2)
    finally:
        service.stop()
    assert not (tmp_path / "set" / "graph-K4" / "graph.json").exists()


def hang() -> None:
    """Longer than anybody waits."""
    time.sleep(3600)


def test_an_actor_that_hangs_is_named_within_the_limit(cluster, tmp_path):
    dataset = write_dataset(tmp_path / "set", plane(300))
    service = start_index(2, actor_options=OPTIONS)
    try:
        client = service.client(timeout_s=10)
        with pytest.raises(NeighborServiceError, match="must be built before it is asked"):
            client.search(plane(3), 1)
        client.build_from_dataset(dataset)
        service.shards[1].prepare.remote(99, 1, hang)
        with pytest.raises(NeighborServiceError, match=r"index shards \[1\] did not answer in 10 s when asked for nei"):
            client.write_graph(dataset.uri, plan_graph(dataset, 4))
    finally:
        service.stop()


def test_values_that_cannot_be_searched_are_refused(client, tmp_path):
    client.build_from_dataset(write_dataset(tmp_path / "set", plane(50)))
    with pytest.raises(SettingError, match=r"k in 1\.\.50, got k 51"):
        client.search(plane(3), 51)
    with pytest.raises(SettingError, match="1 values that are not finite"):
        client.search(np.array([[np.nan, 0]], dtype=np.float32), 1)


def test_the_job_builds_a_graph_with_actors_on_the_cluster_it_is_given(cluster, tmp_path, root):
    va = plane(400)
    dataset = write_dataset(tmp_path / "set", va)
    done = subprocess.run(
        [
            sys.executable,
            str(root / "jobs" / "build_index.py"),
            "--dataset",
            dataset.uri,
            "--k-max",
            "5",
            "--num-shards",
            "2",
        ],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "graph-K5: N 400, K 5, auto on 2 actors" in done.stdout
    for ours, theirs in zip(read_graph(dataset, 0, 400, 5), nearest_neighbors(va, 5), strict=True):
        np.testing.assert_array_equal(ours, theirs)
