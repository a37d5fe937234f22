"""The label posterior: a sample's true class, by its label, its neighbours' labels and the network's own outputs.

Given labels are taken as observations of true classes through a noise matrix, which is estimated while the network is
trained (expectation maximisation, as Dawid and Skene, 1979, do for raters).
B = rows of one micro-batch, K = neighbours, C = classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ldlva_dist.method import losses, targets
from ldlva_dist.method.similarity import log_similarity
from ldlva_dist.method.step import StepResult, StepSettings, TensorBatch, TensorNeighbors
from ldlva_dist.models.ldlva import ModelOutput, noise_joint

BELIEF_FLOOR = 1e-3
"""Least probability of a class before the label is seen: the network's word alone makes no class impossible."""
RIGHT_MARGIN = 1e-4
"""A label's probability is kept so far from 0 and 1 where its log odds are taken."""
ROUNDS = 8
"""With 32 to 64 neighbours the share of wrong labels is found to .05 on FER+ with flips (docs/decisions.md)."""
FIRST_RATE, MOST_PASSES, SETTLED = 0.2, 100, 1e-4
"""A fit begins with this share of wrong labels, and ends once a pass moves it by less."""


class LabelNoise(NamedTuple):
    """How classes are labelled."""

    prior_C: Tensor
    """P(true class)."""
    likelihood_CC: Tensor
    """P(given label | true class), rows are true classes."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What tells the true classes of some rows."""

    labels_B: Tensor
    """Given labels."""
    near_BC: Tensor
    """Shares of the classes in the neighbours' labels, see :func:`shares_of_labels`."""
    own_BC: Tensor
    """What the network said of the rows."""
    own_weight_B: Tensor
    """In [0, 1]: what that counts against the neighbours; 0 where the network has said nothing yet."""


class Posteriors(NamedTuple):
    """Distributions [B, C] over the true classes of some rows."""

    by_labels_BC: Tensor
    """By their own and their neighbours' labels alone."""
    target_BC: Tensor
    """By everything: what is trained on."""


def label_noise(joint_CC: Tensor) -> LabelNoise:
    """What a joint table says of classes and labels, where a wrong label is any other class alike.

    One share of wrong labels for all classes: what neighbours say of single pairs of classes is mostly where classes
    meet, and not what is taken for what (docs/decisions.md).

    Args:
        joint_CC: [C, C] joint probabilities of true (rows) and given class; all > 0.
    """
    num_classes, rate = len(joint_CC), 1 - joint_CC.diagonal().sum()
    off_CC = 1 - torch.eye(num_classes, dtype=joint_CC.dtype, device=joint_CC.device)
    return LabelNoise(joint_CC.sum(dim=1), (rate / (num_classes - 1)) * off_CC + (1 - rate) * (1 - off_CC))


def shares_of_labels(labels_BK: Tensor, shares_BK: Tensor, num_classes: int) -> Tensor:
    """How much each class has of the neighbours' labels.

    Args:
        labels_BK: [B, K] given labels of the neighbours.
        shares_BK: [B, K] what each counts; rows sum to 1, or to 0 where nothing counts.
        num_classes: C.

    Returns:
        [B, C] rows that sum to 1, or to 0 where nothing counts.
    """
    return shares_BK.new_zeros(len(labels_BK), num_classes).scatter_add_(1, labels_BK, shares_BK)


def local_classes(near_BC: Tensor, noise: LabelNoise) -> Tensor:
    """Distribution of the true classes around each sample, by the labels of its neighbours.

    Expectation maximisation for the weights of a mixture whose components, what a class is labelled as, are known; it
    begins with the classes of all samples. Few rounds hold it near them; many would take all noise for classes.

    Args:
        near_BC: [B, C] shares of the classes in the neighbours' labels; zeros where there are none.
        noise: How classes are labelled.

    Returns:
        [B, C] rows that sum to 1; the classes of all samples where there are no neighbours.
    """
    prior_C, likelihood_CC = noise
    # Where nothing was seen, what is expected: the classes of all samples then stay as they are.
    seen_BC = torch.where(near_BC.any(dim=1, keepdim=True), near_BC, prior_C @ likelihood_CC)
    classes_BC = prior_C.expand_as(seen_BC)
    for _ in range(ROUNDS):
        classes_BC = classes_BC * ((seen_BC / (classes_BC @ likelihood_CC)) @ likelihood_CC.T)
    return classes_BC


