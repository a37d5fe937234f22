import faiss
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ldlva_dist.errors import SettingError
from ldlva_dist.index import backends
from ldlva_dist.index.backends import build_index, resolve_backend


@pytest.mark.parametrize("backend", ["kdtree", "faiss_cpu"])
@pytest.mark.parametrize("dimensions", [2, 16])
def test_every_backend_gives_the_squared_distances_of_brute_force_nearest_first(backend, dimensions):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, dimensions)).astype(np.float32)
    queries = rng.normal(size=(20, dimensions)).astype(np.float32)

    squared, rows = build_index(points, backend).search(queries, 5)

    expected = np.sort(cdist(queries, points, "sqeuclidean"), axis=1)[:, :5]
    assert squared.dtype == np.float32
    assert rows.dtype == np.int64
    np.testing.assert_allclose(squared, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.square(points[rows] - queries[:, None]).sum(-1), expected, rtol=1e-5, atol=1e-5)


def test_the_error_that_faiss_declares_covers_its_distances_between_close_points():
    points = np.random.default_rng(1).normal(1, 1e-3, size=(2000, 2)).astype(np.float32)
    points[0] = (-1, -1)
    index = build_index(points, "faiss_cpu")

    squared, rows = index.search(points, 40)

    exact = np.square(points[rows].astype(np.float64) - points[:, None]).sum(-1)
    assert (np.abs(squared - exact).max(axis=1) <= index.error(points, exact.max(axis=1))).all()


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="there is a GPU")
def test_without_a_gpu_faiss_gpu_is_refused_and_auto_is_a_tree_in_the_plane_only():
    with pytest.raises(SettingError, match=r"faiss_gpu must find a GPU .* got none"):
        build_index(np.zeros((3, 2), dtype=np.float32), "faiss_gpu")
    assert resolve_backend("auto") == "kdtree"
    assert resolve_backend("auto", dimensions=512) == "faiss_cpu"


def test_where_faiss_sees_a_gpu_the_plane_keeps_its_tree_and_a_recall_that_would_be_dropped_is_refused(monkeypatch):
    monkeypatch.setattr(backends, "_num_gpus", lambda: 8)
    assert resolve_backend("auto") == "kdtree"
    assert resolve_backend("auto", dimensions=512) == "faiss_gpu"
    with pytest.raises(SettingError, match=r"index\.min_recall must be 1 where FAISS searches on a GPU.* got 0\.9"):
        build_index(np.zeros((3, 512), dtype=np.float32), "auto", min_recall=0.9)
