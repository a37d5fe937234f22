"""Predictions and suspects in each group of samples, by the manifest's extra columns. N = samples, C = classes."""

from collections.abc import Iterator
from dataclasses import dataclass
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
    return {
        column.removeprefix(EXTRA): {
            value: _judge(mine_N, labels_N, probs_NC, references) for value, mine_N in _largest(extra[column])
        }
        for column in extra.column_names
    }


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


@dataclass(frozen=True, kw_only=True)
class SuspectGroup:
    """Training samples with one value of an extra column."""

    samples: int
    listed: int
    """On the list of labels that are probably wrong."""
    doubted: int
    """Those for which another class than the label is proposed."""


def suspect_groups(
    extra: pa.Table, listed_N: NDArray[np.bool_], doubted_N: NDArray[np.bool_]
) -> dict[str, dict[str, SuspectGroup]]:
    """How many labels of each group are doubted, in the largest groups of each column.

    Args:
        extra: [N] columns ``extra_NAME``, text or null; samples without a value are in no group.
        listed_N: Whether the label is on the list of probably wrong ones.
        doubted_N: Whether another class is proposed.

    Returns:
        By column and value, those with most samples first.
    """
    return {
        column.removeprefix(EXTRA): {
            value: SuspectGroup(
                samples=int(mine_N.sum()),
                listed=int(listed_N[mine_N].sum()),
                doubted=int(doubted_N[mine_N].sum()),
            )
            for value, mine_N in _largest(extra[column])
        }
        for column in extra.column_names
    }


def _largest(column: pa.ChunkedArray) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The values with most samples, and which samples have them."""
    value_N = np.array(column.to_pylist(), dtype=object)
    values, counts = np.unique(column.drop_null().to_pylist(), return_counts=True)
    for value in values[np.argsort(-counts, kind="stable")[:LARGEST]].tolist():
        yield value, value_N == value
