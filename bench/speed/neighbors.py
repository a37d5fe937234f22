"""Claim: the graph costs half of one search, cutting the plane loses nothing, less effort reaches the recall asked for.

In one run, on the same points: CPU seconds of the whole graph (450 k samples, K = 32) over those of SciPy's
``cKDTree.query`` alone, for 1, 4 and 16 shards one after the other in this process, and by actors from a data set to
files (all processes counted); recall against brute force on easy and hard points;
exhaustive and approximate search on feature-like points. With a GPU, seconds over those of ``faiss.knn_gpu`` alone.
``--large`` builds the graph of 10 M samples by actors and adds up the memory of all processes; with ``--checkout
FOLDER`` that of another build (with its own ``.venv``) after it, by this same file, in a process of its own.

Goals: ratio at most 0.5 for one shard, 0.8 for 4 and 16, 1.6 by actors; recall 1.0; 10 M within 3.2 GiB, and at most
0.45 of the other build's seconds; on a GPU at most 2.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import ray
import tyro
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]
from scipy.spatial.distance import cdist

from bench.common import cluster, report
from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.backends import Backend
from ldlva_dist.index.graph import nearest_neighbors, plan_graph
from ldlva_dist.index.plane_cut import Box, cut_plane, in_box
from ldlva_dist.index.service import start_index
from ldlva_dist.index.shard import IndexShard, answer_in_process
from ldlva_dist.index.shard_answers import IndexShardFacts, join_answers
from testing.processes import PeakMemory, cpu_seconds_of_all

K = 32
SHARDS = 1, 4, 16
ACTORS = 4
PART_ROWS = 1 << 18
QUERIES = 5_000
LARGE = 10_000_000
LIMIT_GIB, LIMIT_S = 3.2, 3600.0
GOAL, SHARDS_GOAL, ACTORS_GOAL, LARGE_GOAL = 0.5, 0.8, 1.6, 0.45
Points = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to measure."""

    samples: int = 450_000
    repeats: int = 2
    min_recall: float = 0.95
    features: tuple[int, int] = (100_000, 512)
    large: bool = False
    """Only the graph of so many samples as the next setting says."""
    large_samples: int = LARGE
    checkout: Path | None = None
    """Another build that --large compares with; its own environment is taken where it has one."""
    measure: bool = False
    """Used by this program itself: build the large graph by what is imported, and print its figures alone."""


def main(arguments: Arguments) -> None:
    """Measure and print one JSON line."""
    if arguments.measure:
        with cluster(num_cpus=ACTORS), tempfile.TemporaryDirectory() as folder:
            print(json.dumps(graph_by_actors(folder, uniform(arguments.large_samples), ACTORS)), flush=True)
        return
    if arguments.large:
        compare_large(arguments)
        return
    with cluster(num_cpus=ACTORS), tempfile.TemporaryDirectory() as folder:
        actors = graph_by_actors(folder, uniform(arguments.samples), ACTORS)
        approximate = approximate_against_exhaustive(
            arguments.features, arguments.min_recall, "faiss_cpu", {"num_cpus": 1}
        )
    ratio = ratios(uniform(arguments.samples), arguments.repeats)
    ratio["scipy_cpu_s"], alone = [round(s, 2) for s in ratio["scipy_cpu_s"]], min(ratio["scipy_cpu_s"])
    recall = {name: recall_of(points) for name, points in point_sets().items()}
    gpu = gpu_seconds(uniform(arguments.samples)) if faiss.get_num_gpus() else None
    report(
        "neighbors",
        ok=ratio["1"] <= GOAL
        and max(ratio["4"], ratio["16"]) <= SHARDS_GOAL
        and actors["cpu_s"] / alone <= ACTORS_GOAL
        and min(recall.values()) == 1
        and approximate["recall"] >= arguments.min_recall
        and (gpu is None or gpu["ours"] <= 2 * gpu["faiss"]),
        cpu_over_scipy_query=ratio,
        actors={"shards": ACTORS, "cpu_over_scipy_query": actors["cpu_s"] / alone, **actors},
        recall=recall,
        approximate=approximate,
        gpu_seconds=gpu,
    )


