"""The graph of the K nearest neighbours of every training sample: built once per data set version, kept beside it.

``graph-K32/graph.json`` is written last; ``ids-00000.npy`` and ``distances-00000.npy`` hold one range of ids each.
N = training samples, n = rows asked for, K = neighbours.
"""

import dataclasses
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.data import storage
from ldlva_dist.data.manifest import read_info
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.neighbors.cut import cut_dataset, load_box
from ldlva_dist.neighbors.index import Backend, build_index
from ldlva_dist.neighbors.index_parts import join
from ldlva_dist.neighbors.index_shard import IndexShard, together
from ldlva_dist.neighbors.points import PointSet, check_k, check_va

FORMAT_VERSION = 1
K_MAX = 32
PART_ROWS = 1 << 18
_FOLDER = re.compile(r"graph-K(\d+)")


@dataclass(frozen=True, kw_only=True)
class GraphInfo:
    """``graph.json``."""

    num_samples: int
    """N, the training samples: ids 0..N-1."""
    num_neighbors: int
    """K, neighbours kept of each."""
    content_hash: str
    """Of the data set it was built from."""
    part_rows: int
    """Ids in each part but the last."""
    imported: bool = False
    """Whether a user's table named the neighbours: they keep its order, which need not be that of the distances."""
    format_version: int = FORMAT_VERSION


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
    found = everyone.around_own(rows_n, k)
    return found.ids.astype(np.int32), found.squared.astype(np.float32)


def plan_graph(dataset_uri: str, k_max: int = K_MAX, part_rows: int = PART_ROWS) -> GraphInfo:
    """The graph that can be built of the training split; K is ``k_max``, or N - 1 where that is less."""
    data = read_info(dataset_uri)
    if not data.has_valence_arousal:
        raise SettingError(
            "a recipe with neighbours (loss.recipe official or paper) must have valence-arousal, "
            f"got a data set without: {dataset_uri}"
        )
    k = min(k_max, data.num_train - 1)
    check_k(k, data.num_train)
    return GraphInfo(num_samples=data.num_train, num_neighbors=k, content_hash=data.content_hash, part_rows=part_rows)


def build_graph(
    dataset_uri: str, k_max: int = K_MAX, backend: Backend = "auto", *, part_rows: int = PART_ROWS
) -> GraphInfo:
    """Find and write the neighbours of the training split in this process; ``index_service`` does it on a cluster."""
    info = plan_graph(dataset_uri, k_max, part_rows)
    [box] = cut_dataset(dataset_uri, 1)
    shard = IndexShard(0, backend)
    facts = shard.prepare(1, info.num_samples, partial(load_box, dataset_uri, box))
    with writing(dataset_uri, info):
        for part, ids_n in enumerate(part_ids(info)):
            answers = together([shard], 1, ids_n, info.num_neighbors, [facts])
            write_part(dataset_uri, info, part, *join(ids_n, info.num_samples, answers))
    return info


