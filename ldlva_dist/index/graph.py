"""The graph of the K nearest neighbours of every training sample: built once per data set version, kept beside it.

``graph-K32/graph.json`` is written last; ``ids-00000.npy`` and ``distances-00000.npy`` hold one range of ids each.
N = training samples, n = rows asked for, K = neighbours.
"""

import dataclasses
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.index.backends import K_MAX, Backend, build_index
from ldlva_dist.index.exact_search import PointSet, check_k, check_va
from ldlva_dist.index.plane_cut import cut_dataset, load_box
from ldlva_dist.index.shard import IndexShard, answer_in_process
from ldlva_dist.index.shard_answers import join_answers
from ldlva_dist.values.typed_json import Count, Rule, Text, build_dataclass, parse_object, require_format

_FORMAT_VERSION = 1
GRAPH_PART_ROWS = 1 << 18
MAX_SAMPLES = 2**31 - 1
_FOLDER = re.compile(r"graph-K([1-9][0-9]{0,9})")
_KINDS = {"ids": np.dtype("<i4"), "distances": np.dtype("<f4")}


@dataclass(frozen=True, kw_only=True)
class GraphInfo:
    """``graph.json``."""

    num_samples: Annotated[Count, Rule("a number of samples, from 2", lambda n: 1 < n <= MAX_SAMPLES)]
    """N, the training samples: ids 0..N-1."""
    num_neighbors: Annotated[Count, Rule("> 0", bool)]
    """K, neighbours kept of each."""
    content_hash: Text
    """Of the data set it was built from."""
    part_rows: Annotated[Count, Rule("> 0", bool)]
    """Ids in each part but the last."""
    imported: bool = False
    """Whether a user's table named the neighbours: they keep its order, which need not be that of the distances."""
    checksums: Mapping[str, Count] = field(default_factory=dict)
    """CRC-32 of the values in each file, by its name; none for graphs that were built before there were any."""
    format_version: int = _FORMAT_VERSION

    @property
    def num_parts(self) -> int:
        """Files of ids, and of distances."""
        return -(-self.num_samples // self.part_rows)

    def rows_of(self, part: int) -> range:
        """The ids in one part."""
        return range(part * self.part_rows, min(self.num_samples, (part + 1) * self.part_rows))


def nearest_neighbors(
    points_N2: NDArray[np.float32], k: int, *, backend: Backend = "auto", queries: range | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The exact k nearest others of samples ``queries`` (default: all), nearest first, ties by (id - own id) mod N.

    Returns:
        ids [n, k] and squared distances [n, k].
    """
    num_samples = len(points_N2)
    check_k(k, num_samples)
    check_va(points_N2)
    everyone = PointSet(np.arange(num_samples), points_N2, num_samples, partial(build_index, backend=backend))
    rows_n = everyone.ids if queries is None else np.arange(queries.start, queries.stop)
    found = everyone.search_samples(rows_n, k)
    return found.ids, found.squared


def plan_graph(dataset: Dataset, k_max: int = K_MAX, part_rows: int = GRAPH_PART_ROWS) -> GraphInfo:
    """The graph that can be built of the training split; K is ``k_max``, or N - 1 where that is less."""
    data = dataset.info
    if not data.has_valence_arousal:
        raise SettingError(
            "a recipe with neighbours (loss.recipe official, paper or posterior) must have valence-arousal, "
            f"got a data set without: {dataset.uri} (train with --index.space feature, which needs no graph)"
        )
    k = min(k_max, data.num_train - 1)
    check_k(k, data.num_train)
    return GraphInfo(num_samples=data.num_train, num_neighbors=k, content_hash=data.content_hash, part_rows=part_rows)


def build_graph(
    dataset: Dataset, k_max: int = K_MAX, backend: Backend = "auto", *, part_rows: int = GRAPH_PART_ROWS
) -> GraphInfo:
    """Find and write the neighbours of the training split in this process; ``index_service`` does it on a cluster."""
    graph = plan_graph(dataset, k_max, part_rows)
    [box] = cut_dataset(dataset, 1)
    shard = IndexShard(0, backend)
    facts = shard.prepare(1, graph.num_samples, partial(load_box, dataset, box))
    with writing(dataset.uri, graph) as checksums:
        for part, ids_n in enumerate(part_ids(graph)):
            answers = answer_in_process([shard], 1, ids_n, graph.num_neighbors, [facts])
            checksums |= write_part(dataset.uri, graph, part, *join_answers(ids_n, graph.num_samples, answers))
    return graph


def copy_graphs(dataset: Dataset, version: Dataset) -> None:
    """Give a version with the same valence-arousal the graphs of its data set, those that are not there yet."""
    own, content_hash = dataset.info.content_hash, version.info.content_hash
    there = {graph.num_neighbors for _, graph in graph_infos(version.uri) if graph.content_hash == content_hash}
    for folder, graph in graph_infos(dataset.uri):
        if graph.content_hash == own and graph.num_neighbors not in there:
            copy = dataclasses.replace(graph, content_hash=content_hash)
            with writing(version.uri, copy) as checksums:
                for part in range(graph.num_parts):
                    checksums |= write_part(version.uri, copy, part, *read_part(folder, graph, part))


@contextmanager
def writing(dataset_uri: str, graph: GraphInfo) -> Iterator[dict[str, int]]:
    """Make room for the parts of a graph; only when all are written does it count as one.

    What :func:`write_part` returns is to be put into the dict.
    """
    folder = _folder(dataset_uri, graph.num_neighbors)
    storage.make_folder(folder)
    storage.delete_file(storage.join(folder, "graph.json"))
    checksums: dict[str, int] = {}
    yield checksums
    complete = dataclasses.replace(graph, checksums=dict(sorted(checksums.items())))
    text = json.dumps(dataclasses.asdict(complete), indent=1) + "\n"
    storage.write_bytes(storage.join(folder, "graph.json"), text.encode())


def part_ids(info: GraphInfo) -> Iterator[NDArray[np.int64]]:
    """The ids of each part."""
    for part in range(info.num_parts):
        rows = info.rows_of(part)
        yield np.arange(rows.start, rows.stop)


def write_part(
    dataset_uri: str, graph: GraphInfo, part: int, ids_nK: NDArray[np.int32], squared_nK: NDArray[np.float32]
) -> dict[str, int]:
    """Write the neighbour ids and squared distances of one part; their checksums by the files' names."""
    checksums = {}
    for name, array in (("ids", ids_nK), ("distances", squared_nK)):
        array, file = np.ascontiguousarray(array), _part_name(name, part)
        content = b"".join([_npy_head(array.shape, array.dtype), array.data])
        storage.write_bytes(storage.join(_folder(dataset_uri, graph.num_neighbors), file), content)
        checksums[file] = crc32(array)
    return checksums


def require_graph(dataset: Dataset, k: int) -> GraphInfo:
    """The smallest graph of this data set version with at least ``k`` neighbours; where there is none, what to run."""
    num_train = dataset.info.num_train
    check_k(k, num_train)
    kept = sorted(int(m[1]) for name in storage.list_folder(dataset.uri) if (m := _FOLDER.fullmatch(name)))
    graphs = [graph for found in kept if (graph := read_graph_info(_folder(dataset.uri, found)))]
    current = [graph for graph in graphs if graph.content_hash == dataset.info.content_hash]
    for graph in current:
        if graph.num_samples != num_train:
            raise DataError(
                f"the neighbour graph in {_folder(dataset.uri, graph.num_neighbors)} is damaged: it has "
                f"{graph.num_samples} samples, the data set {num_train} to train on"
            )
        if graph.num_neighbors >= k:
            return graph
    build = f"run: python jobs/build_index.py --dataset {dataset.uri}"
    if current:
        raise SettingError(
            f"neighbors.num_neighbors must be <= the K of the neighbour graph ({current[-1].num_neighbors}), got {k}; "
            f"{build} --k-max {k}"
        )
    if graphs:
        raise DataError(f"the neighbour graph in {dataset.uri} belongs to another version of the data set; {build}")
    raise DataError(f"{dataset.uri} has no neighbour graph; {build}")


def read_graph(dataset: Dataset, first: int, rows: int, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Neighbour ids [n, k] and squared distances [n, k] of samples first..first+rows-1; only their parts are read.

    What cannot be a graph's is a DataError that names the sample.
    """
    graph = require_graph(dataset, k)
    if not 0 <= first <= first + rows <= graph.num_samples:
        raise DataError(f"the graph holds ids 0..{graph.num_samples - 1}, asked for {first}..{first + rows - 1}")
    folder = _folder(dataset.uri, graph.num_neighbors)
    ids_nk, squared_nk = np.empty((rows, k), dtype=np.int32), np.empty((rows, k), dtype=np.float32)
    for part in range(first // graph.part_rows, -(-(first + rows) // graph.part_rows)):
        held = graph.rows_of(part)
        low, high = max(first, held.start), min(first + rows, held.stop)
        here, there = slice(low - first, high - first), slice(low - held.start, high - held.start)
        ids_nk[here], squared_nk[here] = (array[there, :k] for array in read_part(folder, graph, part))
        for finding in impossible(ids_nk[here], squared_nk[here], low, graph.num_samples):
            raise DataError(f"the neighbour graph in {folder} is damaged: {finding}")
    return ids_nk, squared_nk


def impossible(ids_nK: NDArray[np.int32], squared_nK: NDArray[np.float32], first: int, num_samples: int) -> list[str]:
    """What no graph has, of the rows of samples ``first``, ``first + 1``, ...: a sentence for each kind."""
    own_n = np.arange(first, first + len(ids_nK), dtype=np.int32)
    wrong = {
        "has neighbours that are no training samples": ids_nK.view(np.uint32) >= num_samples,
        "is among its own neighbours": ids_nK == own_n[:, None],
        "has distances that are no numbers >= 0": ~((squared_nK >= 0) & (squared_nK < np.inf)),
    }
    return [count_samples(what, mask.any(axis=1), first) for what, mask in wrong.items() if mask.any()]


def count_samples(what: str, wrong_n: NDArray[np.bool_], first: int) -> str:
    """A sentence that names the first wrong sample of some that begin with ``first``."""
    return f"sample {first + int(wrong_n.argmax())} {what} ({int(wrong_n.sum())} samples)"


def graph_infos(dataset_uri: str) -> list[tuple[str, GraphInfo]]:
    """Folder and description of every finished graph of a data set, whatever version it was built from."""
    return [(folder, info) for folder in graph_folders(dataset_uri) if (info := read_graph_info(folder))]


def graph_folders(dataset_uri: str) -> list[str]:
    """Every folder that is named as a graph's, finished or not."""
    return [storage.join(dataset_uri, name) for name in storage.list_folder(dataset_uri) if _FOLDER.fullmatch(name)]


def read_part(folder: str, info: GraphInfo, part: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Neighbour ids and squared distances of one part of a graph, [n, K] each, as they are stored."""
    shape = len(info.rows_of(part)), info.num_neighbors
    files = {name: _part_name(name, part) for name in _KINDS}
    ids_nK, squared_nK = (_load(storage.join(folder, file), shape, _KINDS[name]) for name, file in files.items())
    for file, array in zip(files.values(), (ids_nK, squared_nK), strict=True):
        if info.checksums and info.checksums.get(file) != crc32(array):
            wrong = impossible(ids_nK, squared_nK, info.rows_of(part).start, info.num_samples)
            what = wrong[0] if wrong else "it does not have the checksum of graph.json"
            raise DataError(f"{storage.join(folder, file)} is damaged: {what}")
    return ids_nK, squared_nK


def read_graph_info(folder: str) -> GraphInfo | None:
    """``graph.json``, or None where the build did not finish."""
    uri = storage.join(folder, "graph.json")
    if not storage.exists(uri):
        return None
    raw = parse_object(storage.read_bytes(uri), uri)
    require_format(raw, _FORMAT_VERSION, uri)
    info = build_dataclass(GraphInfo, raw, uri)
    if info.num_neighbors >= info.num_samples or not folder.endswith(f"graph-K{info.num_neighbors}"):
        raise DataError(f"{uri} is damaged: num_neighbors={info.num_neighbors} is not that of this folder")
    return info


def _folder(dataset_uri: str, k: int) -> str:
    return storage.join(dataset_uri, f"graph-K{k}")


def _part_name(name: str, part: int) -> str:
    return f"{name}-{part:05d}.npy"


def _npy_head(shape: tuple[int, ...], kind: np.dtype[Any]) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": kind.str, "fortran_order": False, "shape": shape})
    return head.getvalue()


def _load(uri: str, shape: tuple[int, int], kind: np.dtype[Any]) -> NDArray[Any]:
    """A stored array of one shape; a local one is mapped, so that it costs no memory of its own."""
    head = _npy_head(shape, kind)
    begin, size = len(head), len(head) + shape[0] * shape[1] * kind.itemsize
    with storage.open_input(uri) as file:
        if file.size() != size or file.read(begin) != head:
            raise DataError(f"{uri} is damaged: it must be an array of {shape[0]} x {shape[1]} {kind}, of {size} bytes")
    if storage.is_remote(uri):
        return np.frombuffer(storage.read_bytes(uri), kind, offset=begin).reshape(shape)
    return np.memmap(storage.resolve(uri)[1], kind, mode="r", offset=begin, shape=shape)
