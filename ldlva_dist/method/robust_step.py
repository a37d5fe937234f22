"""One step of a method of others: rows in, loss out. No neighbours, no uncertainty; each is one forward as ours is.

B = rows of one micro-batch, C = classes, F = 1 + C.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ldlva_dist.method import losses, robust_losses
from ldlva_dist.method.step import StepResult, StepSettings, TensorBatch, TensorNeighbors
from ldlva_dist.models.ldlva import ModelOutput, normalize

ROBUST = ("elr", "sop", "gce", "sce", "mixup")
"""Recipes that are trained by it."""


def robust_step(
    model: Callable[..., ModelOutput],
    batch: TensorBatch,
    own: TensorNeighbors | None,
    *,
    settings: StepSettings,
    global_batch_size: int,
    mix_share: float = 1.0,
) -> StepResult:
    """Compute the loss of some rows of a global batch.

    Args:
        model: An ``LDLVA``, or an engine around one.
        batch: The rows; ``mixup`` mixes each with the row before it, ``sop`` needs what the table holds of them.
        own: Each row itself as its one neighbour, for ``elr``: the moving average of its outputs; None for others.
        settings: The method's settings.
        global_batch_size: Rows of the whole step, over all micro-batches and ranks.
        mix_share: Of each row in its mixture, in [0, 1], for ``mixup``.
    """
    mixes = settings.recipe == "mixup"
    images = robust_losses.mixed(normalize(batch.images), mix_share) if mixes else batch.images
    output = model(images)
    label_BC = losses.smoothed_labels(batch.labels_B, settings.num_classes, settings.label_smoothing)
    weight_B = 1.0 if settings.class_weights is None else settings.class_weights[batch.labels_B]
    if mixes:
        label_BC = robust_losses.mixed(label_BC, mix_share)
    noise_BF = None if batch.noise_BF is None else batch.noise_BF.detach().requires_grad_()
    loss_B, kept_BC = _losses(output.logits_BC, label_BC, own, noise_BF, settings)
    total = (weight_B * loss_B).sum()
    loss, no_grad_B = total / global_batch_size, loss_B.new_zeros(len(loss_B))
    return StepResult(
        loss=loss,
        # The backward of the loss comes later, and needs what this one passes.
        logit_grad_B=no_grad_B if noise_BF is None else torch.autograd.grad(total, noise_BF, retain_graph=True)[0],
        probs_BC=kept_BC.detach(),
        features_BV=output.features_BV.detach(),
        center_sums_CV=None,
        center_counts_C=None,
        terms={"loss": loss.detach()},
    )


def _losses(
    logits_BC: Tensor,
    label_BC: Tensor,
    own: TensorNeighbors | None,
    noise_BF: Tensor | None,
    settings: StepSettings,
) -> tuple[Tensor, Tensor]:
    """[B] losses of the rows, and [B, C] what the bank is to keep of them."""
    robust, log_probs_BC = settings.robust, logits_BC.log_softmax(dim=1)
    probs_BC = log_probs_BC.exp()
    if settings.recipe == "gce":
        return robust_losses.generalized_cross_entropy(label_BC, probs_BC, q=robust.gce_q), probs_BC
    if settings.recipe == "sce":
        alpha, beta = robust.sce_alpha, robust.sce_beta
        return robust_losses.symmetric_cross_entropy(label_BC, log_probs_BC, alpha=alpha, beta=beta), probs_BC
    if settings.recipe == "sop":
        assert noise_BF is not None, "sop reads u and v of the rows"
        return robust_losses.over_parameterized(noise_BF, label_BC, probs_BC), probs_BC
    cross_entropy_B = losses.cross_entropy(label_BC, log_probs_BC)
    if settings.recipe == "mixup":
        return cross_entropy_B, probs_BC
    assert settings.recipe == "elr", f"recipe {settings.recipe!r} has a step of its own"
    assert own is not None, "elr reads the moving averages of the rows"
    before_BC = own.probs_BKC[:, 0] * own.usable_BK
    average_BC = robust_losses.moving_average(before_BC, probs_BC, momentum=robust.elr_momentum)
    loss_B = cross_entropy_B + robust.elr_weight * robust_losses.early_learning(average_BC, probs_BC)
    # The bank averages what it is given with what it has; a row that it has not is to become (1 - momentum) p.
    new_BC = robust_losses.moving_average(average_BC * 0, probs_BC, momentum=robust.elr_momentum)
    return loss_B, new_BC.where(~own.usable_BK, new_BC / (1 - robust.elr_momentum))
