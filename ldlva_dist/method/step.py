"""One step of the method: rows and their neighbours in, loss and everything else that moves out.

Pure torch, no collectives: losses, sums and counts of micro-batches and ranks add up to the global batch's.
B = rows of one micro-batch, K = neighbours, C = classes, V = feature width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist.method import centers, losses, targets
from ldlva_dist.method.robust_losses import RobustSettings
from ldlva_dist.method.similarity import log_similarity
from ldlva_dist.models.ldlva import ModelOutput


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """The method's settings; see LossConfig."""

    recipe: str
    num_classes: int
    gamma: float = 0.01
    kernel_width: float = 0.5
    calibration_floor: float | None = None
    reference_k: int = 8
    label_smoothing: float = 0.0
    detach_uncertainty: bool = True
    class_weights: Tensor | None = None
    """[C]"""
    robust: RobustSettings = field(default_factory=RobustSettings)
    own_weight: float = 0.5
    """posterior: share of the sample's own outputs in what is believed of it before its label is seen."""


@dataclass(frozen=True, kw_only=True)
class TensorBatch:
    """Rows to train on."""

    images: Tensor
    """uint8 [B, H, W, channels]"""
    labels_B: Tensor
    va_B2: Tensor
    logit_B: Tensor
    """Uncertainty logits; their sigmoid is the weight of the neighbours."""
    noise_BF: Tensor | None = None
    """[B, 1 + C] for ``sop`` only: what the table holds of the rows, u and v."""

    def __getitem__(self, rows: slice) -> "TensorBatch":
        there = [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]
        return TensorBatch(**{name: getattr(self, name)[rows] for name in there})


@dataclass(frozen=True, kw_only=True)
class TensorNeighbors:
    """Their neighbours; constants all."""

    va_BK2: Tensor
    labels_BK: Tensor
    probs_BKC: Tensor
    features_BKV: Tensor
    usable_BK: Tensor
    """False where there are no probabilities."""
    logit_BK: Tensor
    """Uncertainty logits of the neighbours' own labels."""
    label_only_BK: Tensor | None = None
    """True where the probabilities are the neighbour's own smoothed label, and there are no features; None: nowhere.
    Such a neighbour's similarity counts alone (the calibration logit is 0), and it moves no centre."""
    images: Tensor | None = None
    """uint8 [B, K, H, W, channels], for the exact source only."""
    readable: NDArray[np.bool_] | None = None
    """[B, K] whose images could be read, as the host knows it; the same as ``usable_BK``."""

    @property
    def has_features_BK(self) -> Tensor:
        """Whose outputs the network gave."""
        return self.usable_BK if self.label_only_BK is None else self.usable_BK & ~self.label_only_BK

    def __getitem__(self, rows: slice | tuple[slice | list[int], ...]) -> "TensorNeighbors":
        there = [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]
        return TensorNeighbors(**{name: getattr(self, name)[rows] for name in there})


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step gives."""

    loss: Tensor
    """These rows' share of the global batch's loss."""
    logit_grad_B: Tensor
    """d(weighted cross-entropy of the row) / d(its uncertainty logit); of the row's own loss, not of a mean.
    For ``sop`` [B, 1 + C]: d(weighted loss of the row) / d(its u and v)."""
    probs_BC: Tensor
    features_BV: Tensor
    center_sums_CV: Tensor | None
    """official: what rows and neighbours ask of the centres, from before the step."""
    center_counts_C: Tensor | None
    joint_sums_CC: Tensor | None = None
    """posterior: the rows' label posteriors, added up by given label (columns)."""
    terms: dict[str, Tensor]
    """Shares of the global batch's means, for the log."""


