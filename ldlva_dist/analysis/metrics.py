"""How good predictions are, and how well a score finds wrong labels. N = samples, C = classes.

Numpy in, JSON-ready dicts out. None stands for a number that is not defined, never for a bad one. Torchmetrics takes a
second to import, with matplotlib, and most processes that import this module never call it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr, rel_entr
from scipy.stats import mannwhitneyu, rankdata

ECE_BINS = 15
PROBABILITY_FLOOR = 1e-10
"""Predicted probabilities count as at least this in KL: a single 0 would make it infinite."""


def classification(labels_N: NDArray[Any], probs_NC: NDArray[Any], *, num_classes: int) -> dict[str, Any]:
    """Agreement of predictions with class indices.

    Args:
        labels_N: Class indices, 0..C-1.
        probs_NC: Class probabilities; the first of equal largest is the prediction.
        num_classes: C.

    Returns:
        ``accuracy`` in [0, 1]; ``mean_class_accuracy``: mean recall of the classes among the labels; ``macro_f1``:
        mean of F1 over the classes among labels or predictions; ``ece``: expected calibration error of the largest
        probability, that of the bins in ``reliability``; ``confusion``: [C][C] counts, rows = labels;
        ``reliability`` and ``class_reliability``: see there. All but the last three are None for N = 0.
    """
    predicted_N = probs_NC.argmax(axis=1)
    confusion_CC = confusion_matrix(labels_N, predicted_N, num_classes)
    if len(labels_N) == 0:
        names = ("accuracy", "mean_class_accuracy", "macro_f1", "ece")
        return {
            **dict.fromkeys(names),
            "confusion": confusion_CC.tolist(),
            "reliability": [],
            "class_reliability": [[]] * num_classes,
        }
    hits_C, given_C, predicted_C = confusion_CC.diagonal(), confusion_CC.sum(axis=1), confusion_CC.sum(axis=0)
    present, either = given_C > 0, given_C + predicted_C > 0
    diagram = reliability(labels_N, probs_NC)
    return {
        "accuracy": float(hits_C.sum() / len(labels_N)),
        "mean_class_accuracy": float((hits_C[present] / given_C[present]).mean()),
        "macro_f1": float((2 * hits_C[either] / (given_C + predicted_C)[either]).mean()),
        # Not torchmetrics', which keeps a bin of its own for a confidence of exactly 1.
        "ece": sum(part["share"] * abs(part["confidence"] - part["accuracy"]) for part in diagram),
        "confusion": confusion_CC.tolist(),
        "reliability": diagram,
        "class_reliability": class_reliability(labels_N, probs_NC),
    }


def reliability(labels_N: NDArray[Any], probs_NC: NDArray[Any]) -> list[dict[str, float]]:
    """Reliability diagram: confidence and accuracy of the samples in each of 15 equal bins of confidence.

    Args:
        labels_N: [N] class indices, 0..C-1.
        probs_NC: [N, C] class probabilities; the largest is the confidence.

    Returns:
        One dict for each bin (i / 15, (i + 1) / 15] that has samples: ``share`` of all samples, and their mean
        ``confidence`` and ``accuracy``, which are equal for a calibrated model.
    """
    confidence_N, right_N = probs_NC.max(axis=1).astype(np.float64), probs_NC.argmax(axis=1) == labels_N
    bin_N = np.clip(np.ceil(confidence_N * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    counts, confidence, right = (
        np.bincount(bin_N, weights=weights_N, minlength=ECE_BINS) for weights_N in (None, confidence_N, right_N)
    )
    return [
        {
            "share": float(counts[i] / len(labels_N)),
            "confidence": float(confidence[i] / counts[i]),
            "accuracy": float(right[i] / counts[i]),
        }
        for i in np.flatnonzero(counts)
    ]


def class_reliability(labels_N: NDArray[Any], probs_NC: NDArray[Any]) -> list[list[dict[str, float]]]:
    """Reliability diagram of each class: of the samples that are predicted to be of it.

    Args:
        labels_N: [N] class indices, 0..C-1.
        probs_NC: [N, C] class probabilities.

    Returns:
        [C] bins as :func:`reliability` has them, with ``samples``, a count, in the place of ``share``; none for a class
        that is never predicted.
    """
    predicted_N = probs_NC.argmax(axis=1)
    found = []
    for index in range(probs_NC.shape[1]):
        mine_N = predicted_N == index
        total = int(mine_N.sum())
        bins = reliability(labels_N[mine_N], probs_NC[mine_N]) if total else []
        found.append([{"samples": round(each.pop("share") * total), **each} for each in bins])
    return found


def confusion_matrix(labels_N: NDArray[Any], predicted_N: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Counts of every pair of label and prediction.

    Args:
        labels_N: [N] class indices, 0..C-1.
        predicted_N: [N] class indices, 0..C-1.
        num_classes: C.

    Returns:
        [C, C] counts; rows are labels, columns predictions.
    """
    cells_N = labels_N.astype(np.int64) * num_classes + predicted_N.astype(np.int64)
    return np.bincount(cells_N, minlength=num_classes**2).reshape(num_classes, num_classes)


