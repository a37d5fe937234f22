"""Losses of others that withstand wrong labels, to compare with. B = batch, C = classes.

Each is a term of one sample, as its paper has it; constants are those of the authors' code for ten classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PROBABILITY_FLOOR = 1e-7
LABEL_FLOOR = 1e-4
"""Symmetric cross-entropy takes the logarithm of a label's zeros as that of this."""
OUTPUT_FLOOR = 1e-4
"""Early-learning regularisation keeps probabilities so far from 0 and 1."""
NOISY_FLOOR = 1e-4
"""Over-parameterisation keeps an output with its noise at least so far from 0."""


@dataclass(frozen=True, kw_only=True)
class RobustSettings:
    """Their constants; see RobustConfig."""

    gce_q: float = 0.7
    sce_alpha: float = 0.1
    sce_beta: float = 1.0
    elr_weight: float = 3.0
    elr_momentum: float = 0.7
    mixup_alpha: float = 1.0
    sop_u_rate: float = 1 / 128
    sop_v_rate: float = 10 / 128
    sop_spread: float = 1e-8


def generalized_cross_entropy(label_BC: Tensor, probs_BC: Tensor, *, q: float) -> Tensor:
    """(1 - p^q) / q of the label's probability p: cross-entropy as q goes to 0, mean absolute error at q = 1.

    Source: Zhang and Sabuncu, "Generalized cross entropy loss for training deep neural networks with noisy labels",
    2018, equation 6.

    Args:
        label_BC: [B, C] given labels, one-hot.
        probs_BC: [B, C] class probabilities.
        q: In (0, 1].

    Returns:
        [B] in [0, 1 / q].
    """
    p_B = (label_BC * probs_BC).sum(dim=1).clamp(min=PROBABILITY_FLOOR)
    return (1 - p_B**q) / q


def symmetric_cross_entropy(label_BC: Tensor, log_probs_BC: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Cross-entropy alpha times, and with label and prediction exchanged beta times.

    Source: Wang et al., "Symmetric cross entropy for robust learning with noisy labels", 2019, equation 7.

    Args:
        label_BC: [B, C] given labels; rows sum to 1.
        log_probs_BC: [B, C] logarithms of the class probabilities.
        alpha: Weight of the cross-entropy, >= 0.
        beta: Weight of the reverse cross-entropy, >= 0.

    Returns:
        [B] in nats.
    """
    probs_BC = log_probs_BC.exp().clamp(min=PROBABILITY_FLOOR)
    forward_B = -(label_BC * log_probs_BC).sum(dim=1)
    reverse_B = -(probs_BC * label_BC.clamp(min=LABEL_FLOOR).log()).sum(dim=1)
    return alpha * forward_B + beta * reverse_B


def moving_average(average_BC: Tensor, probs_BC: Tensor, *, momentum: float) -> Tensor:
    """What early-learning regularisation remembers of each sample: t <- momentum t + (1 - momentum) p.

    Args:
        average_BC: [B, C] t so far; zeros before the first time.
        probs_BC: [B, C] class probabilities.
        momentum: In [0, 1).

    Returns:
        [B, C] without a graph.
    """
    bounded_BC = probs_BC.detach().clamp(OUTPUT_FLOOR, 1 - OUTPUT_FLOOR)
    return momentum * average_BC + (1 - momentum) * bounded_BC / bounded_BC.sum(dim=1, keepdim=True)


def early_learning(average_BC: Tensor, probs_BC: Tensor) -> Tensor:
    """log(1 - <t, p>): falls the more the prediction p agrees with its own moving average t.

    Source: Liu et al., "Early-learning regularization prevents memorization of noisy labels", 2020, equation 6.

    Args:
        average_BC: [B, C] t, this step's included; constants.
        probs_BC: [B, C] class probabilities.

    Returns:
        [B] in nats, <= 0.
    """
    return (1 - (average_BC * probs_BC.clamp(OUTPUT_FLOOR, 1 - OUTPUT_FLOOR)).sum(dim=1)).log()


def sparse_noise(noise_BF: Tensor, label_BC: Tensor) -> tuple[Tensor, Tensor]:
    """What over-parameterisation adds to the label's probability and takes from the others': u^2 y and v^2 (1 - y).

    Args:
        noise_BF: [B, 1 + C] u and v.
        label_BC: [B, C] given labels y, one-hot.

    Returns:
        Both [B, C] in [0, 1].
    """
    u_B1, v_BC = noise_BF[:, :1], noise_BF[:, 1:]
    return (u_B1**2 * label_BC).clamp(0, 1), (v_BC**2 * (1 - label_BC)).clamp(0, 1)


def over_parameterized(noise_BF: Tensor, label_BC: Tensor, probs_BC: Tensor) -> Tensor:
    """Cross-entropy and squared error of an output that the sample's own noise s = u^2 y - v^2 (1 - y) is added to.

    CE(normalised(p + s), y) + |onehot(argmax p) + s - y|^2; in the first term v is a constant.
    Source: Liu et al., "Robust training under label noise by over-parameterization", 2022, equations 4 to 6 and 9, with
    the floors of the authors' code.

    Args:
        noise_BF: [B, 1 + C] u and v.
        label_BC: [B, C] given labels y, one-hot.
        probs_BC: [B, C] class probabilities p.

    Returns:
        [B] in nats.
    """
    more_BC, less_BC = sparse_noise(noise_BF, label_BC)
    moved_BC = (probs_BC + more_BC - less_BC.detach()).clamp(min=NOISY_FLOOR)
    noisy_BC = (moved_BC / moved_BC.sum(dim=1, keepdim=True)).clamp(min=NOISY_FLOOR)
    # Not one_hot, which looks at the classes.
    whole_BC = torch.zeros_like(probs_BC).scatter_(1, probs_BC.argmax(dim=1, keepdim=True), 1)
    error_B = (whole_BC + more_BC - less_BC - label_BC).square().sum(dim=1)
    return error_B - (label_BC * noisy_BC.log()).sum(dim=1)


def mixup_share(seed: int, step: int, alpha: float) -> float:
    """Share of each row in its mixture with the row before it: Beta(alpha, alpha), one for a whole step.

    Source: Zhang et al., "mixup: Beyond empirical risk minimization", 2018, equation 2.

    Args:
        seed: The run's.
        step: From 0.
        alpha: > 0; small values mix little.

    Returns:
        In [0, 1].
    """
    return float(np.random.default_rng([seed, step]).beta(alpha, alpha))


def mixed(rows: Tensor, share: float) -> Tensor:
    """Each row mixed with the row before it, the first with the last: share x + (1 - share) x'.

    Args:
        rows: [B, ...] floats.
        share: Of the row itself, in [0, 1].
    """
    return share * rows + (1 - share) * torch.roll(rows, 1, dims=0)
