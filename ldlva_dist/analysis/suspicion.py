"""Scores of how suspicious a given label is: high = probably wrong. N = samples, C = classes.

The first two are cleanlab's label quality scores turned round (Kuan and Mueller, "Model-agnostic label quality scoring
to detect real-world label errors", 2022; the thresholds are those of Northcutt et al., "Confident learning", 2021).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

PROBABILITY_FLOOR = 1e-6
"""Stored probabilities are rounded to 0 below float16's reach; a logarithm takes them as this."""
CONFIDENCE_SLACK = 1e-6
"""A probability that is less than its threshold by no more than this reaches it, as cleanlab has it."""


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


def confident_learning(probs_NC: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.float64]:
    """[N] 1 - p(label), halved, and 1/2 more where confident learning takes the label for wrong.

    That is where the sample is off the diagonal of the confident joint (Northcutt et al. 2021, equation 1).
    """
    confident_N = _confident_class(probs_NC, labels_N)
    return (self_confidence(probs_NC, labels_N) + ((confident_N >= 0) & (confident_N != labels_N))) / 2


def count_by_confident_learning(probs_NC: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.float64]:
    """[C] number of wrong labels of each class by the confident joint, calibrated to the class's number of samples.

    It counts ambiguous labels too, as it takes every confident output of another class for the truth. Northcutt et al.
    2021, equations 1 and 3; as in cleanlab one label of each class is taken to be right.
    """
    num_classes, confident_N = probs_NC.shape[1], _confident_class(probs_NC, labels_N)
    joint_CC = np.zeros((num_classes, num_classes))
    np.add.at(joint_CC, (labels_N[confident_N >= 0], confident_N[confident_N >= 0]), 1)
    right_C = np.maximum(joint_CC.diagonal(), 1)
    wrong_C = joint_CC.sum(axis=1) - joint_CC.diagonal()
    return np.bincount(labels_N, minlength=num_classes) * wrong_C / (wrong_C + right_C)


def _confident_class(probs_NC: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.int64]:
    """[N] of the classes whose probability reaches its mean over the samples of that label, the likeliest; -1: none.

    A class without a sample is reached by nobody.
    """
    num_classes = probs_NC.shape[1]
    counts_C = np.bincount(labels_N, minlength=num_classes)
    sums_C = np.bincount(labels_N, weights=of_label(probs_NC, labels_N), minlength=num_classes)
    threshold_C = np.where(counts_C > 0, sums_C / np.maximum(counts_C, 1), np.inf)
    confident_NC = np.where(probs_NC >= threshold_C - CONFIDENCE_SLACK, probs_NC, -1.0)
    return np.where(confident_NC.max(axis=1) >= 0, confident_NC.argmax(axis=1), -1)


def model_weight(
    probs_NC: NDArray[Any], aggregated_NC: NDArray[Any], labels_N: NDArray[Any], *, out_of_fold: bool = False
) -> float:
    """Weight of the model beside the neighbours, in [0, 1]: the one that explains the given labels best, or half of it.

    That one maximises the likelihood of the labels under the mixture of both, over the samples of which both are known;
    it needs no truth. Half of it where the model has been trained on the very label that is in question and repeats
    some of them, while what the neighbours say of a sample was never shown its label; all of it ``out_of_fold``.
    """
    is_known_N = probs_NC.any(axis=1) & aggregated_NC.any(axis=1)
    if not is_known_N.any():
        return 0.5
    model_n, neighbors_n = (of_label(side[is_known_N], labels_N[is_known_N]) for side in (probs_NC, aggregated_NC))

    def cost(weight: float) -> float:
        return float(-np.log(np.maximum(weight * model_n + (1 - weight) * neighbors_n, PROBABILITY_FLOOR)).mean())

    weight = float(minimize_scalar(cost, bounds=(0.0, 1.0), method="bounded").x)  # pyright: ignore[reportAttributeAccessIssue]
    return weight if out_of_fold else weight / 2


def pooled(probs_NC: NDArray[Any], aggregated_NC: NDArray[Any], weight: float) -> NDArray[np.float64]:
    """[N, C] what model and neighbours say together: their mixture, with :func:`model_weight` for the model.

    A row of zeros (nothing is known) leaves the other side alone; two of them are uniform.
    """
    sum_NC = weight * probs_NC.astype(np.float64) + (1 - weight) * aggregated_NC.astype(np.float64)
    total_N1 = sum_NC.sum(axis=1, keepdims=True)
    return np.where(total_N1 > 0, sum_NC / np.maximum(total_N1, 1e-12), 1 / probs_NC.shape[1])


def combined(
    pooled_NC: NDArray[Any], labels_N: NDArray[Any], uncertainty_N: NDArray[Any], *, weight: float
) -> NDArray[np.float64]:
    """[N] in [0, 1]: doubt of the label by model and neighbours, and by the uncertainty that was learnt of it.

    The uncertainty has moved in every epoch, also in those before the model knew labels by heart.

    Args:
        pooled_NC: [N, C] from :func:`pooled`.
        labels_N: [N] given labels.
        uncertainty_N: [N] in [0, 1].
        weight: Of the uncertainty, where that of the others is 1; :func:`model_weight`, as it is the network's too.
    """
    return (self_confidence(pooled_NC, labels_N) + weight * uncertainty_N) / (1 + weight)


def of_label(values_NC: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.float64]:
    """[N] each row's value at its label."""
    return np.take_along_axis(values_NC, labels_N[:, None].astype(np.int64), axis=1)[:, 0].astype(np.float64)


def _best_other(values_NC: NDArray[Any], labels_N: NDArray[Any]) -> NDArray[np.float64]:
    """[N] each row's largest value beside its label."""
    others_NC = values_NC.astype(np.float64)
    np.put_along_axis(others_NC, labels_N[:, None].astype(np.int64), -np.inf, axis=1)
    return others_NC.max(axis=1)
