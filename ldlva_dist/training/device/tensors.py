"""A batch and its neighbours as tensors on the device."""

from dataclasses import replace

import torch
from torch import Tensor

from ldlva_dist.messages import LABEL, NEVER, Batch, Neighbors
from ldlva_dist.method.step import TensorBatch, TensorNeighbors
from ldlva_dist.training.device.copies import DeviceCopies


def batch_tensors(batch: Batch, copies: DeviceCopies) -> TensorBatch:
    """A batch on the device; all its uncertainty logits are 0 until the table's are known."""
    return TensorBatch(
        images=copies.inward(batch.images),
        labels_B=copies.inward(batch.labels),
        va_B2=copies.inward(batch.va),
        logit_B=torch.zeros(len(batch.ids), device=copies.device),
    )


def neighbor_tensors(neighbors: Neighbors, copies: DeviceCopies) -> TensorNeighbors:
    """The neighbours of a batch on the device; all their uncertainty logits are 0 until the table's are known."""
    return TensorNeighbors(
        va_BK2=copies.inward(neighbors.va),
        labels_BK=copies.inward(neighbors.labels),
        probs_BKC=copies.inward(neighbors.probs).float(),
        features_BKV=copies.inward(neighbors.features).float(),
        usable_BK=copies.inward(neighbors.versions != NEVER),
        label_only_BK=copies.inward(neighbors.versions == LABEL),
        logit_BK=torch.zeros(neighbors.ids.shape, device=copies.device),
        images=None if neighbors.images is None else copies.inward(neighbors.images),
        readable=None if neighbors.images is None else neighbors.versions != NEVER,
    )


def with_logits(
    rows: TensorBatch, near: TensorNeighbors | None, logits: Tensor, copies: DeviceCopies
) -> tuple[TensorBatch, TensorNeighbors | None]:
    """Both with what the table says: logits of the batch and then of its neighbours, or the batch's noise [B, F]."""
    number, there = len(rows.labels_B), copies.inward(logits)
    if there.ndim > 1:
        return replace(rows, noise_BF=there), near
    rows = replace(rows, logit_B=there[:number])
    return rows, near and replace(near, logit_BK=there[number:].view(near.labels_BK.shape))
