"""Find the nearest neighbours of every training sample, once per data set: python jobs/build_index.py --dataset DIR."""

import time
from dataclasses import dataclass

import tyro

from ldlva_dist.neighbors.graph import K_MAX, build_graph
from ldlva_dist.neighbors.index import Backend, resolve
from ldlva_dist.terminal import run_job


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Build the graph of the nearest neighbours in the valence-arousal plane and store it beside the data set."""

    dataset: str
    """Folder or s3:// prefix that jobs/make_shards.py wrote."""
    k_max: int = K_MAX
    """Neighbours to keep; every run and trial with num_neighbors up to this shares the graph."""
    backend: Backend = "auto"
    """auto: FAISS where it sees a GPU, else a KD-tree. All give the same graph."""


def main(arguments: Arguments) -> None:
    """Build, write, and say what was built."""
    began = time.perf_counter()
    backend = resolve(arguments.backend)
    info = build_graph(arguments.dataset, arguments.k_max, backend)
    seconds = time.perf_counter() - began
    print(f"graph-K{info.num_neighbors}: N {info.num_samples}, K {info.num_neighbors}, {backend}, {seconds:.1f} s")


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    run_job(lambda: main(arguments))