def copy_graphs(dataset_uri: str, version_uri: str) -> None:
    """Give a version with the same valence-arousal the graphs of its data set, those that are not there yet."""
    data, version = read_info(dataset_uri), read_info(version_uri)
    there = {info.num_neighbors for _, info in graph_infos(version_uri) if info.content_hash == version.content_hash}
    for folder, info in graph_infos(dataset_uri):
        if info.content_hash == data.content_hash and info.num_neighbors not in there:
            copy = dataclasses.replace(info, content_hash=version.content_hash)
            with writing(version_uri, copy):
                for part in range(-(-info.num_samples // info.part_rows)):
                    write_part(version_uri, copy, part, *read_part(folder, part))


@contextmanager
def writing(dataset_uri: str, info: GraphInfo) -> Iterator[None]:
    """Make room for the parts of a graph; only when all are written does it count as one."""
    folder = _folder(dataset_uri, info.num_neighbors)
    storage.make_folder(folder)
    storage.delete_file(storage.join(folder, "graph.json"))
    yield
    text = json.dumps(dataclasses.asdict(info), indent=1) + "\n"
    storage.write_bytes(storage.join(folder, "graph.json"), text.encode())


def part_ids(info: GraphInfo) -> Iterator[NDArray[np.int64]]:
    """The ids of each part."""
    for first in range(0, info.num_samples, info.part_rows):
        yield np.arange(first, min(first + info.part_rows, info.num_samples))


def write_part(
    dataset_uri: str, info: GraphInfo, part: int, ids_nK: NDArray[np.int32], squared_nK: NDArray[np.float32]
) -> None:
    """Write the neighbour ids and squared distances of one part."""
    folder = _folder(dataset_uri, info.num_neighbors)
    storage.write_bytes(_part_uri(folder, "ids", part), _npy(ids_nK))
    storage.write_bytes(_part_uri(folder, "distances", part), _npy(squared_nK))


def require_graph(dataset_uri: str, k: int) -> GraphInfo:
    """The smallest graph of this data set version with at least ``k`` neighbours; where there is none, what to run."""
    data = read_info(dataset_uri)
    check_k(k, data.num_train)
    kept = sorted(int(m[1]) for name in storage.list_folder(dataset_uri) if (m := _FOLDER.fullmatch(name)))
    graphs = [info for found in kept if (info := _read_info(_folder(dataset_uri, found)))]
    current = [info for info in graphs if info.content_hash == data.content_hash]
    for info in current:
        if info.num_neighbors >= k:
            return info
    build = f"run: python jobs/build_index.py --dataset {dataset_uri}"
    if current:
        raise SettingError(
            f"neighbors.num_neighbors must be <= the K of the neighbour graph ({current[-1].num_neighbors}), got {k}; "
            f"{build} --k-max {k}"
        )
    if graphs:
        raise DataError(f"the neighbour graph in {dataset_uri} belongs to another version of the data set; {build}")
    raise DataError(f"{dataset_uri} has no neighbour graph; {build}")


def read_graph(dataset_uri: str, first: int, rows: int, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Neighbour ids [n, k] and squared distances [n, k] of samples first..first+rows-1; only their parts are read."""
    info = require_graph(dataset_uri, k)
    if not 0 <= first <= first + rows <= info.num_samples:
        raise DataError(f"the graph holds ids 0..{info.num_samples - 1}, asked for {first}..{first + rows - 1}")
    ids_nk, squared_nk = np.empty((rows, k), dtype=np.int32), np.empty((rows, k), dtype=np.float32)
    for part in range(first // info.part_rows, -(-(first + rows) // info.part_rows)):
        begin = part * info.part_rows
        low, high = max(first, begin), min(first + rows, begin + info.part_rows)
        for name, target in (("ids", ids_nk), ("distances", squared_nk)):
            source = _load(_part_uri(_folder(dataset_uri, info.num_neighbors), name, part))
            target[low - first : high - first] = source[low - begin : high - begin, :k]
    return ids_nk, squared_nk


def graph_infos(dataset_uri: str) -> list[tuple[str, GraphInfo]]:
    """Folder and description of every finished graph of a data set, whatever version it was built from."""
    folders = [storage.join(dataset_uri, name) for name in storage.list_folder(dataset_uri) if _FOLDER.fullmatch(name)]
    return [(folder, info) for folder in folders if (info := _read_info(folder))]


def read_part(folder: str, part: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Neighbour ids and squared distances of one part of a graph, [n, K] each, as they are stored."""
    return _load(_part_uri(folder, "ids", part)), _load(_part_uri(folder, "distances", part))


def _folder(dataset_uri: str, k: int) -> str:
    return storage.join(dataset_uri, f"graph-K{k}")


def _part_uri(folder: str, name: str, part: int) -> str:
    return storage.join(folder, f"{name}-{part:05d}.npy")


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _load(uri: str) -> NDArray[Any]:
    """A stored array; a local one is mapped, so that only the rows that are read cost memory."""
    if storage.is_remote(uri):
        return np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False)
    return np.load(storage.resolve(uri)[1], mmap_mode="r", allow_pickle=False)


def _read_info(folder: str) -> GraphInfo | None:
    """``graph.json``, or None where the build did not finish."""
    uri = storage.join(folder, "graph.json")
    if not storage.exists(uri):
        return None
    raw = json.loads(storage.read_bytes(uri))
    if raw.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{uri} has format_version {raw.get('format_version')}, this program reads {FORMAT_VERSION}")
    return GraphInfo(**raw)
