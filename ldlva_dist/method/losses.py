"""Cross-entropy against distributions, its gradient in the uncertainty, class weights. B = batch, C = classes."""

import torch
from torch import Tensor

LOG_EPSILON = 1e-10


def log_probabilities(logits_BC: Tensor, *, recipe: str) -> Tensor:
    """Logarithms of the predicted class probabilities.

    Args:
        logits_BC: [B, C] outputs of the classifier, any real numbers.
        recipe: ``official`` gives log(softmax + 1e-10), as the reference code does; any other the exact log-softmax.

    Returns:
        [B, C] log f, at most 1e-10 (``official``) or 0.
    """
    if recipe == "official":
        return (logits_BC.softmax(dim=1) + LOG_EPSILON).log()
    return logits_BC.log_softmax(dim=1)


def cross_entropy(target_BC: Tensor, log_probs_BC: Tensor) -> Tensor:
    """Cross-entropy of each sample against its target distribution: -sum_j d_j log f_j.

    Args:
        target_BC: [B, C] target distributions d; rows sum to 1.
        log_probs_BC: [B, C] logarithms of the predicted probabilities f.

    Returns:
        [B] in nats.
    """
    return -(target_BC * log_probs_BC).sum(dim=1)


def uncertainty_gradient(
    label_BC: Tensor, aggregated_BC: Tensor, log_probs_BC: Tensor, *, uncertainty_B: Tensor, has_neighbor_B: Tensor
) -> Tensor:
    """Gradient of each sample's own loss in its uncertainty logit: lambda (1 - lambda) sum_j (l_j - dt_j) log f_j.

    lambda_i is the sigmoid of the logit. Source: docs/METHOD.md, section 3.

    Args:
        label_BC: [B, C] given labels l, one-hot or smoothed.
        aggregated_BC: [B, C] joint distributions dt of the neighbours.
        log_probs_BC: [B, C] logarithms of the predicted probabilities f.
        uncertainty_B: [B] lambda in (0, 1).
        has_neighbor_B: [B] False where a row has no neighbour that was written.

    Returns:
        [B] d CE_i / d logit_i, without a graph; 0 where a row has no neighbour.
    """
    slope_B = uncertainty_B * (1 - uncertainty_B)
    gradient_B = slope_B * ((label_BC - aggregated_BC) * log_probs_BC).sum(dim=1)
    return torch.where(has_neighbor_B, gradient_B, torch.zeros_like(gradient_B)).detach()


def smoothed_labels(labels_B: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """One-hot labels, of which a share is spread evenly over all classes.

    Args:
        labels_B: [B] class indices, 0..C-1.
        num_classes: C.
        smoothing: Share that is spread, in [0, 1).

    Returns:
        [B, C] float32; rows sum to 1.
    """
    # Not one_hot, which looks at the labels.
    onehot_BC = (labels_B[:, None] == torch.arange(num_classes, device=labels_B.device)).float()
    return onehot_BC * (1 - smoothing) + smoothing / num_classes


def balanced_class_weights(counts_C: Tensor) -> Tensor:
    """Weights under which every class weighs the same in sum: N / (C count).

    Args:
        counts_C: [C] samples of each class, >= 0; N is their sum.

    Returns:
        [C] float64, >= 0; 0 for a class without samples.
    """
    counts_C = counts_C.double()
    weights_C = counts_C.sum() / (len(counts_C) * counts_C.clamp(min=1))
    return torch.where(counts_C > 0, weights_C, torch.zeros_like(weights_C))