def shares(weights_NC: NDArray[Any]) -> NDArray[np.float64]:
    """Votes as distributions.

    Args:
        weights_NC: [N, C] counts or shares, >= 0.

    Returns:
        [N, C] rows that sum to 1; rows of zeros stay zeros.
    """
    total_N1 = weights_NC.sum(axis=1, keepdims=True, dtype=np.float64)
    return weights_NC / np.where(total_N1 > 0, total_N1, 1)


def vote_entropy(weights_NC: NDArray[Any]) -> NDArray[np.float64]:
    """How much raters differ.

    Args:
        weights_NC: [N, C] counts or shares, >= 0.

    Returns:
        [N] entropy in nats, 0 where all agree; NaN where there are no votes.
    """
    return np.where(weights_NC.sum(axis=1) > 0, entr(shares(weights_NC)).sum(axis=1), np.nan)


def rank_correlation(one_N: NDArray[Any], other_N: NDArray[Any]) -> dict[str, Any]:
    """Whether two numbers of each sample rise together.

    Args:
        one_N: [N] numbers.
        other_N: [N] numbers; NaN where nothing is known.

    Returns:
        ``samples`` that both are known of; ``spearman`` in [-1, 1], None where one of the two does not vary.
    """
    known_N = np.isfinite(one_N) & np.isfinite(other_N)
    one, other = (rankdata(values[known_N]) for values in (one_N, other_N))
    varies = known_N.sum() > 1 and np.ptp(one) > 0 and np.ptp(other) > 0
    return {"samples": int(known_N.sum()), "spearman": float(np.corrcoef(one, other)[0, 1]) if varies else None}


def label_distribution(truth_NC: NDArray[Any], probs_NC: NDArray[Any]) -> dict[str, float | None]:
    """Nearness of predicted to true distributions, means over the samples.

    Args:
        truth_NC: True distributions; rows sum to 1.
        probs_NC: Predicted ones; rows sum to 1.

    Returns:
        Means of :func:`label_distances`; None for N = 0.
    """
    rows = label_distances(truth_NC, probs_NC)
    return {name: float(values.mean()) if len(values) else None for name, values in rows.items()}


