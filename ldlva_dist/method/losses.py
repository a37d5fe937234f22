"""Cross-entropy against distributions, its gradient in the uncertainty, class weights. B = batch, C = classes."""

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_EPSILON = 1e-10


def log_probabilities(logits_BC: Tensor, *, recipe: str) -> Tensor:
    """[B, C] log f: log(softmax + 1e-10) as the reference has it (``official``), log-softmax otherwise."""
    if recipe == "official":
        return (logits_BC.softmax(dim=1) + LOG_EPSILON).log()
    return logits_BC.log_softmax(dim=1)


def cross_entropy(target_BC: Tensor, log_probs_BC: Tensor) -> Tensor:
    """[B] -sum_j d_j log f_j."""
    return -(target_BC * log_probs_BC).sum(dim=1)


def uncertainty_gradient(
    label_BC: Tensor, aggregated_BC: Tensor, log_probs_BC: Tensor, *, uncertainty_B: Tensor, has_neighbor_B: Tensor
) -> Tensor:
    """[B] d CE_i / d logit_i of each sample's own loss, in closed form, where lambda_i = sigmoid(logit_i).

    lambda (1 - lambda) sum_j (l_j - dt_j) log f_j (METHOD.md, section 3); 0 where a row has no neighbour.
    """
    slope_B = uncertainty_B * (1 - uncertainty_B)
    gradient_B = slope_B * ((label_BC - aggregated_BC) * log_probs_BC).sum(dim=1)
    return torch.where(has_neighbor_B, gradient_B, torch.zeros_like(gradient_B)).detach()


def smoothed_labels(labels_B: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """[B, C] one-hot labels, of which the share ``smoothing`` is spread over all classes."""
    onehot_BC = F.one_hot(labels_B, num_classes).float()
    return onehot_BC * (1 - smoothing) + smoothing / num_classes


def balanced_class_weights(counts_C: Tensor) -> Tensor:
    """[C] N / (C count): each class weighs the same in sum. A class with no sample weighs 0."""
    counts_C = counts_C.double()
    weights_C = counts_C.sum() / (len(counts_C) * counts_C.clamp(min=1))
    return torch.where(counts_C > 0, weights_C, torch.zeros_like(weights_C))