def pooled_belief(own_BC: Tensor, near_BC: Tensor, own_weight_B: Tensor) -> Tensor:
    """Logarithmic opinion pool of two distributions, not normalised: w log own + (1 - w) log near.

    Args:
        own_BC: [B, C] what the network said of the samples.
        near_BC: [B, C] what their neighbours are.
        own_weight_B: [B] w in [0, 1]; 0 where the network has said nothing yet.

    Returns:
        [B, C] logarithms.
    """
    own_B1 = own_weight_B[:, None]
    return own_B1 * own_BC.clamp(min=BELIEF_FLOOR).log() + (1 - own_B1) * near_BC.clamp(min=BELIEF_FLOOR).log()


def label_posterior(log_belief_BC: Tensor, labels_B: Tensor, noise: LabelNoise) -> Tensor:
    """Bayes' rule: P(true class | label), proportional to belief x P(label | true class).

    Args:
        log_belief_BC: [B, C] logarithms of what is believed before the label is seen, up to a constant of each row.
        labels_B: [B] given labels.
        noise: How classes are labelled.

    Returns:
        [B, C] rows that sum to 1.
    """
    return (log_belief_BC + noise.likelihood_CC[:, labels_B].T.log()).softmax(dim=1)


def judge_by_labels(near_BC: Tensor, labels_B: Tensor, noise: LabelNoise) -> tuple[Tensor, Tensor]:
    """What the rows' true classes are by labels alone.

    Args:
        near_BC: [B, C] shares of the classes in the neighbours' labels; zeros where there are none.
        labels_B: [B] given labels.
        noise: How classes are labelled.

    Returns:
        [B, C] by the neighbours' labels, and [B, C] by those and the rows' own; rows sum to 1.
    """
    around_BC = local_classes(near_BC, noise)
    return around_BC, label_posterior(around_BC.clamp(min=BELIEF_FLOOR).log(), labels_B, noise)


def judge_labels(evidence: Evidence, joint_CC: Tensor) -> Posteriors:
    """What the rows' true classes are, by less and by more of what there is to tell.

    Args:
        evidence: What there is.
        joint_CC: [C, C] joint probabilities of true (rows) and given class; all > 0.
    """
    noise, labels_B = label_noise(joint_CC), evidence.labels_B
    around_BC, by_labels_BC = judge_by_labels(evidence.near_BC, labels_B, noise)
    belief_BC = pooled_belief(evidence.own_BC, around_BC, evidence.own_weight_B)
    return Posteriors(by_labels_BC, label_posterior(belief_BC, labels_B, noise))


