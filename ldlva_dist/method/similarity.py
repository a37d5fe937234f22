"""How near two samples are in the valence-arousal plane. B = batch, K = neighbours."""

import torch
from torch import Tensor


def log_similarity(va_B2: Tensor, neighbor_va_BK2: Tensor, *, width: float, recipe: str) -> Tensor:
    """Logarithm of the local similarity s; the similarity itself underflows at large distances.

    Args:
        va_B2: Valence and arousal of the samples.
        neighbor_va_BK2: Of their neighbours, in the same scale.
        width: delta, > 0, in that scale.
        recipe: ``official``: -L1 / delta; ``paper``: -L2^2 / delta^2 (METHOD.md, sections 2 and 3).

    Returns:
        [B, K], at most 0; 0 where valence-arousal is not known (NaN): such neighbours are alike in it.
    """
    difference_BK2 = va_B2[:, None] - neighbor_va_BK2
    if recipe == "official":
        distance_BK = difference_BK2.abs().sum(dim=-1) / width
    else:
        distance_BK = difference_BK2.square().sum(dim=-1) / width**2
    return -torch.nan_to_num(distance_BK, nan=0.0)