def compare_large(arguments: Arguments) -> None:
    """Build the large graph by this build and, where one is given, by another; print one JSON line."""
    from bench.processes import ROOT

    built, ok, more = large_by(ROOT, arguments), True, {}
    if arguments.checkout:
        other = large_by(arguments.checkout.absolute(), arguments)
        more = {"ratio": built["seconds"] / other["seconds"], "other": other}
        ok = more["ratio"] <= LARGE_GOAL
    ok &= built["peak_gib"] <= LIMIT_GIB
    report("neighbors_large", ok=ok, samples=arguments.large_samples, k=K, actors=ACTORS, **built, **more)


def large_by(checkout: Path, arguments: Arguments) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory of a build, measured by this file in that build's own environment."""
    from bench.processes import python_of  # which a build that is measured may lack

    command = [python_of(checkout), __file__, "--measure", "--large-samples", str(arguments.large_samples)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, env=environment, cwd=checkout, stdout=subprocess.PIPE, timeout=LIMIT_S, check=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def ratios(va: Points, repeats: int) -> dict[str, Any]:
    """CPU seconds of the graph over SciPy's, by number of shards; the best of each."""
    tree = cKDTree(va)
    alone: list[float] = []
    ours: dict[int, list[float]] = {num_shards: [] for num_shards in SHARDS}
    for _ in range(repeats):
        alone.append(cpu_seconds(lambda: tree.query(va, k=K + 1)))
        for num_shards, seconds in ours.items():
            seconds.append(cpu_seconds(partial(graph_in_process, va, num_shards)))
    return {str(n): min(seconds) / min(alone) for n, seconds in ours.items()} | {"scipy_cpu_s": alone}


def graph_in_process(va: Points, num_shards: int) -> None:
    """Cut, build and ask all shards, one after the other, in parts as they would be written."""
    shards, facts = in_process(va, num_shards)
    for first in range(0, len(va), PART_ROWS):
        ids = np.arange(first, min(first + PART_ROWS, len(va)))
        join_answers(ids, len(va), answer_in_process(shards, 1, ids, K, facts))


def in_process(va: Points, num_shards: int) -> tuple[list[IndexShard], list[IndexShardFacts]]:
    """Shards of the plane in this process, and what they hold."""
    shards = [IndexShard(number, "kdtree") for number in range(num_shards)]
    boxes = cut_plane(va, num_shards)
    loads = [partial(samples_in, va, box) for box in boxes]
    return shards, [shard.prepare(1, len(va), load) for shard, load in zip(shards, loads, strict=True)]


def samples_in(va: Points, box: Box) -> tuple[NDArray[np.int64], Points]:
    """Ids and points of a box."""
    ids = np.flatnonzero(in_box(va, box))
    return ids, va[ids]


def graph_by_actors(folder: str, va: Points, num_shards: int) -> dict[str, float]:
    """Build the graph of a data set; seconds, CPU seconds and peak memory of all processes."""
    dataset = Dataset.open(write_dataset(f"{folder}/set", va))
    del va
    service = start_index(num_shards, backend="kdtree", actor_options={"num_cpus": 1})
    began, cpu_before = time.monotonic(), cpu_seconds_of_all()
    try:
        with PeakMemory() as memory:
            client = service.client(3600)
            client.build_from_dataset(dataset)
            client.write_graph(dataset.uri, plan_graph(dataset, K))
        return {
            "seconds": time.monotonic() - began,
            "cpu_s": cpu_seconds_of_all() - cpu_before,
            "peak_gib": memory.peak / 2**30,
        }
    finally:
        service.stop()


def write_dataset(folder: str, va: Points) -> str:
    """A data set without images: manifest and ``dataset.json``."""
    n = len(va)
    zeros = {"shard": np.int32, "offset": np.int64, "checksum": np.uint32, "label": np.int16}
    columns = {
        "id": np.arange(n),
        "key": pa.array(np.arange(n)).cast(pa.string()),
        **{name: np.zeros(n, dtype) for name, dtype in zeros.items()},
        "size": np.ones(n, np.int32),
        "valence": va[:, 0],
        "arousal": va[:, 1],
        "split": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), ["train"]),
    }
    manifest.storage.make_folder(folder)
    manifest.write_manifest(folder, pa.table(columns))
    splits = {name: manifest.SplitInfo(first_id=n, rows=0) for name in manifest.SPLITS}
    info = manifest.DatasetInfo(
        name="bench",
        class_names=("a", "b"),
        splits=splits | {"train": manifest.SplitInfo(first_id=0, rows=n)},
        shards=(manifest.ShardInfo(name="train-000000.tar", split="train", first_id=0, rows=n, bytes=1),),
        has_valence_arousal=True,
        content_hash="bench",
        class_counts={},
    )
    manifest.write_info(folder, info)
    return folder


