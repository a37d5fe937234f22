"""FAISS's IVF index on a GPU against exhaustive search; skipped where faiss sees no GPU."""

import faiss
import numpy as np
import pytest

from ldlva_dist.index.backends import FaissIndex, IVFIndex
from ldlva_dist.index.shard import IndexShard

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="no GPU that faiss sees")]
K = 9


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)


def test_an_ivf_index_on_the_gpu_finds_more_with_more_lists_at_distances_within_its_error(points: np.ndarray) -> None:
    index, asked = IVFIndex(points), points[:1000]
    expected, recalls = FaissIndex(points).search(asked, K)[1], []
    for nprobe in (1, 8, 64, index.most_effort):
        index.set_effort(nprobe)
        squared, rows = index.search(asked, K)
        exact = np.square(points[rows].astype(np.float64) - asked[:, None]).sum(axis=2)
        assert (np.abs(squared - exact) <= index.error(asked, exact[:, -1])[:, None]).all()
        recalls.append((rows[:, :, None] == expected[:, None]).any(axis=2).mean())
    assert 0.05 < recalls[0] < recalls[1] < recalls[2] < recalls[3]
    assert recalls[3] > 0.999


def test_an_exact_search_of_an_ivf_index_on_the_gpu_misses_none(points: np.ndarray) -> None:
    found = []
    for backend in ("faiss_gpu", "faiss_cpu"):
        shard = IndexShard(0, backend, min_recall=0.9)
        facts = shard.prepare(1, len(points), lambda: (np.arange(len(points)), points))
        assert facts.most_effort > 0
        found.append(shard.search_local(1, np.arange(0, len(points), 20), K, facts.bounds[None], exact=True).ids)
    np.testing.assert_array_equal(*found)


def test_an_ivf_index_on_the_gpu_lists_as_many_as_faiss_can_select(points: np.ndarray) -> None:
    index = IVFIndex(points)
    assert (index.search(points[:50], index.max_k)[1] >= 0).all()
