"""Shards together answer as one index does, and as the naive loop does."""

from functools import partial
from itertools import pairwise

import faiss
import numpy as np
import pytest

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import NeighborServiceError, SettingError
from ldlva_dist.index.backends import ApproximateIndex, HNSWIndex, IVFIndex, build_index
from ldlva_dist.index.exact_search import PointSet
from ldlva_dist.index.graph import build_graph, nearest_neighbors
from ldlva_dist.index.nearest import Nearest, merge_nearest
from ldlva_dist.index.plane_cut import cut_dataset, cut_plane, in_box, load_box
from ldlva_dist.index.shard import IndexShard, answer_in_process
from ldlva_dist.index.shard_answers import join_answers
from tests.unit.index.test_graph import naive, point_sets, write_dataset


def given(ids, points):
    """A loader of arrays that are at hand."""
    return ids, points


def cut_shards(points, num_shards, backend="kdtree"):
    """Shards of the plane, and what they hold."""
    shards = [IndexShard(number, backend) for number in range(num_shards)]  # pyright: ignore[reportArgumentType]
    facts = []
    for shard, box in zip(shards, cut_plane(points, num_shards), strict=True):
        ids = np.flatnonzero(in_box(points, box))
        facts.append(shard.prepare(1, len(points), partial(given, ids, points[ids])))
    return shards, facts


@pytest.mark.parametrize("name", point_sets())
@pytest.mark.parametrize("num_shards", [3, 16])
def test_a_plane_in_boxes_has_the_neighbours_of_the_naive_loop_ties_included(name, num_shards):
    points = point_sets()[name].astype(np.float32)
    shards, facts = cut_shards(points, num_shards)
    assert sum(fact.num_samples for fact in facts) == len(points)
    for k in (1, 8, 120):
        ids, squared = join_answers(
            np.arange(len(points)), len(points), answer_in_process(shards, 1, np.arange(len(points)), k, facts)
        )
        expected_ids, expected_squared = naive(points, k)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(squared, expected_squared)


@pytest.mark.parametrize("backend", ["kdtree", "faiss_cpu"])
def test_few_points_and_as_many_neighbours_as_others_on_more_shards_than_points(backend):
    points = np.array([[0, 0], [0, 0], [1, 0], [0.5, 0.5], [1, 0]], dtype=np.float32)
    shards, facts = cut_shards(points, 7, backend)
    ids, squared = join_answers(np.arange(5), 5, answer_in_process(shards, 1, np.arange(5), 4, facts))
    np.testing.assert_array_equal(ids, naive(points, 4)[0])
    np.testing.assert_array_equal(squared, naive(points, 4)[1])


def test_a_question_about_some_samples_gets_their_rows_of_the_whole():
    points = point_sets()["mixed"].astype(np.float32)
    shards, facts = cut_shards(points, 4)
    asked = np.array([3, 70, 71, 280])
    ids, _ = join_answers(asked, len(points), answer_in_process(shards, 1, asked, 5, facts))
    np.testing.assert_array_equal(ids, nearest_neighbors(points, 5)[0][asked])


