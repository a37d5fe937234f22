"""The neighbours that a user's table names, as the graph of a data set: the ``knn`` column of the reference's CSV.

There a cell holds the row numbers (from 0) of a row's neighbours, nearest first: "12;5;9". Row numbers become ids by
the rows' keys. A neighbour that is no training sample (rejected, left out, in the holdout), the row itself and a second
mention are dropped, and the next of the list moves up: a stored graph has no holes, because the bank answers for every
id in it. K is what the shortest list has left.
R = rows of the table, N = training samples, v = all listed neighbours, K = neighbours kept.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.shards import key_apart, sanitise_key
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.index.backends import K_MAX
from ldlva_dist.index.graph import GRAPH_PART_ROWS, GraphInfo, part_ids, write_part, writing
from ldlva_dist.packing.sources.rows import USUAL_NAMES
from ldlva_dist.packing.sources.user_columns import columns_present
from ldlva_dist.storage.csv_file import csv_columns, read_csv

_LIST = r"^\s*[\[(]?\s*[0-9]{1,18}(\s*[;,\s]\s*[0-9]{1,18})*\s*[\])]?\s*$"
_BETWEEN = r"[^0-9]+"


@dataclass(frozen=True, kw_only=True)
class NeighborTable:
    """A CSV that names the neighbours of every row."""

    uri: str
    """The CSV of the training rows."""
    column: str = "knn"
    """Row numbers from 0, separated by ``;``, commas or blanks, in brackets or not."""
    path_column: str = USUAL_NAMES["path"]
    """Paths of the images, as they were packed."""
    delimiter: str | None = None
    """Between its cells; None takes it from the header."""
    key_prefix: str = ""
    """Text of the keys before the path, where training and test images stood in different folders."""


def import_graph(
    dataset: Dataset, neighbors: NeighborTable, *, k_min: int = 8, part_rows: int = GRAPH_PART_ROWS
) -> GraphInfo:
    """Store the neighbours that the table names which the data set was packed from.

    Args:
        dataset: A data set with valence-arousal, for the distances.
        neighbors: The table.
        k_min: Neighbours that every sample must have left.
        part_rows: Ids in each file.

    Raises:
        SettingError: for a data set without valence-arousal, or a column that is not there.
        DataError: for a cell that is no list, a row number that is no row, a training sample that is not in the table,
            or one with fewer than ``k_min`` neighbours left.
    """
    if not dataset.info.has_valence_arousal:
        raise SettingError(f"a graph must have valence-arousal, got a data set without: {dataset.uri}")
    table_uri, present = neighbors.uri, csv_columns(neighbors.uri, neighbors.delimiter)
    for setting, name in (("--path-column", neighbors.path_column), ("--column", neighbors.column)):
        if name not in present:
            raise SettingError(f"{setting} must be a column of {table_uri}, got {name!r}; {columns_present(present)}")
    table = read_csv(table_uri, (neighbors.path_column, neighbors.column), delimiter=neighbors.delimiter)
    keys_N = dataset.columns(("key",), rows=dataset.info.num_train)["key"]
    paths = table[neighbors.path_column].to_pylist()
    keys = [sanitise_key(neighbors.key_prefix + path) for path in paths]
    id_R = _ids(keys, keys_N)
    apart_R = _ids([key_apart(key, f"train/{path}") for key, path in zip(keys, paths, strict=True)], keys_N)
    id_R = np.where(id_R < 0, apart_R, id_R)
    lists = _lists(table[neighbors.column], table_uri)
    ids_NK = _neighbors(lists, id_R, keys_N, k_min=k_min, table_uri=table_uri)
    return _write(dataset, ids_NK, part_rows)


def _ids(keys_R: list[str], keys_N: pa.ChunkedArray) -> NDArray[np.int64]:
    """[R] the id of each row; -1 for one that is no training sample."""
    options = pc.SetLookupOptions(value_set=keys_N.combine_chunks())
    found = pc.call_function("index_in", [pa.array(keys_R, pa.string())], options)
    return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _lists(column: pa.ChunkedArray, table_uri: str) -> pa.ListArray:
    """[R] lists of row numbers of the table."""
    text = column.combine_chunks()
    fits = pc.call_function("match_substring_regex", [text], pc.MatchSubstringOptions(_LIST))
    wrong = np.flatnonzero(~fits.to_numpy(zero_copy_only=False).astype(bool))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"{table_uri}: the neighbours of row {row} must be row numbers, got {text[row].as_py()!r}")
    plain = pc.call_function("replace_substring_regex", [text], pc.ReplaceSubstringOptions(_BETWEEN, ";"))
    trimmed = pc.call_function("utf8_trim", [plain], pc.TrimOptions(";"))
    lists = pc.call_function("split_pattern", [trimmed], pc.SplitPatternOptions(";")).cast(pa.list_(pa.int64()))
    row_v = lists.values.to_numpy()
    if len(row_v) and int(row_v.max()) >= len(lists):
        raise DataError(f"{table_uri} has {len(lists)} rows, but names row {int(row_v.max())} as a neighbour")
    return lists


def _neighbors(
    lists: pa.ListArray, id_R: NDArray[np.int64], keys_N: pa.ChunkedArray, *, k_min: int, table_uri: str
) -> NDArray[np.int32]:
    """[N, K] neighbour ids, nearest first."""
    num_samples, ids = len(keys_N), np.arange(len(keys_N))
    known_R = np.flatnonzero(id_R >= 0)
    own, first = np.unique(id_R[known_R], return_index=True)
    if len(own) < num_samples:
        missing = int(np.flatnonzero(~np.isin(ids, own))[0])
        raise DataError(
            f"{num_samples - len(own)} of {num_samples} training samples are not in {table_uri}, "
            f"the first is {keys_N[missing].as_py()!r}"
        )
    row_N = known_R[first]
    owner_R = np.full(len(id_R), -1)
    owner_R[row_N] = ids
    own_v = np.repeat(owner_R, np.diff(lists.offsets.to_numpy()))
    neighbor_v = id_R[lists.values.to_numpy()]
    place = np.flatnonzero((own_v >= 0) & (neighbor_v >= 0) & (neighbor_v != own_v))
    _, once = np.unique(own_v[place] * num_samples + neighbor_v[place], return_index=True)
    place = place[np.sort(once)]
    place = place[np.argsort(own_v[place], kind="stable")]
    count_N = np.bincount(own_v[place], minlength=num_samples)
    if int(count_N.min()) < k_min:
        sample = int(count_N.argmin())
        listed = len(lists[int(row_N[sample])])
        raise DataError(
            f"every training sample must have {k_min} neighbours (--k-min), but {keys_N[sample].as_py()!r} has "
            f"{count_N[sample]} of its {listed} left: the others were rejected or are in the holdout "
            "(pack with --holdout 0, or lower --k-min)"
        )
    k = min(int(count_N.min()), K_MAX)
    begin_N = np.cumsum(count_N) - count_N
    return neighbor_v[place[begin_N[:, None] + np.arange(k)]].astype(np.int32)


def _write(dataset: Dataset, ids_NK: NDArray[np.int32], part_rows: int) -> GraphInfo:
    num_samples, k = ids_NK.shape
    graph = GraphInfo(
        num_samples=num_samples,
        num_neighbors=k,
        content_hash=dataset.info.content_hash,
        part_rows=part_rows,
        imported=True,
    )
    va_N2 = dataset.va(0, num_samples).astype(np.float64)
    with writing(dataset.uri, graph) as checksums:
        for part, ids_n in enumerate(part_ids(graph)):
            ids_nK = ids_NK[ids_n]
            squared_nK = np.square(va_N2[ids_nK] - va_N2[ids_n, None]).sum(axis=2)
            checksums |= write_part(dataset.uri, graph, part, ids_nK, squared_nK.astype(np.float32))
    return graph
