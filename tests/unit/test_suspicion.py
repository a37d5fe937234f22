"""Every score against its definition, row by row."""

import numpy as np
import pytest

from ldlva_dist.maths import suspicion

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


def test_the_neighbours_count_twice_in_the_pool(case: tuple[np.ndarray, ...]) -> None:
    probs, others, _ = case
    for i, row in enumerate(suspicion.pooled(probs, others)):
        expected = (probs[i].astype(float) + 2 * others[i].astype(float)) / 3
        np.testing.assert_allclose(row, expected, atol=2e-3)
        assert row.sum() == pytest.approx(1)


def test_who_knows_nothing_has_no_say_in_the_pool(case: tuple[np.ndarray, ...]) -> None:
    probs, others, _ = case
    nothing = np.zeros_like(probs)
    np.testing.assert_allclose(suspicion.pooled(probs, nothing), probs, atol=2e-3)
    np.testing.assert_allclose(suspicion.pooled(nothing, others), others, atol=2e-3)
    np.testing.assert_allclose(suspicion.pooled(nothing, nothing), 1 / C)
