"""The mixture against a loop over single values, and against every other mixture that a search finds."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from ldlva_dist.analysis import score_mixture
from ldlva_dist.analysis.score_mixture import Mixture, fit_mixture, single_log_likelihood

TRUTH = ((0.8, -3.0, 1.0), (0.2, 2.0, 1.5))
"""Share, mean and deviation."""


def drawn(count: int = 400, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    parts = [generator.normal(mean, deviation, round(share * count)) for share, mean, deviation in TRUTH]
    return np.sort(np.concatenate(parts))


def density(x: float, share: float, mean: float, deviation: float) -> float:
    return share * math.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))


def naive(values: np.ndarray, split: float) -> list[tuple[float, float, float]]:
    """Expectation-maximisation value by value, from the lowest values as the lower component's."""
    is_low = [(place + 0.5) < split * len(values) for place in range(len(values))]
    weights = [(float(low), float(not low)) for low in is_low]
    parts, last = [], -math.inf
    for _ in range(2000):
        parts = []
        for k in range(2):
            total = sum(w[k] for w in weights)
            mean = sum(w[k] * x for w, x in zip(weights, values, strict=True)) / total
            square = sum(w[k] * (x - mean) ** 2 for w, x in zip(weights, values, strict=True)) / total
            parts.append((total / len(values), mean, math.sqrt(square)))
        found = [[density(x, *part) for part in parts] for x in values]
        likelihood = sum(math.log(a + b) for a, b in found)
        if likelihood - last < 1e-10 * len(values):
            break
        last, weights = likelihood, [(a / (a + b), b / (a + b)) for a, b in found]
    return parts


def test_the_mixture_is_that_of_a_loop_over_single_values() -> None:
    values = drawn(120)
    found = fit_mixture(values, np.ones(len(values)))
    ends = [naive(values, split) for split in score_mixture.SPLITS]
    best = max(ends, key=lambda parts: sum(math.log(sum(density(x, *part) for part in parts)) for x in values))
    low, high = sorted(best, key=lambda part: part[1])
    mine = np.stack([found.shares_2, found.means_2, found.deviations_2], axis=1)
    np.testing.assert_allclose(mine, [low, high], rtol=1e-6)
    likelihood = sum(math.log(density(x, *low) + density(x, *high)) for x in values)
    assert found.log_likelihood == pytest.approx(likelihood)
    between = values[(values > low[1]) & (values < high[1])]
    expected = [density(x, *high) / (density(x, *low) + density(x, *high)) for x in between]
    np.testing.assert_allclose(found.upper(between), expected, rtol=1e-5)


def test_no_search_finds_a_likelier_mixture() -> None:
    values = drawn()
    found, generator = fit_mixture(values, np.ones(len(values))), np.random.default_rng(1)

    def cost(at: np.ndarray) -> float:
        share, (low, high), (narrow, wide) = 1 / (1 + math.exp(-at[0])), at[1:3], np.exp(at[3:])
        parts = (1 - share, low, narrow), (share, high, wide)
        away = [np.log(s) - np.log(d) - 0.5 * ((values - m) / d) ** 2 for s, m, d in parts]
        return -float(np.logaddexp(*away).sum()) + 0.5 * len(values) * math.log(2 * math.pi)

    for _ in range(8):
        start = [generator.normal(-1, 1), *np.sort(generator.choice(values, 2)), *generator.normal(0, 0.3, 2)]
        assert -minimize(cost, start, bounds=[(-6, 6), (-9, 9), (-9, 9), (-2, 2), (-2, 2)]).fun <= (
            found.log_likelihood + 1e-3
        )
    assert found.log_likelihood > single_log_likelihood(values, np.ones(len(values))) + 50
    np.testing.assert_allclose(found.shares_2, [0.8, 0.2], atol=0.03)


def test_how_often_a_value_stands_there_counts() -> None:
    values, counts = np.array([-3.0, -2.5, -2.0, 1.0, 2.0]), np.array([5.0, 9, 4, 2, 3])
    each = np.repeat(values, counts.astype(int))
    one, other = fit_mixture(values, counts), fit_mixture(each, np.ones(len(each)))
    np.testing.assert_allclose(one.means_2, other.means_2, rtol=1e-6)
    assert one.log_likelihood == pytest.approx(other.log_likelihood)
    ones = np.ones(len(each))
    assert single_log_likelihood(values, counts) == pytest.approx(single_log_likelihood(each, ones))
    normal = sum(math.log(density(x, 1.0, each.mean(), each.std())) for x in each)
    assert single_log_likelihood(each, ones) == pytest.approx(normal)


def test_a_wide_component_does_not_come_back_on_the_other_side() -> None:
    """Far below the narrow one, and far above it, the wide one's density is the larger."""
    for deviations, place in (((0.5, 4.0), -40.0), ((4.0, 0.5), 40.0)):
        mixture = Mixture(
            shares_2=np.array([0.5, 0.5]),
            means_2=np.array([-1.0, 1.0]),
            deviations_2=np.array(deviations),
            log_likelihood=0.0,
        )
        low, high = mixture.upper(np.array([-1.0, 1.0]))
        [far] = mixture.upper(np.array([place]))
        assert far <= low if place < 0 else far >= high
        rising = mixture.upper(np.linspace(-1, 1, 50))
        assert (np.diff(rising) > 0).all()
