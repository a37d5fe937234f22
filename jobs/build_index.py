"""Find the nearest neighbours of every training sample, once per data set: python jobs/build_index.py --dataset DIR."""

import time
from dataclasses import dataclass

import tyro

from ldlva_dist.neighbors.graph import K_MAX, build_graph
from ldlva_dist.neighbors.imported import import_graph
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
    import_table: str | None = None
    """Take the neighbours from this CSV (the one that was packed) instead of searching them; see --column."""
    column: str = "knn"
    """Column of --import-table with row numbers, from 0, nearest first: "12;5;9"."""
    key_prefix: str = ""
    """What keys have before the path in the CSV: the folder's name and /, where test images had another folder."""
    k_min: int = 8
    """Imported neighbours that every sample must have left after those that are no training samples are dropped."""


def main(arguments: Arguments) -> None:
    """Build, write, and say what was built."""
    began = time.perf_counter()
    if arguments.import_table is None:
        how = resolve(arguments.backend)
        info = build_graph(arguments.dataset, arguments.k_max, how)
    else:
        how = "imported"
        info = import_graph(
            arguments.dataset,
            arguments.import_table,
            column=arguments.column,
            key_prefix=arguments.key_prefix,
            k_min=arguments.k_min,
        )
    seconds = time.perf_counter() - began
    print(f"graph-K{info.num_neighbors}: N {info.num_samples}, K {info.num_neighbors}, {how}, {seconds:.1f} s")


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    run_job(lambda: main(arguments))