def step(
    model: Callable[..., ModelOutput],
    batch: TensorBatch,
    neighbors: TensorNeighbors | None,
    *,
    settings: StepSettings,
    global_batch_size: int,
    use_neighbors: bool = True,
) -> StepResult:
    """Compute the loss of some rows of a global batch.

    Args:
        model: An ``LDLVA``, or an engine around one.
        batch: The rows.
        neighbors: Their neighbours; None for recipe ``ce``.
        settings: The method's settings.
        global_batch_size: Rows of the whole step, over all micro-batches and ranks.
        use_neighbors: False trains on the given labels alone and leaves the uncertainty as it is (warm-up).
    """
    if neighbors is not None and not use_neighbors:
        neighbors = replace(neighbors, usable_BK=torch.zeros_like(neighbors.usable_BK))
    output = (
        model(batch.images)
        if neighbors is None
        else model(batch.images, neighbors.features_BKV, neighbors.has_features_BK)
    )
    uncertainty_B = batch.logit_B.sigmoid()
    ce_B, logit_grad_B = _classification(output, batch, neighbors, uncertainty_B, settings)
    terms = {"cross_entropy": ce_B.sum() / global_batch_size}
    loss, sums_CV, counts_C = terms["cross_entropy"], None, None
    if settings.recipe != "ce":
        centers_CV = output.centers_CV
        assert centers_CV is not None, f"the model has no centres for recipe {settings.recipe!r}"
        official = settings.recipe == "official"
        features_nV, labels_n, uncertainty_n, counts_n = _members(
            output.features_BV, batch, neighbors if official else None
        )
        distance_n = centers.intra_distances(features_nV, labels_n, centers_CV)
        divisor = 1 + settings.reference_k if official else 1
        terms["uncertainty_mean"] = uncertainty_B.sum() / global_batch_size
        terms["intra"] = 0.5 * ((1 - uncertainty_n) * distance_n).sum() / divisor / global_batch_size
        if neighbors is not None and not settings.detach_uncertainty:  # drives every uncertainty to 1
            slope_B = (uncertainty_B * (1 - uncertainty_B)).detach() * neighbors.usable_BK.any(dim=1)
            own_B = distance_n[: len(slope_B)].detach()
            logit_grad_B = logit_grad_B - settings.gamma * 0.5 / divisor * slope_B * own_B
        if official:
            sums_CV, counts_C = centers.center_sums(
                features_nV.detach(), labels_n, uncertainty_n, centers_CV, counts_n=counts_n
            )
            loss = loss + settings.gamma * terms["intra"]
        else:
            terms["inter"] = centers.inter_paper(centers_CV) * len(batch.labels_B) / global_batch_size
            loss = loss + settings.gamma * (terms["intra"] + terms["inter"])
    return StepResult(
        loss=loss,
        logit_grad_B=logit_grad_B,
        probs_BC=output.logits_BC.detach().softmax(dim=1),
        features_BV=output.features_BV.detach(),
        center_sums_CV=sums_CV,
        center_counts_C=counts_C,
        terms={"loss": loss.detach()} | {name: value.detach() for name, value in terms.items()},
    )


@torch.no_grad()
def forward_neighbors(model: Callable[..., ModelOutput], images: Tensor) -> tuple[Tensor, Tensor]:
    """Fresh outputs for images of neighbours, in the model's mode, without gradient.

    Must be called before the batch's own step.

    Args:
        model: The network.
        images: [n, ...] as the network takes them.

    Returns:
        Class probabilities [n, C] and features [n, V].
    """
    output = model(images)
    return output.logits_BC.softmax(dim=1), output.features_BV


def _classification(
    output: ModelOutput,
    batch: TensorBatch,
    neighbors: TensorNeighbors | None,
    uncertainty_B: Tensor,
    settings: StepSettings,
) -> tuple[Tensor, Tensor]:
    """[B] weighted cross-entropies against the targets, and their gradients in the uncertainty logits.

    The target is not detached: its gradient flows into the calibration network, and through that into the backbone.
    """
    log_probs_BC = losses.log_probabilities(output.logits_BC, recipe=settings.recipe)
    label_BC = losses.smoothed_labels(batch.labels_B, settings.num_classes, settings.label_smoothing)
    weight_B = 1.0 if settings.class_weights is None else settings.class_weights[batch.labels_B]
    if neighbors is None or output.calibration_BK is None:
        return weight_B * losses.cross_entropy(label_BC, log_probs_BC), torch.zeros_like(uncertainty_B)
    shares_BK = targets.contribution_shares(
        log_similarity(batch.va_B2, neighbors.va_BK2, width=settings.kernel_width, recipe=settings.recipe),
        output.calibration_BK,
        neighbors.usable_BK,
        recipe=settings.recipe,
        floor=settings.calibration_floor,
    )
    aggregated_BC = targets.aggregate(shares_BK, neighbors.probs_BKC)
    has_neighbor_B = neighbors.usable_BK.any(dim=1)
    target_BC = targets.target_distribution(label_BC, aggregated_BC, uncertainty_B, has_neighbor_B)
    gradient_B = losses.uncertainty_gradient(
        label_BC, aggregated_BC, log_probs_BC, uncertainty_B=uncertainty_B, has_neighbor_B=has_neighbor_B
    )
    return weight_B * losses.cross_entropy(target_BC, log_probs_BC), weight_B * gradient_B


def _members(
    features_BV: Tensor, batch: TensorBatch, neighbors: TensorNeighbors | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Rows, and their neighbours: features [n, V], labels [n], uncertainties [n], and which count [n]; None: all.

    Those that do not count are in full doubt, and their features are zeros: they add nothing.
    """
    if neighbors is None:
        return features_BV, batch.labels_B, batch.logit_B.sigmoid(), None
    known_BK = neighbors.has_features_BK
    counts_n = torch.cat([known_BK.new_ones(len(features_BV)), known_BK.flatten()])
    logit_n = torch.cat([batch.logit_B, neighbors.logit_BK.flatten()])
    return (
        torch.cat([features_BV, neighbors.features_BKV.where(known_BK[..., None], 0).flatten(0, 1)]),
        torch.cat([batch.labels_B, neighbors.labels_BK.flatten()]),
        logit_n.sigmoid().where(counts_n, 1),
        counts_n,
    )
