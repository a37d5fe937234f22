"""The list of wrong labels: as long as there are wrong ones, class by class, and silent where it can say nothing."""

import numpy as np
import pytest

from ldlva_dist.analysis.wrong_label_list import FEWEST, list_wrong_labels

SIZES, WRONG = (4000, 1000, 2500), (0.30, 0.10, 0.20)
LEVEL = (0.15, 0.45, 0.25)
"""Doubt about right labels; the second class is one that networks are never sure of."""


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Doubts, given labels and which are wrong, of three classes in mixed order."""
    generator = np.random.default_rng(7)
    labels = np.repeat(np.arange(3), SIZES)
    wrong = np.concatenate([np.arange(n) < share * n for n, share in zip(SIZES, WRONG, strict=True)])
    doubt = generator.normal(np.array(LEVEL)[labels] + 0.4 * wrong, 0.08 - 0.02 * wrong).clip(0, 1)
    order = generator.permutation(len(labels))
    return doubt[order], labels[order], wrong[order]


def test_as_many_are_listed_of_each_class_as_are_wrong(case: tuple[np.ndarray, ...]) -> None:
    doubt, labels, wrong = case
    found = list_wrong_labels(doubt, doubt, labels, 3)
    for label, expected in enumerate(found.classes):
        mine = labels == label
        listed, truth = found.is_listed_N & mine, wrong & mine
        assert expected.samples == mine.sum()
        assert expected.expected == pytest.approx(truth.sum(), rel=0.05)
        assert expected.listed == listed.sum() == round(expected.expected)
        assert expected.threshold == doubt[listed].min() > doubt[mine & ~listed].max()
    assert found.num_listed == pytest.approx(wrong.sum(), rel=0.03)
    assert found.expected == pytest.approx(found.num_listed, abs=2)
    precision = (found.is_listed_N & wrong).sum() / found.num_listed
    assert precision > 0.97
    # One threshold for all classes would list right labels of the second one, of which nobody is ever sure.
    at_once = np.argsort(-doubt)[: found.num_listed]
    assert wrong[at_once].mean() < precision - 0.02


def test_doubt_says_how_many_and_the_score_says_which(case: tuple[np.ndarray, ...]) -> None:
    doubt, labels, wrong = case
    by_doubt, by_score = (list_wrong_labels(doubt, score, labels, 3) for score in (doubt, wrong + doubt / 9))
    assert [each.listed for each in by_score.classes] == [each.listed for each in by_doubt.classes]
    for label in range(3):
        mine, listed = labels == label, by_score.classes[label].listed
        hits = (by_score.is_listed_N & wrong & mine).sum()
        assert hits == min(listed, (wrong & mine).sum())


def test_the_list_is_said_in_sentences(case: tuple[np.ndarray, ...]) -> None:
    doubt, labels, _ = case
    found = list_wrong_labels(doubt, doubt, labels, 3)
    first, *others = found.lines(["Anger", "Fear", "Joy"])
    assert first == f"{found.num_listed:,} of 7,500 labels are listed as probably wrong: so many are expected to be"
    fear = found.classes[1]
    assert others[1] == f"  Fear: {fear.listed:,} listed of 1,000, from a suspicion of {fear.threshold:.3f} on"


def test_a_class_that_is_too_small_or_one_group_has_no_list(case: tuple[np.ndarray, ...]) -> None:
    doubt, labels, _ = case
    rows = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[: FEWEST - 1]])
    normal = np.random.default_rng(0).normal(0.5, 0.1, 1000)
    doubt = np.concatenate([doubt[rows], normal, np.full(80, 0.25)])
    labels = np.concatenate([labels[rows], np.full(1000, 2), np.full(80, 3)])
    found = list_wrong_labels(doubt, doubt, labels, 5)
    assert [each.reason for each in found.classes] == [
        None,
        f"a mixture needs {FEWEST} samples",
        "they are one group, not two",
        "the network is equally sure of all",
        f"a mixture needs {FEWEST} samples",
    ]
    assert found.num_listed == found.classes[0].listed > 0
    assert set(labels[found.is_listed_N]) == {0}
    assert str(found.classes[1]) == f"none listed of {FEWEST - 1}: a mixture needs {FEWEST} samples"
    assert found.classes[4].samples == 0


def test_equal_scores_are_listed_in_the_order_of_their_ids() -> None:
    doubt = np.concatenate([np.linspace(0, 0.1, 300), np.linspace(0.8, 0.9, 20)])
    score = np.repeat([0.0, 0.5, 0.9], [280, 30, 10])
    found = list_wrong_labels(doubt, score, np.zeros(len(score), dtype=int), 1)
    assert found.num_listed == 20
    assert np.flatnonzero(found.is_listed_N).tolist() == [*range(280, 290), *range(310, 320)]
