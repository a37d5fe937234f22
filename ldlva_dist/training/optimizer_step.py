"""One optimiser step on one rank's rows: micro-batches through the method, then weights, centres and uncertainty."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist.messages import LABEL, NEVER, Batch, Neighbors
from ldlva_dist.method.centers import update_centers
from ldlva_dist.method.step import StepResult, StepSettings, TensorBatch, TensorNeighbors, step
from ldlva_dist.training.neighbors.exact_neighbors import forward_exact
from ldlva_dist.training.state import TrainState


@dataclass(frozen=True)
class StepOutputs:
    """What a step leaves for bank and log; b = this rank's rows."""

    probs: NDArray[np.float32]
    """[b, C]"""
    features: NDArray[np.float32]
    """[b, V]"""
    terms: dict[str, Tensor]
    """Sums over the rank's rows, divided by the global batch size."""


def optimize(
    state: TrainState,
    batch: Batch,
    neighbors: Neighbors | None,
    *,
    settings: StepSettings,
    lr: float,
    use_neighbors: bool,
) -> StepOutputs:
    """Train on one global batch, of which ``batch`` is this rank's part. Collective.

    Args:
        state: What is trained; its step counter is left to the caller.
        batch: This rank's rows.
        neighbors: Their neighbours; None for the recipe ``ce``.
        settings: The method's settings.
        lr: The network's learning rate in this step.
        use_neighbors: False while the run warms up on the given labels alone.
    """
    training = state.config.training
    images, neighbors_ = to_tensors(state, batch, neighbors)
    results: list[StepResult] = []
    # DeepSpeed averages over ranks and micro-batches; the losses are shares of the global batch's, so they add up.
    scale = dist.get_world_size() * training.gradient_accumulation_steps
    for rows in np.array_split(np.arange(len(batch.ids)), training.gradient_accumulation_steps):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        near = neighbors_ and neighbors_[part]
        if near and state.config.neighbors.source == "exact":
            near = forward_exact(state.engine, near, settings, state.engine.module.feature_width)
        result = step(
            state.engine,
            images[part],
            near,
            settings=settings,
            global_batch_size=state.config.data.batch_size,
            use_neighbors=use_neighbors,
        )
        state.engine.backward(result.loss * scale)
        state.engine.step(lr)
        results.append(result)
    if settings.recipe == "official":
        _move_centers(state, results)
    if state.table and use_neighbors:
        gradients = torch.cat([result.logit_grad_B for result in results])
        state.table.apply(batch.ids, gradients.cpu().numpy())
    return StepOutputs(
        probs=torch.cat([result.probs_BC for result in results]).cpu().numpy(),
        features=torch.cat([result.features_BV for result in results]).cpu().numpy(),
        terms={key: torch.stack([result.terms[key] for result in results]).sum() for key in results[0].terms},
    )


def to_tensors(
    state: TrainState, batch: Batch, neighbors: Neighbors | None
) -> tuple[TensorBatch, TensorNeighbors | None]:
    """Put a batch and its neighbours on the device, with the logits of both read from the table. Collective."""
    device, rows = state.engine.device, len(batch.ids)
    ids = batch.ids if neighbors is None else np.concatenate([batch.ids, neighbors.ids.ravel()])
    logits = torch.from_numpy(state.table.read(ids) if state.table else np.zeros(rows, np.float32)).to(device)
    tensors = TensorBatch(
        images=_tensor(batch.images, device),
        labels_B=_tensor(batch.labels, device),
        va_B2=_tensor(batch.va, device),
        logit_B=logits[:rows],
    )
    if neighbors is None:
        return tensors, None
    return tensors, TensorNeighbors(
        va_BK2=_tensor(neighbors.va, device),
        labels_BK=_tensor(neighbors.labels, device),
        probs_BKC=_tensor(neighbors.probs, device).float(),
        features_BKV=_tensor(neighbors.features, device).float(),
        usable_BK=_tensor(neighbors.versions != NEVER, device),
        label_only_BK=_tensor(neighbors.versions == LABEL, device),
        logit_BK=logits[rows:].view(neighbors.ids.shape),
        images=None if neighbors.images is None else _tensor(neighbors.images, device),
    )


def _tensor(array: NDArray, device: torch.device) -> Tensor:
    """Arrays from the object store are read-only; torch wants to be told that nobody writes."""
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device, non_blocking=True)


def _move_centers(state: TrainState, results: list[StepResult]) -> None:
    """The official recipe's centres: one update per step, from sums over all ranks and micro-batches."""
    sums_CV = torch.stack([result.center_sums_CV for result in results if result.center_sums_CV is not None]).sum(dim=0)
    counts_C = torch.stack([r.center_counts_C for r in results if r.center_counts_C is not None]).sum(dim=0)
    if dist.get_world_size() > 1:
        dist.all_reduce(sums_CV)
        dist.all_reduce(counts_C)
    update_centers(state.engine.module.centers, sums_CV, counts_C, rate=state.config.loss.center_rate)
