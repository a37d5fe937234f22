"""Every score against its definition, row by row."""

import numpy as np
import pytest

from ldlva_dist.analysis import suspicion

N, C = 60, 4


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float16 probabilities of model and neighbours, and labels of the first three of four classes."""
    generator = np.random.default_rng(3)
    probs, others = generator.dirichlet(np.ones(C), (2, N)).astype(np.float16)
    return probs, others, generator.integers(0, 3, N)


def test_self_confidence_and_normalised_margin_are_cleanlabs_turned_round(case: tuple[np.ndarray, ...]) -> None:
    probs, _, labels = case
    confidence, margin = suspicion.self_confidence(probs, labels), suspicion.normalized_margin(probs, labels)
    for i, label in enumerate(labels):
        p = probs[i].astype(float)
        assert confidence[i] == pytest.approx(1 - p[label], abs=1e-12)
        quality = (p[label] - max(p[c] for c in range(C) if c != label) + 1) / 2
        assert margin[i] == pytest.approx(1 - quality, abs=1e-12)


def test_adjusted_probabilities_are_less_the_mean_self_confidence_of_their_class(case: tuple[np.ndarray, ...]) -> None:
    probs, _, labels = case
    threshold = [float(np.mean([float(probs[i, c]) for i in range(N) if labels[i] == c])) for c in range(3)] + [0.0]
    for i, row in enumerate(suspicion.adjusted(probs, labels)):
        shifted = [float(probs[i, c]) - threshold[c] + max(threshold) for c in range(C)]
        np.testing.assert_allclose(row, np.array(shifted) / sum(shifted), atol=1e-6)


def test_the_model_weighs_half_of_what_explains_the_labels_best(case: tuple[np.ndarray, ...]) -> None:
    probs, others, labels = case
    mine, theirs = (np.array([float(side[i, labels[i]]) for i in range(N)]) for side in (probs, others))
    grid = np.linspace(0, 1, 10_001)
    likelihood = [np.log(np.maximum(a * mine + (1 - a) * theirs, 1e-6)).sum() for a in grid]
    weight = suspicion.model_weight(probs, others, labels)
    assert 0.02 < weight < 0.48
    assert weight == pytest.approx(grid[int(np.argmax(likelihood))] / 2, abs=1e-4)
    pool = suspicion.pooled(probs, others, weight)
    np.testing.assert_allclose(pool, weight * probs.astype(float) + (1 - weight) * others.astype(float), atol=2e-3)
    np.testing.assert_allclose(pool.sum(axis=1), 1)


def test_confident_learning_is_off_the_diagonal_of_the_confident_joint(case: tuple[np.ndarray, ...]) -> None:
    """Of a class without a sample, the last one, nobody can be confident."""
    probs, _, labels = case
    threshold = [float(np.mean([float(probs[i, c]) for i in range(N) if labels[i] == c])) for c in range(3)]
    found, flagged = suspicion.confident_learning(probs, labels), 0
    for i, label in enumerate(labels):
        reached = [c for c in range(3) if float(probs[i, c]) >= threshold[c] - 1e-6]
        likeliest = max(reached, key=lambda c: float(probs[i, c]), default=label)
        flagged += likeliest != label
        assert found[i] == pytest.approx((1 - float(probs[i, label]) + (likeliest != label)) / 2, abs=1e-6)
    assert 5 < flagged < N - 5
    assert (found >= 0.5).sum() == flagged


def test_the_calibrated_joint_counts_wrong_labels_that_always_go_one_way() -> None:
    """What labels around cannot tell from classes that are ambiguous; a naive loop counts the same."""
    random, count = np.random.default_rng(5), 6000
    true = random.choice(4, count, p=(0.4, 0.3, 0.2, 0.1))
    wrong = random.random(count) < np.array([0.1, 0.3, 0.2, 0.1])[true]
    labels = np.where(wrong, (true + 1) % 4, true)
    logits = 8 * np.eye(4)[true] + random.normal(0, 1, (count, 4))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = suspicion.count_by_confident_learning(probs, labels)
    np.testing.assert_allclose(found, np.bincount(labels[wrong], minlength=4), rtol=0.1, atol=10)
    threshold = [probs[labels == c, c].mean() for c in range(4)]
    for label in range(4):
        likeliest = [
            max((c for c in range(4) if row[c] >= threshold[c] - 1e-6), key=lambda c: row[c], default=None)
            for row in probs[labels == label]
        ]
        kept = [c for c in likeliest if c is not None]
        assert found[label] == pytest.approx(len(likeliest) * sum(c != label for c in kept) / len(kept))


def test_a_class_of_which_nobody_is_sure_keeps_one_right_label_and_one_without_samples_has_none_wrong() -> None:
    probs = np.array([[0.9, 0.1, 0.0]] * 3 + [[0.8, 0.2, 0.0]])
    assert suspicion.count_by_confident_learning(probs, np.array([0, 1, 1, 1])).tolist() == [0.0, 2.0, 0.0]


def test_out_of_fold_the_model_weighs_all_of_what_explains_the_labels(case: tuple[np.ndarray, ...]) -> None:
    probs, others, labels = case
    half = suspicion.model_weight(probs, others, labels)
    assert suspicion.model_weight(probs, others, labels, out_of_fold=True) == 2 * half > 0


def test_who_repeats_every_label_weighs_as_much_as_the_neighbours_and_who_guesses_nothing(
    case: tuple[np.ndarray, ...],
) -> None:
    _, others, labels = case
    given = np.eye(C)[labels]
    assert suspicion.model_weight(given, others, labels) == pytest.approx(0.5, abs=1e-3)
    assert suspicion.model_weight(others, given, labels) == pytest.approx(0, abs=1e-3)


def test_who_knows_nothing_has_no_say_in_the_pool(case: tuple[np.ndarray, ...]) -> None:
    probs, others, labels = case
    nothing = np.zeros_like(probs)
    assert suspicion.model_weight(probs, nothing, labels) == 0.5
    np.testing.assert_allclose(suspicion.pooled(probs, nothing, 0.3), probs, atol=2e-3)
    np.testing.assert_allclose(suspicion.pooled(nothing, others, 0.3), others, atol=2e-3)
    np.testing.assert_allclose(suspicion.pooled(nothing, nothing, 0.3), 1 / C)
    one_silent = np.where(np.arange(N)[:, None] == 5, 0, others)
    np.testing.assert_allclose(suspicion.pooled(probs, one_silent, 0.3)[5], probs[5], atol=2e-3)


def test_a_learnt_uncertainty_counts_by_its_weight(case: tuple[np.ndarray, ...]) -> None:
    probs, _, labels = case
    uncertainty = np.linspace(0, 1, N)
    found = suspicion.combined(probs, labels, uncertainty, weight=0.25)
    for i, label in enumerate(labels):
        assert found[i] == pytest.approx(0.8 * (1 - float(probs[i, label])) + 0.2 * uncertainty[i], abs=1e-6)
    alone = suspicion.combined(probs, labels, uncertainty, weight=0.0)
    np.testing.assert_array_equal(alone, suspicion.self_confidence(probs, labels))