def point_sets() -> dict[str, Points]:
    """Easy and hard ones, 50 k points each."""
    rng, n = np.random.default_rng(1), 50_000
    centers = rng.uniform(-1, 1, (50, 2))
    sets = {
        "uniform": rng.uniform(-1, 1, (n, 2)),
        "clustered": centers[rng.integers(0, 50, n)] + rng.normal(0, 1e-3, (n, 2)),
        "duplicated": np.round(rng.uniform(-1, 1, (n, 2)), 1),
        "gridded": np.round(rng.normal(0, 0.3, (n, 2)), 2),
        "collinear": np.stack([np.round(rng.uniform(-1, 1, n), 4), np.zeros(n)], axis=1),
    }
    return {name: points.astype(np.float32) for name, points in sets.items()}


def recall_of(va: Points) -> float:
    """Share of the neighbours of 5,000 random samples that are as near as brute force's, from 4 shards."""
    asked = np.sort(np.random.default_rng(2).choice(len(va), QUERIES, replace=False))
    shards, facts = in_process(va, 4)
    ids_nK, _ = join_answers(asked, len(va), answer_in_process(shards, 1, asked, K, facts))
    exact = va.astype(np.float64)
    hits = 0
    for begin in range(0, QUERIES, 500):
        block = slice(begin, begin + 500)
        squared = cdist(exact[asked[block]], exact, "sqeuclidean")
        found = np.take_along_axis(squared, ids_nK[block].astype(np.int64), axis=1)
        squared[np.arange(500), asked[block]] = np.inf
        radius = np.partition(squared, K - 1, axis=1)[:, [K - 1]]
        own = ids_nK[block] == asked[block][:, None]
        hits += np.count_nonzero((found <= radius * (1 + 1e-12)) & ~own)
        assert all(len(set(row)) == K for row in ids_nK[block].tolist()), "a neighbour stands twice in a row"
    return hits / (QUERIES * K)


def approximate_against_exhaustive(
    size: tuple[int, int], min_recall: float, backend: Backend, actor_options: dict[str, Any]
) -> dict[str, float]:
    """Seconds in which one actor finds the neighbours of up to 8,192 samples in feature space, and measured recall."""
    from testing.array_rows import ArrayRows  # which a build that is measured may lack

    n, d = size
    features = feature_like(n, d)
    figures: dict[str, float] = {}
    for name, least in (("exhaustive", 1.0), ("approximate", min_recall)):
        service = start_index(1, backend=backend, min_recall=least, actor_options=actor_options)
        try:
            client = service.client(600)
            began = time.monotonic()
            facts = client.build_from_rows(ArrayRows([features]), k=8)
            figures[f"{name}_build_s"] = time.monotonic() - began
            began = time.monotonic()
            ray.wait(client.graph([(0, min(n, 8192))], 8))
            figures[f"{name}_s"] = time.monotonic() - began
        finally:
            service.stop()
    return figures | {"recall": facts.recall, "effort": facts.effort, "most_effort": facts.most_effort}


def feature_like(n: int, d: int) -> NDArray[np.float16]:
    """[n, d] what a network's last layer is like: classes that overlap, sixteen hidden directions, half zeros."""
    rng = np.random.default_rng(3)
    hidden = rng.normal(size=(8, 16))[rng.integers(0, 8, n)] + rng.normal(0, 0.5, (n, 16))
    return (np.maximum(hidden @ rng.normal(size=(16, d)), 0) + rng.normal(0, 0.05, (n, d))).astype(np.float16)


def gpu_seconds(va: Points) -> dict[str, float]:
    """Seconds of the exact graph, and of FAISS's own search alone."""
    resources = faiss.StandardGpuResources()
    knn: Callable[..., Any] = faiss.knn_gpu  # pyright: ignore[reportAttributeAccessIssue]
    knn(resources, va[:1000], va, K)
    began = time.monotonic()
    knn(resources, va, va, K + 1)
    alone = time.monotonic() - began
    began = time.monotonic()
    nearest_neighbors(va, K, backend="faiss_gpu")
    return {"ours": time.monotonic() - began, "faiss": alone}


def uniform(n: int) -> Points:
    """Points all over the plane."""
    return np.random.default_rng(0).uniform(-1, 1, (n, 2)).astype(np.float32)


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main(tyro.cli(Arguments))
