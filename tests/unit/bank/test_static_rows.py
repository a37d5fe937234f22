"""What a bank shard starts with where the data set has no valence-arousal, and so no graph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldlva_dist.bank.service import shard_loads
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import write_info
from ldlva_dist.errors import DataError
from testing.toy_dataset import TRAIN, toy_dataset


def test_others_stand_in_the_place_of_neighbours_until_there_are_some(tmp_path: Path) -> None:
    uri, k = toy_dataset(tmp_path), 5
    with pytest.raises(DataError, match="has no neighbour graph"):
        shard_loads(Dataset.open(uri), k=k, num_shards=2)
    write_info(uri, replace(Dataset.open(uri).info, has_valence_arousal=False))
    rows = [load() for load in shard_loads(Dataset.open(uri), k=k, num_shards=2)]
    graph_NK = np.concatenate([part.graph for part in rows])
    assert graph_NK.shape == (TRAIN, k)
    assert ((graph_NK >= 0) & (graph_NK < TRAIN) & (graph_NK != np.arange(TRAIN)[:, None])).all()
    assert all(len(set(row)) == k for row in graph_NK.tolist())
