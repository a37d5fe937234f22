"""Scores of how suspicious a given label is: high = probably wrong. N = samples, C = classes.

The first two are cleanlab's label quality scores turned round (Kuan and Mueller, "Model-agnostic label quality scoring
to detect real-world label errors", 2022; the thresholds are those of Northcutt et al., "Confident learning", 2021).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

NEIGHBORS_WEIGHT = 2
"""Of what the neighbours say, where the model's own prediction weighs 1 (DECISIONS.md)."""


def self_confidence(probs_NC: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.float64]:
    """[N] 1 - p(label), in [0, 1]."""
    return 1 - of_label(probs_NC, labels_N)


def normalized_margin(probs_NC: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.float64]:
    """[N] in [0, 1]: 1 - (p(label) - p(best other class) + 1) / 2."""
    return (1 - of_label(probs_NC, labels_N) + _best_other(probs_NC, labels_N)) / 2


def adjusted(probs_NC: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.float64]:
    """[N, C] probabilities less the class's mean self-confidence, shifted to be >= 0 and to sum to 1.

    cleanlab's ``adjust_pred_probs``: a class that the model is seldom sure of is not suspicious for that. A class
    without a sample is not adjusted.
    """
    num_classes = probs_NC.shape[1]
    counts_C = np.bincount(labels_N, minlength=num_classes)
    sums_C = np.bincount(labels_N, weights=of_label(probs_NC, labels_N), minlength=num_classes)
    threshold_C = sums_C / np.maximum(counts_C, 1)
    shifted_NC = probs_NC.astype(np.float64) - threshold_C + threshold_C.max()
    return shifted_NC / shifted_NC.sum(axis=1, keepdims=True)


def pooled(probs_NC: NDArray[Any], aggregated_NC: NDArray[Any]) -> NDArray[np.float64]:
    """[N, C] what model and neighbours say together: a linear opinion pool, the neighbours counting twice.

    The model has been trained on the very label that is in question, and tends to repeat it; what the neighbours say
    was never shown it. A row of zeros (nothing is known) leaves the other side alone; two of them are uniform.
    """
    sum_NC = probs_NC.astype(np.float64) + NEIGHBORS_WEIGHT * aggregated_NC
    total_N1 = sum_NC.sum(axis=1, keepdims=True)
    return np.where(total_N1 > 0, sum_NC / np.maximum(total_N1, 1e-12), 1 / probs_NC.shape[1])


def of_label(values_NC: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.float64]:
    """[N] each row's value at its label."""
    return np.take_along_axis(values_NC, labels_N[:, None].astype(np.int64), axis=1)[:, 0].astype(np.float64)


def _best_other(values_NC: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.float64]:
    """[N] each row's largest value beside its label."""
    others_NC = values_NC.astype(np.float64)
    np.put_along_axis(others_NC, labels_N[:, None].astype(np.int64), -np.inf, axis=1)
    return others_NC.max(axis=1)
