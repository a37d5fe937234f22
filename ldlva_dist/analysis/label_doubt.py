"""How probable it is that labels are wrong, by the labels around them alone. N = samples, K = neighbours, C = classes.

No network's output counts: it learns wrong labels by heart, and is unsure of ambiguous faces. What is left is a
question for expectation maximisation: which share of labels is wrong at random, if classes are what neighbours say.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from ldlva_dist.analysis import suspicion
from ldlva_dist.method.posterior import fit_joint, judge_by_labels, label_noise, shares_of_labels

FITTED = 1 << 17
"""Samples that the share of wrong labels is estimated on, evenly spaced: it is then known to .001."""
ROWS = 1 << 16
"""Samples that are judged at once."""


def doubt_by_neighbors(
    graph: Iterable[NDArray[np.int64]], labels_N: NDArray[np.int64], is_read_N: NDArray[np.bool_], num_classes: int
) -> NDArray[np.float64]:
    """Probability that each label is wrong, given its neighbours' labels.

    Args:
        graph: Neighbours [m, K] of all samples, in the order of ids; each counts alike. Of few of them ambiguous faces
            look like wrong labels: 32 or more tell them apart (results/wrong_labels.md).
        labels_N: Given class indices, 0..C-1.
        is_read_N: Whose labels may be read for others.
        num_classes: C.

    Returns:
        [N] in [0, 1]; their sum is the number of wrong labels that is expected.
    """
    near_NC = torch.cat([_near(graph_mK, labels_N, is_read_N, num_classes) for graph_mK in graph])
    labels = torch.from_numpy(labels_N)
    spaced_n = torch.linspace(0, len(labels) - 1, min(FITTED, len(labels)), dtype=torch.float64).long()
    noise = label_noise(fit_joint(near_NC[spaced_n], labels[spaced_n]))
    found = [
        judge_by_labels(near_mC, labels_m, noise)[1]
        for near_mC, labels_m in zip(near_NC.split(ROWS), labels.split(ROWS), strict=True)
    ]
    return suspicion.self_confidence(torch.cat(found).numpy(), labels_N)


def _near(
    graph_mK: NDArray[np.int64], labels_N: NDArray[np.int64], is_read_N: NDArray[np.bool_], num_classes: int
) -> torch.Tensor:
    """[m, C] shares of the classes in the labels that may be read."""
    read_mK = torch.from_numpy(is_read_N[graph_mK]).float()
    shares_mK = read_mK / read_mK.sum(dim=1, keepdim=True).clamp(min=1)
    return shares_of_labels(torch.from_numpy(labels_N[graph_mK]), shares_mK, num_classes)
