"""How sure figures are: 95 % intervals of shares, of what a confusion matrix tells, and of means. C = classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

LEVEL = 0.95
RESAMPLES = 1000

Interval = tuple[float, float]
"""Lower and upper end."""


def share_interval(hits: int, samples: int) -> Interval | None:
    """Wilson's score interval of a share.

    Args:
        hits: Samples that count, 0..``samples``.
        samples: All; None comes back for 0.
    """
    if samples == 0:
        return None
    found = binomtest(hits, samples).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def mean_interval(mean: float, standard_error: float) -> Interval:
    """The interval of a mean of many samples, by the normal distribution."""
    reach = float(norm.ppf((1 + LEVEL) / 2)) * standard_error
    return mean - reach, mean + reach


def confusion_intervals(confusion_CC: NDArray[np.int64]) -> dict[str, Interval]:
    """Percentile bootstrap of what a confusion matrix tells.

    Samples that are drawn anew with replacement fall into its cells by a multinomial distribution, so that the samples
    themselves are not needed.

    Args:
        confusion_CC: [C, C] counts; rows are labels, columns predictions.

    Returns:
        Intervals of ``mean_class_accuracy`` and ``macro_f1``, as in :func:`ldlva_dist.analysis.metrics.classification`;
        nothing for no samples.
    """
    given, predicted = np.nonzero(confusion_CC)
    counts, classes = confusion_CC[given, predicted], len(confusion_CC)
    if not len(counts):
        return {}
    generator, total = np.random.default_rng(0), int(counts.sum())
    found: dict[str, list[float]] = {"mean_class_accuracy": [], "macro_f1": []}
    for _ in range(RESAMPLES):
        drawn = generator.multinomial(total, counts / total)
        hits_C = np.bincount(given, weights=drawn * (given == predicted), minlength=classes)
        given_C = np.bincount(given, weights=drawn, minlength=classes)
        either_C = given_C + np.bincount(predicted, weights=drawn, minlength=classes)
        found["mean_class_accuracy"].append(_mean_ratio(hits_C, given_C))
        found["macro_f1"].append(_mean_ratio(2 * hits_C, either_C))
    ends = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    intervals = {name: np.percentile(values, ends).tolist() for name, values in found.items()}
    return {name: (low, high) for name, (low, high) in intervals.items()}


def _mean_ratio(above_C: NDArray[Any], below_C: NDArray[Any]) -> float:
    """Mean over the classes that there are."""
    return float((above_C[below_C > 0] / below_C[below_C > 0]).mean())
