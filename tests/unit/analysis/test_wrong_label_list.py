"""The list of wrong labels: as long as there are wrong ones, class by class, and silent where it can say nothing."""

import numpy as np
import pytest
from scipy.special import expit

from ldlva_dist.analysis.wrong_label_list import FEWEST, list_wrong_labels

SIZES, WRONG = (4000, 1000, 2500), (0.30, 0.10, 0.20)
LEVEL = (-4.0, -1.0, -3.0)
"""Logit of the scores of right labels; the second class is one that networks are never sure of."""


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, given labels and which are wrong, of three classes in mixed order."""
    generator = np.random.default_rng(7)
    labels = np.repeat(np.arange(3), SIZES)
    wrong = np.concatenate([np.arange(n) < share * n for n, share in zip(SIZES, WRONG, strict=True)])
    logits = generator.normal(np.array(LEVEL)[labels] + 5 * wrong, 1.0 + 0.3 * wrong)
    order = generator.permutation(len(labels))
    return expit(logits)[order], labels[order], wrong[order]


def test_as_many_are_listed_of_each_class_as_are_wrong(case: tuple[np.ndarray, ...]) -> None:
    score, labels, wrong = case
    found = list_wrong_labels(score, labels, 3)
    for label, expected in enumerate(found.classes):
        mine = labels == label
        listed, truth = found.is_listed_N & mine, wrong & mine
        assert expected.samples == mine.sum()
        assert expected.expected == pytest.approx(truth.sum(), rel=0.1)
        assert expected.listed == listed.sum() == round(expected.expected)
        assert expected.expected_listed == pytest.approx((listed & truth).sum(), rel=0.05)
        assert expected.threshold == score[listed].min() > score[mine & ~listed].max()
    assert found.num_listed == pytest.approx(wrong.sum(), rel=0.05)
    assert (found.is_listed_N & wrong).sum() / found.num_listed > 0.95
    assert found.expected_listed == pytest.approx((found.is_listed_N & wrong).sum(), rel=0.03)
    # One threshold for all classes would list the second one, of which nobody is ever sure.
    at_once = np.argsort(-score)[: found.num_listed]
    assert wrong[at_once].mean() < (found.is_listed_N & wrong).sum() / found.num_listed - 0.02


def test_the_list_is_said_in_sentences(case: tuple[np.ndarray, ...]) -> None:
    score, labels, _ = case
    found = list_wrong_labels(score, labels, 3)
    first, *others = found.lines(["Anger", "Fear", "Joy"])
    assert first.startswith(f"{found.num_listed:,} of 7,500 labels are listed as wrong")
    assert others[1] == (
        f"  Fear: {found.classes[1].listed:,} listed of 1,000, from a suspicion of {found.classes[1].threshold:.3f} on"
    )


def test_a_class_that_is_too_small_or_one_group_has_no_list(case: tuple[np.ndarray, ...]) -> None:
    score, labels, _ = case
    rows = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[: FEWEST - 1]])
    normal = expit(np.random.default_rng(0).normal(-2, 1, 1000))
    score = np.concatenate([score[rows], normal, np.full(80, 0.25)])
    labels = np.concatenate([labels[rows], np.full(1000, 2), np.full(80, 3)])
    found = list_wrong_labels(score, labels, 5)
    assert [each.reason for each in found.classes] == [
        None,
        f"a mixture needs {FEWEST} samples",
        "its scores are one group, not two",
        "all its scores are alike",
        f"a mixture needs {FEWEST} samples",
    ]
    assert found.num_listed == found.classes[0].listed > 0
    assert set(labels[found.is_listed_N]) == {0}
    assert str(found.classes[1]) == f"none listed of {FEWEST - 1}: a mixture needs {FEWEST} samples"
    assert found.classes[4].samples == 0


def test_equal_scores_are_listed_in_the_order_of_their_ids() -> None:
    score = np.concatenate([np.full(300, 0.01), np.full(20, 0.02), np.full(20, 0.99), np.full(3, 0.98)])
    found = list_wrong_labels(score, np.zeros(len(score), dtype=int), 1)
    assert found.num_listed == 23
    assert np.flatnonzero(found.is_listed_N).tolist() == list(range(320, 343))
