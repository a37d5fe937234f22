"""The list of wrong labels: as long as there are wrong ones, class by class."""

import numpy as np
import pytest

from ldlva_dist.analysis.label_doubt import doubt_by_neighbors
from ldlva_dist.analysis.wrong_label_list import list_wrong_labels

SIZES, WRONG = (4000, 1000, 2500), (0.30, 0.10, 0.20)


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Doubts whose sums are right, given labels and which are wrong, of three classes in mixed order."""
    generator = np.random.default_rng(7)
    labels = np.repeat(np.arange(3), SIZES)
    doubt = generator.beta(1, (1 / np.array(WRONG) - 1)[labels])
    wrong = generator.random(len(labels)) < doubt
    order = generator.permutation(len(labels))
    return doubt[order], labels[order], wrong[order]


def test_as_many_are_listed_of_each_class_as_are_wrong(case: tuple[np.ndarray, ...]) -> None:
    doubt, labels, wrong = case
    found = list_wrong_labels(np.bincount(labels, weights=doubt), doubt, labels)
    for label, expected in enumerate(found.classes):
        mine = labels == label
        listed, truth = found.is_listed_N & mine, wrong & mine
        assert expected.samples == mine.sum()
        assert expected.expected == pytest.approx(truth.sum(), rel=0.1)
        assert expected.listed == listed.sum() == round(expected.expected)
        assert expected.threshold == doubt[listed].min() > doubt[mine & ~listed].max()
    assert found.num_listed == pytest.approx(wrong.sum(), rel=0.03)
    assert found.expected == pytest.approx(found.num_listed, abs=2)


def test_expectation_says_how_many_and_the_score_says_which(case: tuple[np.ndarray, ...]) -> None:
    doubt, labels, wrong = case
    expected = np.bincount(labels, weights=doubt)
    by_doubt, by_score = (list_wrong_labels(expected, score, labels) for score in (doubt, wrong + doubt / 9))
    assert [each.listed for each in by_score.classes] == [each.listed for each in by_doubt.classes]
    for label in range(3):
        mine, listed = labels == label, by_score.classes[label].listed
        hits = (by_score.is_listed_N & wrong & mine).sum()
        assert hits == min(listed, (wrong & mine).sum())


def test_the_list_is_said_in_sentences(case: tuple[np.ndarray, ...]) -> None:
    doubt, labels, _ = case
    found = list_wrong_labels(np.bincount(labels, weights=doubt), doubt, labels, disputed=3210.4)
    assert list_wrong_labels(np.bincount(labels, weights=doubt), doubt, labels, 9.0).at_most == found.num_listed
    first, *others = found.lines(["Anger", "Fear", "Joy"])
    assert first == (
        f"{found.num_listed:,} of 7,500 labels are listed as probably wrong: so many are expected to be, and 3,210 if "
        "none is ambiguous"
    )
    fear = found.classes[1]
    assert others[1] == f"  Fear: {fear.listed:,} listed of 1,000, from a suspicion of {fear.threshold:.3f} on"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_neighbours_labels_tell_how_many_are_wrong_where_faces_are_ambiguous(share: float) -> None:
    """Places with a class of their own and, on the borders, with two in equal parts: no label there is surely right."""
    random, count, classes, k = np.random.default_rng(3), 8000, 5, 32
    place = random.random(count) * classes
    order = np.argsort(place)
    rank = np.argsort(order)
    around = (rank[:, None] + np.delete(np.arange(-(k // 2), k // 2 + 1), k // 2)) % count
    graph = order[around]
    is_border = place % 1 < 0.3
    true = (place.astype(int) + (is_border & (random.random(count) < 0.5))) % classes
    wrong = random.random(count) < share
    labels = np.where(wrong, (true + random.integers(1, classes, count)) % classes, true)
    doubt = doubt_by_neighbors(np.array_split(graph, 3), labels, np.ones(count, dtype=bool), classes)
    assert doubt.sum() == pytest.approx(wrong.sum(), rel=0.3, abs=0.02 * count)  # of many, too few
    assert doubt[~wrong & is_border].mean() < 0.5


def test_labels_that_may_not_be_read_are_as_if_they_were_no_neighbours() -> None:
    labels, ids = np.random.default_rng(0).integers(3, size=40), np.arange(40)[:, None]
    near = (ids - ids % 2 + [[2, 4, 6]]) % 40  # even ones
    found = doubt_by_neighbors([np.concatenate([near, near + 1], axis=1)], labels, np.arange(40) % 2 == 0, 3)
    np.testing.assert_array_equal(found, doubt_by_neighbors([near], labels, np.ones(40, dtype=bool), 3))
    assert len(np.unique(found)) > 3


def test_equal_scores_are_listed_in_the_order_of_their_ids() -> None:
    score = np.repeat([0.0, 0.5, 0.9], [280, 30, 10])
    found = list_wrong_labels(np.array([20.0]), score, np.zeros(len(score), dtype=int))
    assert found.num_listed == 20
    assert np.flatnonzero(found.is_listed_N).tolist() == [*range(280, 290), *range(310, 320)]
