"""Target label distributions. B = batch, K = neighbours, C = classes."""

import torch
from torch import Tensor
from torch.nn import functional as F

CALIBRATION_FLOOR = -1.3
"""official: the calibration logit is clamped here, so z >= 0.2142 and the shares' denominator never vanishes."""


def contribution_shares(
    log_similarity_BK: Tensor,
    calibration_BK: Tensor,
    usable_BK: Tensor,
    *,
    recipe: str,
    floor: float | None = None,
) -> Tensor:
    """Each neighbour's share z s / sum(z s) of what the neighbours say: a softmax over K of log s + log z.

    Args:
        log_similarity_BK: log s.
        calibration_BK: Raw logits of the calibration network; z is their sigmoid.
        usable_BK: False for neighbours whose outputs were never written; they get no share.
        recipe: ``official`` clamps the logit from below, at CALIBRATION_FLOOR.
        floor: Clamps it there, whatever the recipe; None: as the recipe does.

    Returns:
        [B, K] in [0, 1]; a row sums to 1, or to 0 if it has no usable neighbour.
    """
    if floor is None and recipe == "official":
        floor = CALIBRATION_FLOOR
    logit_BK = calibration_BK if floor is None else calibration_BK.clamp(min=floor)
    score_BK = log_similarity_BK + F.logsigmoid(logit_BK)
    # A row of -inf would make the softmax NaN, and its gradient too: let it be uniform, then take it away.
    has_neighbor_B1 = usable_BK.any(dim=1, keepdim=True)
    score_BK = score_BK.masked_fill(~usable_BK & has_neighbor_B1, -torch.inf)
    return score_BK.softmax(dim=1) * has_neighbor_B1


def aggregate(shares_BK: Tensor, neighbor_probs_BKC: Tensor) -> Tensor:
    """Joint distribution of the neighbours: the mean of their probabilities, weighted by their shares.

    Args:
        shares_BK: [B, K] shares from :func:`contribution_shares`.
        neighbor_probs_BKC: [B, K, C] class probabilities of the neighbours; rows sum to 1.

    Returns:
        [B, C] rows that sum to 1; zeros where all shares are 0.
    """
    return (shares_BK[..., None] * neighbor_probs_BKC).sum(dim=1)


def target_distribution(
    label_BC: Tensor, aggregated_BC: Tensor, uncertainty_B: Tensor, has_neighbor_B: Tensor
) -> Tensor:
    """Mix the given label with what the neighbours say: d = (1 - lambda) l + lambda dt.

    Args:
        label_BC: One-hot (or smoothed) given label.
        aggregated_BC: The neighbours' distribution dt; rows sum to 1.
        uncertainty_B: lambda in [0, 1], the weight of the neighbours.
        has_neighbor_B: False where nothing is known of the neighbours.

    Returns:
        [B, C] rows that sum to 1; a row without neighbours is the label itself.
    """
    uncertainty_B1 = uncertainty_B[:, None]
    mixed_BC = (1 - uncertainty_B1) * label_BC + uncertainty_B1 * aggregated_BC
    return torch.where(has_neighbor_B[:, None], mixed_BC, label_BC)
