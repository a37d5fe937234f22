"""Two normal distributions under the values of a score, found by expectation-maximisation. m = different values."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

SPLITS = (0.5, 0.7, 0.9)
"""Each start gives so large a share of the values to the lower component; the most likely end counts."""
MOST_ROUNDS, GAIN = 2000, 1e-10
"""Rounds end once one of them adds less than this to the mean log-likelihood."""
NARROWEST = 0.05
"""Least standard deviation of a component, in that of all values: equal values would make it 0."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Two components, the one with the lower mean first."""

    shares_2: NDArray[np.float64]
    """Of the values; they sum to 1."""
    means_2: NDArray[np.float64]
    deviations_2: NDArray[np.float64]
    log_likelihood: float
    """Of all values together."""

    def upper(self, values_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """[m] probabilities that values are of the upper component.

        Between the means they rise. Beyond them a wide component comes back on the other's side: below the lower mean
        they are at most, above the upper mean at least what they are there.
        """
        low, high = self.means_2
        plain_m, bound_m = self._upper(values_m), self._upper(np.clip(values_m, low, high))
        return np.where(values_m < low, np.minimum(plain_m, bound_m), np.maximum(plain_m, bound_m))

    def _upper(self, values_m: NDArray[np.float64]) -> NDArray[np.float64]:
        return _responsibilities(_log_densities(values_m, self.shares_2, self.means_2, self.deviations_2))[1]


def fit_mixture(values_m: NDArray[np.float64], counts_m: NDArray[np.float64]) -> Mixture:
    """The most likely mixture of two normal distributions.

    Args:
        values_m: Different values.
        counts_m: How often each stands there, >= 0.

    Returns:
        The best of the ends that expectation-maximisation reaches from each of SPLITS.
    """
    starts = [_start(values_m, counts_m, split) for split in SPLITS]
    return max(
        (_climb(values_m, counts_m, start_2m) for start_2m in starts), key=lambda mixture: mixture.log_likelihood
    )


def single_log_likelihood(values_m: NDArray[np.float64], counts_m: NDArray[np.float64]) -> float:
    """Log-likelihood of all values under the one normal distribution that fits them best."""
    total, variance = counts_m.sum(), np.cov(values_m, aweights=counts_m, ddof=0)
    return float(-0.5 * total * (np.log(2 * np.pi * variance) + 1))


def _start(values_m: NDArray[np.float64], counts_m: NDArray[np.float64], split: float) -> NDArray[np.float64]:
    """[2, m] whose the values are to begin with: the lowest ones the lower component's."""
    below_m = (np.cumsum(counts_m) - counts_m / 2 < split * counts_m.sum()).astype(np.float64)
    return np.stack([below_m, 1 - below_m])


def _climb(values_m: NDArray[np.float64], counts_m: NDArray[np.float64], shares_2m: NDArray[np.float64]) -> Mixture:
    end = _most_likely(values_m, counts_m, shares_2m)
    for _ in range(MOST_ROUNDS):
        log_2m = _log_densities(values_m, end.shares_2, end.means_2, end.deviations_2)
        before, end = end, _most_likely(values_m, counts_m, _responsibilities(log_2m))
        if end.log_likelihood - before.log_likelihood < GAIN * counts_m.sum():
            break
    order = np.argsort(end.means_2)
    return replace(end, shares_2=end.shares_2[order], means_2=end.means_2[order], deviations_2=end.deviations_2[order])


def _most_likely(
    values_m: NDArray[np.float64], counts_m: NDArray[np.float64], shares_2m: NDArray[np.float64]
) -> Mixture:
    """The mixture of components that own so much of each value."""
    total, weights_2m = counts_m.sum(), shares_2m * counts_m
    mean, weights_2 = counts_m @ values_m / total, weights_2m.sum(axis=1)
    floor = NARROWEST**2 * (counts_m @ (values_m - mean) ** 2) / total
    means_2 = weights_2m @ values_m / weights_2
    spread_2 = (weights_2m * (values_m - means_2[:, None]) ** 2).sum(axis=1) / weights_2
    shares_2, deviations_2 = weights_2 / total, np.sqrt(np.maximum(spread_2, floor))
    log_2m = _log_densities(values_m, shares_2, means_2, deviations_2)
    return Mixture(
        shares_2=shares_2,
        means_2=means_2,
        deviations_2=deviations_2,
        log_likelihood=float(counts_m @ np.logaddexp(*log_2m)),
    )


def _log_densities(
    values_m: NDArray[np.float64],
    shares_2: NDArray[np.float64],
    means_2: NDArray[np.float64],
    deviations_2: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[2, m] logarithms of each component's share of the density."""
    away_2m = (values_m - means_2[:, None]) / deviations_2[:, None]
    return (np.log(shares_2) - np.log(deviations_2) - 0.5 * np.log(2 * np.pi))[:, None] - 0.5 * away_2m**2


def _responsibilities(log_2m: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(log_2m - np.logaddexp(*log_2m))
