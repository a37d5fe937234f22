"""What in a stored neighbour graph is not as it must be. N = training samples, n = those of a part, K = neighbours."""

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.data.manifest import DatasetInfo, read_va
from ldlva_dist.errors import DataError
from ldlva_dist.neighbors.graph import GraphInfo, graph_infos, read_part

ROWS = 65_536
TOLERANCE = 1e-5
"""Of squared distances: the manifest's float32 points against what was stored."""


def graphs_of(dataset_uri: str) -> tuple[list[tuple[str, GraphInfo]], list[str]]:
    """The graphs of a data set that can be checked, and what is wrong with the others."""
    try:
        return graph_infos(dataset_uri), []
    except (DataError, ValueError, TypeError) as error:
        return [], [f"a neighbour graph cannot be read: {error}"]


def check_part(dataset_uri: str, info: DatasetInfo, folder: str, graph: GraphInfo, part: int) -> list[str]:
    """What is wrong with one part of a graph: ids out of range, a sample among its own neighbours, distances."""
    name, first = folder.rsplit("/", 1)[-1], part * graph.part_rows
    n = min(graph.part_rows, graph.num_samples - first)
    try:
        ids_nK, squared_nK = read_part(folder, part)
    except (DataError, ValueError, OSError) as error:
        return [f"{name}: part {part} cannot be read: {error}"]
    if ids_nK.shape != (n, graph.num_neighbors) or squared_nK.shape != ids_nK.shape:
        return [f"{name}: part {part} is {ids_nK.shape} and {squared_nK.shape}, not ({n}, {graph.num_neighbors})"]
    wrong = {
        "has neighbours that are no training samples": (ids_nK < 0) | (ids_nK >= info.num_train),
        "is among its own neighbours": ids_nK == np.arange(first, first + n)[:, None],
        "has distances that are no numbers >= 0": ~(squared_nK >= 0),
        "has neighbours out of order": np.logical_and(np.diff(squared_nK, axis=1) < -TOLERANCE, not graph.imported),
        "has a neighbour twice": np.diff(np.sort(ids_nK, axis=1), axis=1, prepend=-1) == 0,
    }
    findings = [
        f"{name}: sample {first + int(mask.any(axis=1).argmax())} {what} ({int(mask.any(axis=1).sum())} samples)"
        for what, mask in wrong.items()
        if mask.any()
    ]
    if findings:
        return findings
    va_N2 = read_va(dataset_uri, 0, info.num_train)
    far = [begin for begin in range(0, n, ROWS) if not _fits(va_N2, first + begin, ids_nK, squared_nK, begin)]
    return [f"{name}: distances are not those of the valence-arousal, from sample {first + far[0]} on"] if far else []


def _fits(va_N2: NDArray[np.float32], first: int, ids_nK: NDArray, squared_nK: NDArray, begin: int) -> bool:
    """Whether ROWS rows from ``begin`` on have the distances that their points have."""
    ids_rK, squared_rK = ids_nK[begin : begin + ROWS], squared_nK[begin : begin + ROWS]
    expected_rK = np.square(va_N2[ids_rK] - va_N2[first : first + len(ids_rK), None]).sum(axis=2)
    return bool((np.abs(expected_rK - squared_rK) <= TOLERANCE * (1 + expected_rK)).all())


def check_version(info: DatasetInfo, folder: str, graph: GraphInfo) -> list[str]:
    """A graph of another version, or of another number of samples, cannot be used."""
    name = folder.rsplit("/", 1)[-1]
    if graph.content_hash != info.content_hash:
        return [f"{name} belongs to another version of the data set (build it again: jobs/build_index.py)"]
    if graph.num_samples != info.num_train:
        return [f"{name} has {graph.num_samples} samples, the data set {info.num_train} to train on"]
    return []
