"""Find the nearest neighbours of every training sample, once per data set: python jobs/build_index.py --dataset DIR."""

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import tyro

from ldlva_dist.config import PlacementConfig
from ldlva_dist.index.backends import K_MAX, Backend, resolve_backend
from ldlva_dist.packing.sources.rows import USUAL_NAMES
from ldlva_dist.records.console import say
from ldlva_dist.values.settings import Count, NotNegative, Range, check_options

if TYPE_CHECKING:
    from ldlva_dist.index.graph import GraphInfo


@dataclass(frozen=True, kw_only=True)
class IndexArguments:
    """Build the graph of the nearest neighbours in the valence-arousal plane and store it beside the data set."""

    dataset: str
    """Folder or s3:// prefix that jobs/make_shards.py wrote."""
    k_max: Count = K_MAX
    """Neighbours to keep; every run and trial with num_neighbors up to this shares the graph."""
    backend: Backend = "auto"
    """auto: a KD-tree. All give the same graph."""
    num_shards: Annotated[int, Range(ge=1, le=4096)] | None = None
    """Actors that do the work, each with its part of the plane; 1 searches in this process. Default: as many as the
    cluster has CPUs, or holds of them with --gpus-per-shard; 1 for fewer than 100,000 samples."""
    gpus_per_shard: NotNegative = 0.0
    """GPU, or share of one, of each actor."""
    import_table: str | None = None
    """Take the neighbours from this CSV (the one that was packed) instead of searching them; see --column."""
    column: str = "knn"
    """Column of --import-table with row numbers, from 0, nearest first: "12;5;9"."""
    path_column: str = USUAL_NAMES["path"]
    """Column of --import-table with the paths of the images, as they were packed."""
    delimiter: str | None = None
    """Character between the cells of --import-table; taken from its header if not given."""
    key_prefix: str = ""
    """Text of the keys before the path in the CSV: the folder's name and /, where test images had another folder."""
    k_min: Count = 8
    """Imported neighbours that every sample must have left after those that are no training samples are dropped."""

    def __post_init__(self) -> None:
        check_options(self)


def run_build_index() -> None:
    """Build, write, and say what was built."""
    arguments = tyro.cli(IndexArguments)
    began = time.perf_counter()
    if arguments.import_table is None:
        how, info = build(arguments)
    else:
        how, info = "imported", import_neighbors(arguments, arguments.import_table)
    seconds = time.perf_counter() - began
    say(f"graph-K{info.num_neighbors}: N {info.num_samples}, K {info.num_neighbors}, {how}, {seconds:.1f} s")


def import_neighbors(arguments: IndexArguments, uri: str) -> "GraphInfo":
    """The graph of a table's column."""
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.packing.imported_graph import NeighborTable, import_graph
    from ldlva_dist.storage.csv_file import delimiter_option, delimiter_remark

    table = NeighborTable(
        uri=uri,
        column=arguments.column,
        path_column=arguments.path_column,
        delimiter=delimiter_option(arguments.delimiter),
        key_prefix=arguments.key_prefix,
    )
    if remark := delimiter_remark(table.uri, table.delimiter):
        say(remark)
    return import_graph(Dataset.open(arguments.dataset), table, k_min=arguments.k_min)


def build(arguments: IndexArguments) -> tuple[str, "GraphInfo"]:
    """Search, in this process or on the cluster; how it was done, and the graph."""
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.index.service import build_graph_by_size
    from ldlva_dist.runtime.placement import index_place

    place = partial(index_place, PlacementConfig(gpus_per_index=arguments.gpus_per_shard))
    on_gpu = arguments.gpus_per_shard > 0
    dataset, k_max, backend = Dataset.open(arguments.dataset), arguments.k_max, arguments.backend
    graph, num_actors = build_graph_by_size(
        dataset, k_max, backend, num_shards=arguments.num_shards, on_gpu=on_gpu, place=place
    )
    return f"{backend} on {num_actors} actors" if num_actors else resolve_backend(backend), graph