def test_few_samples_reach_another_box():
    points = np.random.default_rng(5).uniform(-1, 1, (20_000, 2)).astype(np.float32)
    shards, facts = cut_shards(points, 4)
    answers = answer_in_process(shards, 1, np.arange(20_000), 8, facts)
    asked_twice = sum(len(helped.place) for answer in answers[4:] for helped in answer)
    assert 0 < asked_twice < 0.1 * 20_000
    np.testing.assert_array_equal(join_answers(np.arange(20_000), 20_000, answers)[0], nearest_neighbors(points, 8)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", ["far apart", "in clusters", "all one"])
def test_features_cut_by_id_have_the_neighbours_of_the_naive_loop(kind, dtype):
    rng = np.random.default_rng(6)
    features = {
        "far apart": rng.normal(size=(210, 24)),
        "in clusters": rng.normal(size=(6, 24))[rng.integers(0, 6, 210)] + rng.integers(0, 2, (210, 24)) / 1024,
        "all one": np.ones((210, 24)),
    }[kind].astype(dtype)
    bounds = [0, 50, 51, 130, 210]
    shards = [IndexShard(number) for number in range(4)]
    for shard, (first, stop) in zip(shards, pairwise(bounds), strict=True):
        for at in range(first, stop, 33):
            shard.take_rows(first, stop, at, features[at : min(at + 33, stop)])
    facts = [
        shard.prepare_rows(1, 210, first, stop) for shard, (first, stop) in zip(shards, pairwise(bounds), strict=True)
    ]
    for k in (1, 8, 209):
        ids, squared = join_answers(np.arange(210), 210, answer_in_process(shards, 1, np.arange(210), k, facts))
        np.testing.assert_array_equal(ids, naive(features, k)[0])
        np.testing.assert_array_equal(squared, naive(features, k)[1])


def test_rows_that_are_missing_or_no_numbers_are_refused():
    rows, shard = np.zeros((10, 3), dtype=np.float32), IndexShard(0)
    with pytest.raises(NeighborServiceError, match=r"rows of samples 5\.\.24 must be given, got 0"):
        shard.prepare_rows(1, 30, 5, 25)
    shard.take_rows(5, 25, 5, rows)
    with pytest.raises(NeighborServiceError, match="in their order, once each and finite"):
        shard.take_rows(5, 25, 16, rows[:9])
    with pytest.raises(NeighborServiceError, match=r"rows of samples 5\.\.24 must be given, got 10"):
        shard.prepare_rows(1, 30, 5, 25)
    rows[7] = np.nan
    with pytest.raises(NeighborServiceError, match="finite"):
        shard.take_rows(5, 25, 5, rows)


def test_boxes_are_the_whole_plane_and_hold_about_equally_many():
    points = np.random.default_rng(7).normal(0, 0.3, (10_000, 2)).astype(np.float32)
    for num_boxes in (1, 2, 5, 16):
        boxes = cut_plane(points, num_boxes)
        counts = [np.count_nonzero(in_box(points, box)) for box in boxes]
        assert sum(counts) == 10_000
        assert max(counts) <= 1.02 * 10_000 / num_boxes
        elsewhere = np.random.default_rng(8).uniform(-9, 9, (1000, 2)).astype(np.float32)
        np.testing.assert_array_equal(sum(in_box(elsewhere, box).astype(int) for box in boxes), 1)


def test_all_samples_of_a_point_lie_in_one_box():
    points = np.repeat(np.array([[0, 0], [0, 1], [1, 0], [-0.0, 0]], dtype=np.float32), [700, 100, 100, 100], axis=0)
    boxes = cut_plane(points, 8)
    assert len(boxes) == 8
    held = np.stack([in_box(points, box) for box in boxes])
    np.testing.assert_array_equal(held.sum(axis=0), 1)
    for one in (slice(0, 700), slice(700, 800), slice(800, 900)):
        assert len(np.unique(held[:, one].argmax(axis=0))) == 1
    assert held[:, 0].argmax() == held[:, 999].argmax()


def test_a_shard_loads_its_box_of_the_training_samples_from_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr("ldlva_dist.index.plane_cut.BOX_READ_ROWS", 7)
    va = np.random.default_rng(9).uniform(-1, 1, (60, 2)).astype(np.float32)
    uri = write_dataset(tmp_path / "set", va, num_train=50)
    loaded = [load_box(Dataset.open(uri), box) for box in cut_dataset(Dataset.open(uri), 3)]
    ids = np.concatenate([ids for ids, _ in loaded])
    np.testing.assert_array_equal(np.sort(ids), np.arange(50))
    for ids, points in loaded:
        np.testing.assert_array_equal(points, va[ids])
        assert (np.diff(ids) > 0).all()


def test_a_data_set_with_a_hole_in_its_valence_arousal_is_refused_with_the_count(tmp_path):
    va = np.zeros((10, 2), dtype=np.float32)
    va[3, 1] = np.nan
    uri = write_dataset(tmp_path / "set", va, num_train=8)
    with pytest.raises(SettingError, match=r"must have valence-arousal .* got none for 1 of 8"):
        build_graph(Dataset.open(uri), 3)


def test_merging_orders_by_distance_and_then_by_the_turn_from_the_own_id():
    one = Nearest(ids=np.array([[2, 9]]), squared=np.array([[1.0, 4.0]]))
    other = Nearest(
        ids=np.array(
            [
                [1, 8],
            ]
        ),
        squared=np.array([[1.0, 1.0]]),
    )
    assert merge_nearest(one, other, np.array([0]), 10).ids.tolist() == [[1, 2]]
    assert merge_nearest(one, other, np.array([7]), 10).ids.tolist() == [[8, 1]]
    assert merge_nearest(one, other, np.array([7]), 10).squared.tolist() == [[1.0, 1.0]]


def test_old_and_new_version_are_held_side_by_side_until_the_old_one_is_let_go():
    points = np.array([[0, 0], [1, 0], [3, 0]], dtype=np.float32)
    [shard], _ = cut_shards(points, 1)
    shard.prepare(2, 3, partial(given, np.arange(3), -points[::-1]))
    new_point = np.array([[3, 0]], dtype=np.float32)
    assert shard.search_points(1, new_point, 1).ids.tolist() == [[2]]
    assert shard.search_points(2, new_point, 1).ids.tolist() == [[2]]
    assert shard.search_points(2, -new_point, 1).ids.tolist() == [[0]]
    shard.keep([2])
    assert shard.versions() == [2]
    with pytest.raises(NeighborServiceError, match=r"version 1 is asked for, held are \[2\]"):
        shard.search_points(1, new_point, 1)


def test_new_points_get_the_nearest_samples_equally_far_ones_by_id():
    points = np.array([[1, 0], [-1, 0], [0, 1], [5, 5], [1, 0]], dtype=np.float32)
    [shard], _ = cut_shards(points, 1)
    found = shard.search_points(1, np.array([[0, 0], [1, 0]], dtype=np.float32), 4)
    assert found.ids.tolist() == [[0, 1, 2, 4], [0, 4, 2, 1]]
    assert found.squared.tolist() == [[1, 1, 1, 1], [0, 0, 2, 4]]


@pytest.mark.parametrize("gpus", [0, 1, 3])
def test_an_approximate_index_misses_neighbours_until_effort_is_high_enough_and_an_exact_search_misses_none(
    gpus, pretend_gpus
):
    pretend_gpus(gpus)
    features = np.random.default_rng(10).normal(size=(ApproximateIndex.MIN_POINTS, 32)).astype(np.float32)
    num_samples = len(features)
    shard = IndexShard(0, "faiss_gpu" if gpus else "faiss_cpu", min_recall=0.9)
    fact = shard.prepare(1, num_samples, lambda: (np.arange(num_samples), features))
    asked = np.arange(0, num_samples, 50)
    exact = shard.search_local(1, asked, 8, fact.bounds[None], exact=True).ids
    search = faiss.IndexFlatL2(32)
    search.add(features)
    np.testing.assert_array_equal(np.sort(exact), np.sort(search.search(features[asked], 9)[1][:, 1:]))
    hits = []
    for effort in (1, 2, fact.most_effort):
        shard.set_effort(1, effort)
        found = shard.search_local(1, asked, 8, fact.bounds[None]).ids
        assert (found >= 0).all()
        hits.append((found[:, :, None] == exact[:, None]).any(axis=2).mean())
    assert 0.05 < hits[0] < hits[1] < hits[2] == 1


def test_samples_that_lie_on_one_point_cost_an_hnsw_index_no_recall():
    rng = np.random.default_rng(13)
    features = rng.normal(size=(30_000, 12)).astype(np.float32)
    features[rng.permutation(len(features))[: 6 * len(features) // 10]] = features[0]
    ids, asked = np.arange(len(features)), np.arange(0, len(features), 50)
    held = PointSet(ids, features, len(ids), partial(build_index, backend="faiss_cpu", min_recall=0.95))
    assert isinstance(held.index, HNSWIndex)
    held.index.set_effort(2)
    found, expected = held.search_samples(asked, 8), held.search_samples(asked, 8, exact=True)
    on_one_point = (features[asked] == features[0]).all(axis=1)
    assert (found.squared <= expected.squared[:, -1:])[~on_one_point].mean() >= 0.95
    np.testing.assert_array_equal(found.ids[on_one_point], expected.ids[on_one_point])


def test_an_hnsw_index_with_all_its_effort_answers_as_an_exact_one_does():
    rng = np.random.default_rng(14)
    features = rng.normal(size=(200, 24))[rng.integers(0, 200, 10_500)] + rng.integers(0, 2, (10_500, 24)) / 1024
    features = features.astype(np.float32)
    shards = [IndexShard(0, "faiss_cpu", min_recall=least) for least in (0.5, 1.0)]
    ids, asked, found = np.arange(len(features)), np.arange(0, len(features), 50), []
    for shard in shards:
        fact = shard.prepare(1, len(ids), lambda: (ids, features))
        shard.set_effort(1, fact.most_effort)
        answer = shard.search_local(1, asked, 8, fact.bounds[None])
        found.append((answer.ids, answer.squared))
    np.testing.assert_array_equal(*(each[0] for each in found))
    np.testing.assert_array_equal(*(each[1] for each in found))


def test_on_a_gpu_an_exact_search_takes_no_second_index_but_for_more_than_a_gpu_lists(pretend_gpus, monkeypatch):
    points = np.random.default_rng(12).normal(size=(IVFIndex.MIN_POINTS, 8)).astype(np.float32)
    pretend_gpus(1)
    monkeypatch.setattr("ldlva_dist.index.backends.GPU_MAX_K", 40)
    ids = np.arange(len(points))
    held = PointSet(ids, points, len(ids), partial(build_index, backend="faiss_gpu", min_recall=0.9))
    exhaustive = PointSet(ids, points, len(ids), partial(build_index, backend="faiss_cpu"))
    for rows, k in ((ids[200:300], 8), (ids[:1], 50)):
        found, expected = held.search_samples(rows, k, exact=True), exhaustive.search_samples(rows, k)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.squared, expected.squared)
        assert (held._exhaustive is not None) == (k == 50)


def test_an_empty_set_answers_with_nobody():
    empty = PointSet(np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.float32), 9)
    found = empty.search_points(np.zeros((2, 2), dtype=np.float32), np.zeros(2, dtype=np.int64), 3)
    assert (found.ids == -1).all()
    assert np.isinf(found.squared).all()
