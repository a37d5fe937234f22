"""What in a stored neighbour graph is not as it must be. N = training samples, n = those of a part, K = neighbours."""

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import DataError
from ldlva_dist.index.graph import GraphInfo, count_samples, graph_folders, impossible, read_graph_info, read_part

CHECK_ROWS = 65_536
DISTANCE_TOLERANCE = 1e-5
"""Of squared distances: the manifest's float32 points against what was stored."""


def graphs_of(dataset: Dataset) -> tuple[list[tuple[str, GraphInfo]], list[str]]:
    """The graphs of a data set that can be checked, and what is wrong with the others."""
    graphs, findings = [], []
    for folder in graph_folders(dataset.uri):
        try:
            graph = read_graph_info(folder)
        except DataError as error:
            findings.append(f"a neighbour graph cannot be read: {error}")
            continue
        wrong = check_version(dataset.info, folder, graph) if graph else []
        findings += wrong
        graphs += [(folder, graph)] if graph and not wrong else []
    return graphs, findings


def check_part(dataset: Dataset, folder: str, graph: GraphInfo, part: int) -> list[str]:
    """What is wrong with one part of a graph: ids out of range, a sample among its own neighbours, distances."""
    name, held = folder.rsplit("/", 1)[-1], graph.rows_of(part)
    try:
        ids_nK, squared_nK = read_part(folder, graph, part)
        findings = impossible(ids_nK, squared_nK, held.start, dataset.info.num_train)
        if not findings:
            findings = _check_order(ids_nK, squared_nK, held.start, graph)
        va_N2 = dataset.va(0, dataset.info.num_train)
    except DataError as error:
        return [f"{name}: part {part} cannot be read: {error}"]
    if findings:
        return [f"{name}: {finding}" for finding in findings]
    begins = range(0, len(held), CHECK_ROWS)
    far = [begin for begin in begins if not _fits(va_N2, held.start + begin, ids_nK, squared_nK, begin)]
    where = f"from sample {held.start + far[0]} on" if far else ""
    return [f"{name}: distances are not those of the valence-arousal, {where}"] if far else []


def _check_order(ids_nK: NDArray[np.int32], squared_nK: NDArray[np.float32], first: int, graph: GraphInfo) -> list[str]:
    wrong = {"has a neighbour twice": np.diff(np.sort(ids_nK, axis=1), axis=1) == 0}
    if not graph.imported:
        wrong["has neighbours out of order"] = np.diff(squared_nK, axis=1) < -DISTANCE_TOLERANCE
    return [count_samples(what, mask.any(axis=1), first) for what, mask in wrong.items() if mask.any()]


def _fits(va_N2: NDArray[np.float32], first: int, ids_nK: NDArray, squared_nK: NDArray, begin: int) -> bool:
    """Whether ROWS rows from ``begin`` on have the distances that their points have."""
    ids_rK, squared_rK = ids_nK[begin : begin + CHECK_ROWS], squared_nK[begin : begin + CHECK_ROWS]
    expected_rK = np.square(va_N2[ids_rK] - va_N2[first : first + len(ids_rK), None]).sum(axis=2)
    return bool((np.abs(expected_rK - squared_rK) <= DISTANCE_TOLERANCE * (1 + expected_rK)).all())


def check_version(info: DatasetInfo, folder: str, graph: GraphInfo) -> list[str]:
    """A graph of another version, or of another number of samples, cannot be used."""
    name = folder.rsplit("/", 1)[-1]
    if graph.content_hash != info.content_hash:
        return [f"{name} belongs to another version of the data set (build it again: jobs/build_index.py)"]
    if graph.num_samples != info.num_train:
        return [f"{name} has {graph.num_samples} samples, the data set {info.num_train} to train on"]
    return []
