"""Class centres: what pulls samples to them, and what keeps them apart. n = samples, C = classes, V = feature width."""

import torch
from torch import Tensor

REPULSION_RATE = 0.5 * 0.1


def intra_distances(features_nV: Tensor, labels_n: Tensor, centers_CV: Tensor) -> Tensor:
    """[n] squared distances of samples to their classes' centres."""
    return (features_nV - centers_CV[labels_n]).square().sum(dim=-1)


def inter_official(centers_CV: Tensor) -> Tensor:
    """The reference's separation term: sum over pairs i < j of exp(-d / V), d squared; at most C (C - 1) / 2."""
    return torch.exp(-_squared_pairs(centers_CV) / centers_CV.shape[1]).sum()


def inter_paper(centers_CV: Tensor) -> Tensor:
    """The paper's: sum over ordered pairs of exp(-d / sqrt(V)); at most C (C - 1), when all centres coincide."""
    return 2 * torch.exp(-_squared_pairs(centers_CV) / centers_CV.shape[1] ** 0.5).sum()


def center_sums(
    features_nV: Tensor, labels_n: Tensor, uncertainty_n: Tensor, centers_CV: Tensor
) -> tuple[Tensor, Tensor]:
    """What the samples ask of their centres: sums [C, V] of (1 - lambda)(v - mu_y), and counts [C]."""
    pull_nV = (1 - uncertainty_n)[:, None] * (features_nV - centers_CV[labels_n])
    sums_CV = torch.zeros_like(centers_CV).index_add_(0, labels_n, pull_nV.to(centers_CV.dtype))
    return sums_CV, torch.bincount(labels_n, minlength=len(centers_CV)).to(centers_CV.dtype)


@torch.no_grad()
def update_centers(centers_CV: Tensor, sums_CV: Tensor, counts_C: Tensor, *, rate: float) -> None:
    """The official recipe's update, in place: attraction by ``rate``, then one step of repulsion."""
    attract(centers_CV, sums_CV, counts_C, rate=rate)
    repel(centers_CV)


@torch.no_grad()
def attract(centers_CV: Tensor, sums_CV: Tensor, counts_C: Tensor, *, rate: float) -> None:
    """mu_j += rate x sum_j / (1 + n_j), in place."""
    centers_CV += rate * sums_CV / (1 + counts_C)[:, None]


@torch.no_grad()
def repel(centers_CV: Tensor) -> None:
    """One step of 0.5 x 0.1 down the gradient of :func:`inter_official`, in place."""
    difference_CCV = centers_CV[:, None] - centers_CV[None]
    width = centers_CV.shape[1]
    force_CC1 = torch.exp(-difference_CCV.square().sum(dim=-1, keepdim=True) / width)
    centers_CV += REPULSION_RATE * 2 / width * (force_CC1 * difference_CCV).sum(dim=1)


def _squared_pairs(centers_CV: Tensor) -> Tensor:
    """[C (C - 1) / 2] squared distances of the pairs i < j."""
    first, second = torch.triu_indices(len(centers_CV), len(centers_CV), offset=1, device=centers_CV.device)
    return (centers_CV[first] - centers_CV[second]).square().sum(dim=-1)
