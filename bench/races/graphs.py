"""Claim: the graph of learnt features costs less than by the best of usearch, pynndescent and FAISS's own graphs.

On the same points, like a network's features, each of N samples gets its K nearest others. CPU seconds of all processes
for index and graph together, at the least effort that reaches the recall; recall is counted on 1,000 samples against
exhaustive search. Ours is the index that training uses, in one actor with one thread: pieces of rows come through Ray's
object store, FAISS's HNSW of 16 links is searched (its effort is measured, which is counted), and what is found is
compared anew in float64. Others have the rows in memory and use one thread: usearch and FAISS's HNSW of its usual 32
links, pynndescent and FAISS's NNDescent. What they try before they reach the recall, and what they compile, is not
counted.
Goal: no other library is below ours; recall >= .95 of ours.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import ray
import tyro
from numpy.typing import NDArray

from bench.common import cluster, report
from bench.processes import ROOT
from bench.races.environments import environments, said
from bench.speed.neighbors import feature_like
from ldlva_dist.index.backends import HNSWIndex
from ldlva_dist.index.service import start_index
from testing.array_rows import ArrayRows
from testing.processes import cpu_seconds_of_all

K, ASKED, LIMIT_S = 32, 1000, 1800.0
NEEDS = {"usearch": ("numpy",), "pynndescent": ("numpy",)}
LIBRARY_GRAPH = ROOT / "bench" / "races" / "library_graph.py"
Found = dict[str, Any]
Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How many points, and how many of the true neighbours must be found."""

    features: tuple[int, int] = (100_000, 512)
    min_recall: float = 0.95


def main(arguments: Arguments) -> None:
    """Measure side by side and print one JSON line."""
    pythons, missing = environments(NEEDS)
    points = feature_like(*arguments.features)
    faiss.omp_set_num_threads(1)
    asked = np.sort(np.random.default_rng(5).choice(len(points), ASKED, replace=False))
    nearest = exhaustive(points.astype(np.float32), asked)
    found: dict[str, Found] = {"ours": ours(points, asked, nearest, arguments.min_recall)}
    for name, tries in {"faiss HNSW": by_hnsw, "faiss NNDescent": by_descent}.items():
        found[name] = first_enough(tries(points.astype(np.float32)), asked, nearest, arguments.min_recall)
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in {"points": points.astype(np.float32), "asked": asked, "nearest": nearest}.items():
            np.save(Path(folder, name), rows)
        for library, python in pythons.items():
            command = [str(python), str(LIBRARY_GRAPH), library, folder, "--min-recall", str(arguments.min_recall)]
            output, why = said(command)
            if why:
                missing[library] = f"fails: {why}"
            else:
                found[library] = json.loads(output.splitlines()[-1])
    reached = {name: each["cpu_s"] for name, each in found.items() if each["recall"] >= arguments.min_recall}
    ok = not missing and "ours" in reached and reached["ours"] <= min(reached.values())
    report("race_of_graphs", ok=ok, features=arguments.features, k=K, missing=missing, found=found)


def exhaustive(points: NDArray[np.float32], asked: Ids) -> Ids:
    """[ASKED, K] the nearest others of some samples, by exhaustive search in float32."""
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)  # pyright: ignore[reportCallIssue]
    _, near = index.search(points[asked], K + 1)  # pyright: ignore[reportCallIssue]
    return without_own(near, asked)


def ours(points: NDArray[np.float16], asked: Ids, nearest: Ids, min_recall: float) -> Found:
    """The graph by the index of a run, in one actor."""
    with cluster(num_cpus=1):
        service = start_index(1, backend="faiss_cpu", min_recall=min_recall, actor_options={"num_cpus": 1})
        try:
            client = service.client(LIMIT_S)
            cpu_s, began = cpu_seconds_of_all(), time.monotonic()
            facts = client.build_from_rows(ArrayRows([points]), k=K)
            built_s = cpu_seconds_of_all() - cpu_s
            pieces = list(client.graph_pieces([0, len(points)], K))
            near = np.concatenate([ray.get(rows, timeout=LIMIT_S) for _, rows in pieces])
            cpu_s, wall_s = cpu_seconds_of_all() - cpu_s, time.monotonic() - began
        finally:
            service.stop()
    settings = {
        "efSearch": HNSWIndex.CANDIDATES * facts.effort,
        "compares everything": facts.compares_everything,
    }
    recall = recall_of(near[asked].astype(np.int64), nearest)
    return {"settings": settings, "cpu_s": cpu_s, "build_cpu_s": built_s, "wall_s": wall_s, "recall": recall}


def by_hnsw(points: NDArray[np.float32]) -> Iterator[tuple[dict[str, int], float, Ids]]:
    """FAISS's HNSW of its usual 32 links; a search looks at more candidates each time."""
    began = time.process_time()
    index: Any = faiss.IndexHNSWFlat(points.shape[1], 32)
    index.add(points)
    built_s = time.process_time() - began
    for effort in (32, 64, 128, 256, 512):
        index.hnsw.efSearch = effort
        began = time.process_time()
        _, near = index.search(points, K + 1)
        yield {"efSearch": effort}, built_s + time.process_time() - began, near


def by_descent(points: NDArray[np.float32]) -> Iterator[tuple[dict[str, int], float, Ids]]:
    """FAISS's NNDescent, whose own graph is taken; it keeps more candidates each time."""
    for kept in (K + 1, 48, 64, 96):
        began = time.process_time()
        index: Any = faiss.IndexNNDescentFlat(points.shape[1], kept)
        index.nndescent.L = kept + 50
        index.add(points)
        graph = faiss.vector_to_array(index.nndescent.final_graph).reshape(len(points), kept)
        yield {"K": kept}, time.process_time() - began, graph.astype(np.int64)


def first_enough(
    tries: Iterator[tuple[dict[str, int], float, Ids]], asked: Ids, nearest: Ids, min_recall: float
) -> Found:
    """The first of some tries that reaches a recall, or the last."""
    found: Found = {}
    for settings, cpu_s, near in tries:
        found = {
            "settings": settings,
            "cpu_s": cpu_s,
            "recall": recall_of(without_own(near[asked], asked), nearest),
        }
        if found["recall"] >= min_recall:
            break
    return found


def without_own(near: Ids, asked: Ids) -> Ids:
    """[n, K] the first K of each row that are not the sample itself."""
    return np.stack([row[row != own][:K] for row, own in zip(near, asked, strict=True)])


def recall_of(near: Ids, nearest: Ids) -> float:
    """Share of the true neighbours that were found."""
    return sum(len(np.intersect1d(*rows)) for rows in zip(near, nearest, strict=True)) / nearest.size


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
