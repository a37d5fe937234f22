import faiss
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ldlva_dist.errors import SettingError
from ldlva_dist.index import backends
from ldlva_dist.index.backends import ApproximateIndex, FaissIndex, HNSWIndex, IVFIndex, build_index, resolve_backend


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


def clusters(num_points, dimensions):
    """[num_points, dimensions] in 20 clusters that overlap."""
    rng = np.random.default_rng(2)
    centers = rng.normal(size=(20, dimensions))[rng.integers(0, 20, num_points)]
    return (centers + rng.normal(0, 0.5, (num_points, dimensions))).astype(np.float32)


def recall(index, points, asked, k):
    """Share of the k nearest points of ``asked`` that an index finds."""
    expected, found = FaissIndex(points).search(asked, k)[1], index.search(asked, k)[1]
    return (found[:, :, None] == expected[:, None]).any(axis=2).mean()


def test_many_points_of_which_some_may_be_missed_get_hnsw_on_a_cpu_and_ivf_on_a_gpu(pretend_gpus):
    many = clusters(ApproximateIndex.MIN_POINTS, 4)
    assert isinstance(build_index(many, "faiss_cpu", min_recall=0.9), HNSWIndex)
    pretend_gpus(1)
    assert isinstance(build_index(many, "auto", min_recall=0.9), IVFIndex)
    for backend in ("auto", "faiss_cpu"):
        assert build_index(many, backend).exact
        assert build_index(many[1:], backend, min_recall=0.9).exact


def test_an_hnsw_index_finds_more_with_more_effort_and_with_the_most_what_a_flat_one_finds():
    points = clusters(20_000, 48)
    index, recalls = HNSWIndex(points), []
    assert (index.effort, index.exact) == (1, False)
    for effort in (1, 2, 4, 8):
        index.set_effort(effort)
        recalls.append(recall(index, points, points[:500], 9))
        assert not index.exact
    assert 0.7 < recalls[0] < recalls[1] < recalls[2] < recalls[3]
    assert recalls[3] > 0.95
    index.set_effort(index.most_effort + 1)
    assert (index.effort, index.exact) == (index.most_effort, True)
    np.testing.assert_array_equal(index.search(points[:500], 9), FaissIndex(points).search(points[:500], 9))


def test_an_exhaustive_search_of_an_hnsw_index_is_the_flat_one_in_the_same_memory_and_leaves_its_effort():
    points = clusters(HNSWIndex.MIN_POINTS, 48)
    index = HNSWIndex(points)
    whole = index.exhaustive
    assert (whole.exact, whole.spare, whole.max_k) == (True, FaissIndex.spare, len(points))
    assert (index.exact, index.effort) == (False, 1)
    assert whole._index is index._index
    del index
    np.testing.assert_array_equal(whole.search(points[:500], 9), FaissIndex(points).search(points[:500], 9))


def test_points_that_no_link_leads_to_are_found_by_those_who_ask_for_more_than_links_lead_to():
    points = clusters(HNSWIndex.MIN_POINTS, 8)
    points[: 6 * len(points) // 10] = points[0]
    index = HNSWIndex(points)
    for k in (2000, len(points)):
        parameters = faiss.SearchParametersHNSW(efSearch=len(points))
        assert (index._index.search(index._center(points[-5:]), k, params=parameters)[1] < 0).any()
        found = np.sort(index.search(points[-5:], k)[1])
        assert found[:, 0].min() >= 0
        assert (np.diff(found) > 0).all()


def test_an_hnsw_index_is_the_same_whatever_the_number_of_threads():
    points = clusters(HNSWIndex.MIN_POINTS, 16)
    threads, links = faiss.omp_get_max_threads(), []
    try:
        for number in (1, 2, 4):
            faiss.omp_set_num_threads(number)
            index = HNSWIndex(points)
            links.append(faiss.vector_to_array(index._index.hnsw.neighbors))
    finally:
        faiss.omp_set_num_threads(threads)
    np.testing.assert_array_equal(links[0], links[1])
    np.testing.assert_array_equal(links[0], links[2])


def test_the_links_of_an_hnsw_index_take_the_memory_that_is_planned():
    points = clusters(HNSWIndex.MIN_POINTS, 4)
    index = HNSWIndex(points)
    links = index._index.hnsw
    taken = 4 * links.neighbors.size() + 4 * links.levels.size() + 8 * links.offsets.size()
    assert taken == pytest.approx(HNSWIndex.LINK_BYTES * len(points), rel=0.02)


def test_an_ivf_index_on_several_gpus_finds_what_it_finds_on_one(pretend_gpus):
    points = clusters(IVFIndex.MIN_POINTS, 8)
    indexes = []
    for gpus in (1, 3):
        pretend_gpus(gpus)
        indexes.append(IVFIndex(points))
    recalls = []
    for effort in (1, 8, indexes[0].most_effort):
        found = []
        for index in indexes:
            index.set_effort(effort)
            found.append(index.search(points[:500], 9))
        np.testing.assert_array_equal(*found)
        recalls.append(recall(indexes[0], points, points[:500], 9))
    assert 0.2 < recalls[0] < recalls[1] < recalls[2] == 1


def test_on_gpus_there_are_no_more_lists_than_one_can_search_so_that_all_of_them_miss_nothing(
    pretend_gpus, monkeypatch
):
    points = clusters(IVFIndex.MIN_POINTS, 8)
    pretend_gpus(2)
    assert IVFIndex(points).most_effort == 400
    monkeypatch.setattr(backends, "GPU_MAX_NPROBE", 50)
    index = IVFIndex(points)
    assert index.most_effort == 50
    assert index.max_k == backends.GPU_MAX_K
    whole = index.exhaustive
    assert (whole.exact, index.exact, index.effort) == (True, False, 1)
    np.testing.assert_array_equal(whole.search(points[:200], 9)[1], FaissIndex(points).search(points[:200], 9)[1])
    assert (index.search(points[:20], 2000)[1] >= 0).all()


def test_a_query_that_finds_too_few_in_its_inverted_lists_searches_more(pretend_gpus):
    clumps = np.repeat(np.eye(20, 4) + np.arange(20)[:, None], 500, axis=0)
    points = (clumps + np.random.default_rng(11).normal(0, 0.01, clumps.shape)).astype(np.float32)
    pretend_gpus(1)
    assert (IVFIndex(points).search(points[:50], 2000)[1] >= 0).all()
