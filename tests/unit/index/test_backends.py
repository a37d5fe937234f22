import faiss
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ldlva_dist.errors import SettingError
from ldlva_dist.index import backends
from ldlva_dist.index.backends import FaissIndex, IVFIndex, build_index, resolve_backend


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


def test_where_faiss_sees_a_gpu_the_plane_keeps_its_tree(monkeypatch):
    monkeypatch.setattr(backends, "_num_gpus", lambda: 8)
    assert resolve_backend("auto") == "kdtree"
    assert resolve_backend("auto", dimensions=512) == "faiss_gpu"


def test_on_a_gpu_as_on_a_cpu_an_ivf_index_is_for_many_points_of_which_some_may_be_missed(pretend_gpus):
    pretend_gpus(1)
    many = np.random.default_rng(2).normal(size=(IVFIndex.MIN_POINTS, 4)).astype(np.float32)
    assert isinstance(build_index(many, "auto", min_recall=0.9), IVFIndex)
    assert build_index(many, "auto").exact
    assert build_index(many[1:], "auto", min_recall=0.9).exact


@pytest.mark.parametrize("gpus", [1, 3])
def test_an_ivf_index_on_gpus_finds_what_the_cpus_finds_with_as_many_lists(gpus, pretend_gpus):
    points = np.random.default_rng(3).normal(size=(IVFIndex.MIN_POINTS, 8)).astype(np.float32)
    pretend_gpus(gpus)
    on_gpus, on_cpu = IVFIndex(points, gpu=True), IVFIndex(points)
    for nprobe in (1, 8, on_cpu.nlist):
        on_gpus.nprobe = on_cpu.nprobe = nprobe
        found, expected = on_gpus.search(points[:500], 9), on_cpu.search(points[:500], 9)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_on_gpus_there_are_no_more_lists_than_one_can_search_so_that_all_of_them_miss_nothing(
    pretend_gpus, monkeypatch
):
    points = np.random.default_rng(4).normal(size=(IVFIndex.MIN_POINTS, 8)).astype(np.float32)
    pretend_gpus(2)
    monkeypatch.setattr(backends, "GPU_MAX_NPROBE", 50)
    index = IVFIndex(points, gpu=True)
    assert (index.nlist, IVFIndex(points).nlist) == (50, 400)
    assert index.max_k == backends.GPU_MAX_K
    whole = index.exhaustive
    assert whole is not None
    assert (whole.exact, index.exact, index.nprobe) == (True, False, 1)
    np.testing.assert_array_equal(whole.search(points[:200], 9)[1], FaissIndex(points).search(points[:200], 9)[1])
    assert (index.search(points[:20], 2000)[1] >= 0).all()