def count_by_label(by_labels_BC: Tensor, near_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Posteriors of rows with neighbours, added up by given label.

    By the labels alone, not by the network's own outputs: it learns labels by heart, and would find ever fewer wrong.

    Args:
        by_labels_BC: [B, C] what the rows' true classes are.
        near_BC: [B, C] shares of the classes in the neighbours' labels; zeros where there are none.
        labels_B: [B] given labels.

    Returns:
        [C, C] columns are given labels.
    """
    found_BC = by_labels_BC * near_BC.any(dim=1, keepdim=True)
    counts_CC = found_BC.new_zeros(found_BC.shape[1], found_BC.shape[1])
    return counts_CC.index_add_(1, labels_B, found_BC.T)


def fit_joint(near_NC: Tensor, labels_N: Tensor) -> Tensor:
    """The joint probabilities of true and given class that explain labels best by those of their neighbours.

    Expectation maximisation over all samples at once: what ``move_joint`` comes to while a network is trained.

    Args:
        near_NC: [N, C] shares of the classes in the neighbours' labels; zeros where there are none.
        labels_N: [N] given labels.

    Returns:
        [C, C] rows are true classes; the sum is 1.
    """
    joint_CC = noise_joint(near_NC.shape[1], FIRST_RATE)
    for _ in range(MOST_PASSES):
        before = joint_CC.trace().item()
        _, by_labels_NC = judge_by_labels(near_NC, labels_N, label_noise(joint_CC))
        move_joint(joint_CC, count_by_label(by_labels_NC, near_NC, labels_N), share=1.0)
        if abs(joint_CC.trace().item() - before) < SETTLED:
            break
    return joint_CC


def move_joint(joint_CC: Tensor, counts_CC: Tensor, *, share: float) -> None:
    """Move the joint probabilities of true and given class, in place, towards what a step's rows were found to be.

    Args:
        joint_CC: [C, C] their sum is 1.
        counts_CC: [C, C] posteriors of the step's rows by their neighbours alone, added up by given label (columns);
            zeros leave all as it is.
        share: How far, in (0, 1]: rows of a step over those of an epoch, so that they follow the last epoch or so.
    """
    total = counts_CC.sum()
    joint_CC.add_(share * (counts_CC - total * joint_CC) / total.clamp(min=1.0))


def posterior_step(  # noqa: PLR0913 - what every step is given, and the noise matrix
    model: Callable[..., ModelOutput],
    batch: TensorBatch,
    neighbors: TensorNeighbors,
    *,
    joint_CC: Tensor,
    settings: StepSettings,
    global_batch_size: int,
    use_neighbors: bool = True,
) -> StepResult:
    """Compute the loss of some rows of a global batch: cross-entropy against their label posteriors.

    The uncertainty logits are drawn towards the log odds of a wrong label: their gradient is the difference.

    Args:
        model: An ``LDLVA``, or an engine around one.
        batch: The rows.
        neighbors: Their neighbours, and as the last one each row itself.
        joint_CC: [C, C] joint probabilities of true and given class so far; a constant.
        settings: The method's settings.
        global_batch_size: Rows of the whole step, over all micro-batches and ranks.
        use_neighbors: False trains on the given labels alone and leaves the uncertainty as it is (warm-up).
    """
    output = model(batch.images)
    log_probs_BC = losses.log_probabilities(output.logits_BC, recipe=settings.recipe)
    weight_B = 1.0 if settings.class_weights is None else settings.class_weights[batch.labels_B]
    evidence = _evidence(batch, neighbors, settings)
    posteriors = judge_labels(evidence, joint_CC)
    label_BC = losses.smoothed_labels(batch.labels_B, settings.num_classes, settings.label_smoothing)
    target_BC = posteriors.target_BC if use_neighbors else label_BC
    loss = (weight_B * losses.cross_entropy(target_BC, log_probs_BC)).sum() / global_batch_size
    right_B = posteriors.target_BC.gather(1, batch.labels_B[:, None])[:, 0]
    return StepResult(
        loss=loss,
        logit_grad_B=(batch.logit_B + torch.logit(right_B, eps=RIGHT_MARGIN)) * use_neighbors,
        probs_BC=log_probs_BC.detach().exp(),
        features_BV=output.features_BV.detach(),
        center_sums_CV=None,
        center_counts_C=None,
        joint_sums_CC=count_by_label(posteriors.by_labels_BC, evidence.near_BC, batch.labels_B),
        terms={
            "loss": loss.detach(),
            "uncertainty_mean": batch.logit_B.sigmoid().sum() / global_batch_size,
        },
    )


def _evidence(batch: TensorBatch, neighbors: TensorNeighbors, settings: StepSettings) -> Evidence:
    """What a step reads of its rows: as the last of their neighbours stands each row itself.

    Rows that were never trained on have no label here: those of a fold are not to be known.
    """
    usable_BK = neighbors.usable_BK[:, :-1]
    shares_BK = targets.contribution_shares(
        log_similarity(batch.va_B2, neighbors.va_BK2[:, :-1], width=settings.kernel_width, recipe=settings.recipe),
        torch.zeros_like(usable_BK, dtype=torch.float32),
        usable_BK,
        recipe=settings.recipe,
    )
    return Evidence(
        labels_B=batch.labels_B,
        near_BC=shares_of_labels(neighbors.labels_BK[:, :-1], shares_BK, settings.num_classes),
        own_BC=neighbors.probs_BKC[:, -1],
        own_weight_B=settings.own_weight * neighbors.usable_BK[:, -1],
    )