def label_distances(truth_NC: NDArray[Any], probs_NC: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Nearness of each predicted to its true distribution.

    Args:
        truth_NC: True distributions; rows sum to 1.
        probs_NC: Predicted ones; rows sum to 1.

    Returns:
        [N] each. Distances, 0 for equal rows: ``kl`` (of the truth from the prediction) and ``jensen_shannon`` (the
        divergence, at most log 2), in nats; ``chebyshev``; ``clark``; ``canberra``; both count a class that is 0 in
        truth and prediction as equal. Similarities, 1 for equal rows: ``cosine``; ``intersection``.
    """
    truth, probs = truth_NC.astype(np.float64), probs_NC.astype(np.float64)
    gap, total = np.abs(truth - probs), truth + probs
    middle = total / 2
    ratio = np.divide(gap, total, out=np.zeros_like(gap), where=total > 0)
    lengths = np.linalg.norm(truth, axis=1) * np.linalg.norm(probs, axis=1)
    return {
        "kl": rel_entr(truth, np.maximum(probs, PROBABILITY_FLOOR)).sum(axis=1),
        "jensen_shannon": (rel_entr(truth, middle) + rel_entr(probs, middle)).sum(axis=1) / 2,
        "chebyshev": gap.max(axis=1),
        "clark": np.sqrt(np.square(ratio).sum(axis=1)),
        "canberra": ratio.sum(axis=1),
        "cosine": (truth * probs).sum(axis=1) / lengths,
        "intersection": np.minimum(truth, probs).sum(axis=1),
    }


def noise_finding(scores_N: NDArray[Any], wrong_N: NDArray[np.bool_]) -> dict[str, float | None]:
    """Quality of a score at finding the samples with wrong labels.

    Args:
        scores_N: [N] any numbers; high is suspicious.
        wrong_N: [N] whether the label is wrong.

    Returns:
        ``auroc``: chance that a wrong label scores above a right one, ties count half; ``average_precision``: equal
        scores enter together, so their order does not matter. Both are None unless there are wrong and right labels.
    """
    wrong_N = wrong_N.astype(bool)
    num_wrong, num_right = int(wrong_N.sum()), int((~wrong_N).sum())
    if num_wrong == 0 or num_right == 0:
        return {"auroc": None, "average_precision": None}
    from torchmetrics.functional.classification import binary_average_precision

    above = mannwhitneyu(scores_N[wrong_N], scores_N[~wrong_N], method="asymptotic").statistic
    # torchmetrics squashes scores outside [0, 1], which could tie some; ranks keep their order and their ties.
    _, rank_N = np.unique(scores_N, return_inverse=True)
    precision = binary_average_precision(
        torch.from_numpy(rank_N / max(1, rank_N.max())), torch.from_numpy(wrong_N.astype(np.int64))
    )
    return {"auroc": float(above / (num_wrong * num_right)), "average_precision": float(precision)}


def judge_noise_scores(
    scores: Mapping[str, NDArray[Any]], wrong_N: NDArray[np.bool_], known_N: NDArray[np.bool_]
) -> dict[str, Any]:
    """Quality of several scores at finding wrong labels, on the samples of which that is known.

    Args:
        scores: [N] each, by name; high is suspicious.
        wrong_N: [N] whether the label is wrong.
        known_N: [N] whether that is known; at least one is.

    Returns:
        ``wrong_share`` of the known ones in [0, 1], and :func:`noise_finding` of every score under its name.
    """
    found = {name: noise_finding(score_N[known_N], wrong_N[known_N]) for name, score_N in scores.items()}
    return {"wrong_share": float(wrong_N[known_N].mean()), **found}


def bayes_flip_probability(
    true_distribution_NC: NDArray[Any], labels_N: NDArray[Any], flip_share: float
) -> NDArray[Any]:
    """The best score there is for finding flipped labels: the probability that one was flipped, given what it is.

    Labels are drawn from the true distribution p; then a share s of them is flipped, uniformly over the C - 1 other
    classes. With l the given label, the posterior is s (1 - p_l) / (C - 1) / ((1 - s) p_l + s (1 - p_l) / (C - 1)).

    Args:
        true_distribution_NC: p; rows sum to 1, C >= 2.
        labels_N: Given class indices, after the flips.
        flip_share: s in [0, 1].

    Returns:
        [N] float64 in [0, 1]; 0 for a label that could not have come about.
    """
    p_N = true_distribution_NC[np.arange(len(labels_N)), labels_N.astype(np.int64)].astype(np.float64)
    flipped_N = flip_share * (1 - p_N) / (true_distribution_NC.shape[1] - 1)
    total_N = (1 - flip_share) * p_N + flipped_N
    return np.divide(flipped_N, total_N, out=np.zeros_like(p_N), where=total_N > 0)
