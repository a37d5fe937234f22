"""What a bank shard knows from the start: places, labels and neighbours of its range of ids."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.records import STATIC
from ldlva_dist.dataset.manifest import read_columns, read_va
from ldlva_dist.index.graph import read_graph


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """What never changes about ids start, start + 1, ...; [n] rows each."""

    start: int
    static: NDArray[np.void]
    """[n] STATIC"""
    graph: NDArray[np.int32]
    """[n, K] the ids of the nearest neighbours, nearest first."""


def load_rows(dataset_uri: str, start: int, stop: int, k: int) -> ShardRows:
    """The rows of one shard from the data set and its graph."""
    static = np.zeros(stop - start, dtype=STATIC)
    static["va"] = read_va(dataset_uri, start, stop - start)
    static["label"] = read_columns(dataset_uri, ("label",), first_id=start, rows=stop - start)["label"].to_numpy()
    return ShardRows(start=start, static=static, graph=read_graph(dataset_uri, start, stop - start, k)[0])
