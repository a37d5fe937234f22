"""What a bank shard knows from the start: places, labels and neighbours of its range of ids."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.records import STATIC
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.graph import read_graph


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """What never changes about ids start, start + 1, ...; [n] rows each."""

    start: int
    static: NDArray[np.void]
    """[n] STATIC"""
    graph: NDArray[np.int32]
    """[n, K] the ids of the nearest neighbours, nearest first."""


def load_shard_rows(dataset: Dataset, start: int, stop: int, k: int) -> ShardRows:
    """The rows of one shard, or none, from the data set and, for k > 0, its graph.

    Without valence-arousal there is no graph before one is found in feature space. Until then nobody reads neighbours
    (loss.warmup_epochs), and those who follow by id stand in their place.
    """
    if start == stop:
        return ShardRows(start=start, static=np.zeros(0, dtype=STATIC), graph=np.empty((0, k), dtype=np.int32))
    static = np.zeros(stop - start, dtype=STATIC)
    static["va"] = dataset.va(start, stop - start)
    static["label"] = dataset.columns(("label",), first_id=start, rows=stop - start)["label"].to_numpy()
    if dataset.info.has_valence_arousal and k:
        graph = read_graph(dataset, start, stop - start, k)[0]
    else:
        graph = ((np.arange(start, stop)[:, None] + 1 + np.arange(k)) % dataset.info.num_train).astype(np.int32)
    return ShardRows(start=start, static=static, graph=graph)
