"""Class centres: what pulls samples to them, and what keeps them apart. n = samples, C = classes, V = feature width."""

import torch
from torch import Tensor

REPULSION_RATE = 0.5 * 0.1


def intra_distances(features_nV: Tensor, labels_n: Tensor, centers_CV: Tensor) -> Tensor:
    """Squared distances of samples to the centres of their classes.

    Args:
        features_nV: [n, V] features.
        labels_n: [n] class indices, 0..C-1.
        centers_CV: [C, V] class centres.

    Returns:
        [n], >= 0.
    """
    return (features_nV - centers_CV[labels_n]).square().sum(dim=-1)


def inter_official(centers_CV: Tensor) -> Tensor:
    """Separation term of the reference code: the sum over pairs i < j of exp(-d_ij / V), d_ij squared distances.

    Args:
        centers_CV: [C, V] class centres.

    Returns:
        A scalar in (0, C (C - 1) / 2].
    """
    return torch.exp(-_squared_pairs(centers_CV) / centers_CV.shape[1]).sum()


def inter_paper(centers_CV: Tensor) -> Tensor:
    """Separation term of the paper: the sum over ordered pairs of exp(-d_ij / sqrt(V)), d_ij squared distances.

    Args:
        centers_CV: [C, V] class centres.

    Returns:
        A scalar in (0, C (C - 1)]; the largest value when all centres coincide.
    """
    return 2 * torch.exp(-_squared_pairs(centers_CV) / centers_CV.shape[1] ** 0.5).sum()


def center_sums(
    features_nV: Tensor, labels_n: Tensor, uncertainty_n: Tensor, centers_CV: Tensor, *, counts_n: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Pull of the samples on the centres of their classes: the sums of (1 - lambda)(v - mu_y).

    Args:
        features_nV: [n, V] features v.
        labels_n: [n] class indices y, 0..C-1.
        uncertainty_n: [n] lambda in [0, 1]; a sample in doubt pulls less, one that does not count is in full doubt.
        centers_CV: [C, V] class centres mu.
        counts_n: [n] which samples count; None: all.

    Returns:
        Sums [C, V] and counts of samples [C], both of the centres' type.
    """
    pull_nV = (1 - uncertainty_n)[:, None] * (features_nV - centers_CV[labels_n])
    sums_CV = torch.zeros_like(centers_CV).index_add_(0, labels_n, pull_nV.to(centers_CV.dtype))
    ones_n = torch.ones_like(uncertainty_n) if counts_n is None else counts_n
    # Not bincount, which waits for a GPU; whole numbers below 2 ** 24 are exact in any order.
    counts_C = centers_CV.new_zeros(len(centers_CV)).index_add_(0, labels_n, ones_n.to(centers_CV.dtype))
    return sums_CV, counts_C


@torch.no_grad()
def update_centers(centers_CV: Tensor, sums_CV: Tensor, counts_C: Tensor, *, rate: float) -> None:
    """Update of the official recipe, in place: attraction, then one step of repulsion.

    Args:
        centers_CV: [C, V] class centres, which change.
        sums_CV: [C, V] pull of all samples of the batch, from :func:`center_sums`.
        counts_C: [C] samples of each class in the batch.
        rate: Rate of the attraction, > 0.
    """
    attract(centers_CV, sums_CV, counts_C, rate=rate)
    repel(centers_CV)


@torch.no_grad()
def attract(centers_CV: Tensor, sums_CV: Tensor, counts_C: Tensor, *, rate: float) -> None:
    """Attraction of the centres by their samples, in place: mu_j += rate x sum_j / (1 + n_j).

    Args:
        centers_CV: [C, V] class centres mu, which change.
        sums_CV: [C, V] pull of the samples, from :func:`center_sums`.
        counts_C: [C] samples n of each class.
        rate: Rate of the attraction, > 0.
    """
    centers_CV += rate * sums_CV / (1 + counts_C)[:, None]


@torch.no_grad()
def repel(centers_CV: Tensor) -> None:
    """Repulsion of the centres, in place: one step of 0.5 x 0.1 down the gradient of :func:`inter_official`.

    Args:
        centers_CV: [C, V] class centres, which change.
    """
    difference_CCV = centers_CV[:, None] - centers_CV[None]
    width = centers_CV.shape[1]
    force_CC1 = torch.exp(-difference_CCV.square().sum(dim=-1, keepdim=True) / width)
    centers_CV += REPULSION_RATE * 2 / width * (force_CC1 * difference_CCV).sum(dim=1)


def _squared_pairs(centers_CV: Tensor) -> Tensor:
    """[C (C - 1) / 2] squared distances of the pairs i < j."""
    first, second = torch.triu_indices(len(centers_CV), len(centers_CV), offset=1, device=centers_CV.device)
    return (centers_CV[first] - centers_CV[second]).square().sum(dim=-1)
