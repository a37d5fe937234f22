"""How good predictions are in each group of samples, by the manifest's extra columns. N = samples, C = classes."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.analysis import metrics
from ldlva_dist.dataset.manifest import EXTRA

LARGEST = 20
"""Groups of one column that are judged; a column of names would have thousands."""
DISTANCES = ("kl", "jensen_shannon", "chebyshev", "cosine")


def judge_groups(
    extra: pa.Table, labels_N: NDArray[Any], probs_NC: NDArray[Any], references: dict[str, NDArray[np.float32]]
) -> dict[str, dict[str, Any]]:
    """Figures of the largest groups of each column, those with most samples first.

    Args:
        extra: [N] columns ``extra_NAME`` of the samples, text or null; samples without a value are in no group.
        labels_N: Given labels, 0..C-1.
        probs_NC: Predicted class probabilities.
        references: Votes or true distributions [N, C] by their names; rows of zeros say nothing.

    Returns:
        By column and value: ``samples``, ``accuracy`` and ``mean_class_accuracy`` against the given labels, and for
        each reference that says something of the group ``samples``, ``kl``, ``jensen_shannon``, ``chebyshev`` and
        ``cosine`` (see :func:`ldlva_dist.analysis.metrics.label_distribution`).
    """
    found: dict[str, dict[str, Any]] = {}
    for column in extra.column_names:
        value_N = np.array(extra[column].to_pylist(), dtype=object)
        values, counts = np.unique(extra[column].drop_null().to_pylist(), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:LARGEST]
        found[column.removeprefix(EXTRA)] = {
            value: _judge(value_N == value, labels_N, probs_NC, references) for value in values[order].tolist()
        }
    return found


def _judge(
    mine_N: NDArray[np.bool_],
    labels_N: NDArray[Any],
    probs_NC: NDArray[Any],
    references: dict[str, NDArray[np.float32]],
) -> dict[str, Any]:
    against = metrics.classification(labels_N[mine_N], probs_NC[mine_N], num_classes=probs_NC.shape[1])
    result = {"samples": int(mine_N.sum()), **{key: against[key] for key in ("accuracy", "mean_class_accuracy")}}
    for name, weights_NC in references.items():
        known_N = mine_N & (weights_NC.sum(axis=1) > 0)
        if known_N.any():
            distances = metrics.label_distribution(metrics.shares(weights_NC[known_N]), probs_NC[known_N])
            result[name] = {"samples": int(known_N.sum()), **{key: distances[key] for key in DISTANCES}}
    return result
