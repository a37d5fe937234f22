"""A neighbour graph by one other library, for bench/races/graphs.py.

Runs in an environment that has this library and numpy, and nothing of this project. The effort grows until the recall
that is asked for is reached; what was tried before is not counted. One thread. Prints a JSON line for each try.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Try = tuple[dict[str, int], float, Any]
"""Settings, CPU seconds of the build and the whole graph, and neighbours [N, k + 1], themselves among them or not."""


def main() -> None:
    """Build the graph of the points in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=sorted(LIBRARIES))
    parser.add_argument("folder", type=Path, help="holds points.npy, asked.npy and their nearest.npy")
    parser.add_argument("--min-recall", type=float, required=True)
    arguments = parser.parse_args()
    points, asked, nearest = (np.load(arguments.folder / f"{name}.npy") for name in ("points", "asked", "nearest"))
    next(LIBRARIES[arguments.library](points[:2000], nearest.shape[1]))  # what a first call compiles is not counted
    for settings, cpu_s, near in LIBRARIES[arguments.library](points, nearest.shape[1]):
        recall = _recall(near[asked], asked, nearest)
        print(json.dumps({"settings": settings, "cpu_s": cpu_s, "recall": recall}), flush=True)
        if recall >= arguments.min_recall:
            return


def by_usearch(points: Any, k: int) -> Iterator[Try]:
    """HNSW with the defaults of the library; a search looks at more candidates each time."""
    from usearch.index import Index  # pyright: ignore[reportMissingImports]

    began = time.process_time()
    index = Index(ndim=points.shape[1], metric="l2sq", dtype="f32")
    index.add(np.arange(len(points)), points, threads=1)
    build_s = time.process_time() - began
    for effort in (32, 64, 128, 256, 512, 1024):
        index.expansion_search = effort
        began = time.process_time()
        near = index.search(points, k + 1, threads=1).keys
        yield {"expansion_search": effort}, build_s + time.process_time() - began, near


def by_pynndescent(points: Any, k: int) -> Iterator[Try]:
    """Nearest-neighbour descent; the graph is of more neighbours each time."""
    from pynndescent import NNDescent  # pyright: ignore[reportMissingImports]

    for more in (1.0, 1.5, 2.0, 3.0):
        began = time.process_time()
        graph = NNDescent(points, n_neighbors=int(more * (k + 1)), n_jobs=1, random_state=0).neighbor_graph
        assert graph is not None
        yield {"n_neighbors": int(more * (k + 1))}, time.process_time() - began, graph[0]


def _recall(near: Any, asked: Any, nearest: Any) -> float:
    """Share of the true neighbours of the samples that were asked about which were found."""
    k, hits = nearest.shape[1], 0
    for found, own, true in zip(near.tolist(), asked.tolist(), nearest.tolist(), strict=True):
        hits += len(set([other for other in found if other != own][:k]) & set(true))
    return hits / nearest.size


LIBRARIES: dict[str, Callable[[Any, int], Iterator[Try]]] = {"usearch": by_usearch, "pynndescent": by_pynndescent}

if __name__ == "__main__":
    main()
