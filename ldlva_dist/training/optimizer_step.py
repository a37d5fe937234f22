"""One optimiser step on one rank's rows: micro-batches through the method, then weights, centres and uncertainty."""

import warnings
from dataclasses import dataclass
from itertools import accumulate

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

# Arrays of Ray's object store are read-only, and torch would say so; set once, as filters are the whole process's.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


@dataclass(frozen=True)
class StepOutputs:
    """What a step leaves for bank and log; b = this rank's rows."""

    probs: NDArray[np.float32]
    """[b, C]"""
    features: NDArray[np.float32]
    """[b, V]"""
    logit_grads: Tensor
    """[b] gradients of the rows' own losses in their uncertainty logits, on the CPU."""
    terms: dict[str, Tensor]
    """Sums over the rank's rows, divided by the global batch size."""


def optimize(
    state: TrainState,
    batch: TensorBatch,
    neighbors: TensorNeighbors | None,
    *,
    settings: StepSettings,
    lr: float,
    use_neighbors: bool,
) -> StepOutputs:
    """Train network and centres on one global batch, of which ``batch`` is this rank's part. Collective.

    Args:
        state: What is trained; its step counter and its table are left to the caller.
        batch: This rank's rows.
        neighbors: Their neighbours; None for the recipe ``ce``.
        settings: The method's settings.
        lr: The network's learning rate in this step.
        use_neighbors: False while the run warms up on the given labels alone.
    """
    config, engine = state.config, state.engine
    num_parts = config.training.gradient_accumulation_steps
    results: list[StepResult] = []
    centers = None
    # DeepSpeed averages over ranks and micro-batches; the losses are shares of the global batch's, so they add up.
    scale = dist.get_world_size() * num_parts
    for part in _micro_batches(len(batch.labels_B), num_parts):
        near = neighbors and neighbors[part]
        if near and config.neighbors.source == "exact":
            near = forward_exact(engine, near, settings, engine.module.feature_width)
        result = step(
            engine,
            batch[part],
            near,
            settings=settings,
            global_batch_size=config.data.batch_size,
            use_neighbors=use_neighbors,
        )
        results.append(result)
        if settings.recipe == "official" and len(results) == num_parts:
            centers = CenterSums(results)
        engine.backward(result.loss * scale)
        engine.step(lr)
    if centers:
        centers.move(engine.module.centers, rate=config.loss.center_rate)
    return StepOutputs(
        probs=torch.cat([result.probs_BC for result in results]).cpu().numpy(),
        features=torch.cat([result.features_BV for result in results]).cpu().numpy(),
        logit_grads=torch.cat([result.logit_grad_B for result in results]).cpu(),
        terms={key: torch.stack([result.terms[key] for result in results]).sum() for key in results[0].terms},
    )


def to_tensors(
    batch: Batch, neighbors: Neighbors | None, logits: Tensor | None, device: torch.device
) -> tuple[TensorBatch, TensorNeighbors | None]:
    """Put a batch and its neighbours on the device, with the logits of both, one after the other; None: all are 0."""
    rows = len(batch.ids)
    logits = torch.zeros(rows, device=device) if logits is None else logits.to(device)
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


class CenterSums:
    """What rows and neighbours of one step ask of the official recipe's centres, over all ranks and micro-batches.

    They are known after the forward and needed after the optimiser's step: the ranks add them up meanwhile.
    """

    def __init__(self, results: list[StepResult]) -> None:
        """Begin to add up. Collective."""
        sums_CV = torch.stack([result.center_sums_CV for result in results if result.center_sums_CV is not None])
        counts_C = torch.stack([r.center_counts_C for r in results if r.center_counts_C is not None])
        self._sums_CV1 = torch.cat([sums_CV.sum(dim=0), counts_C.sum(dim=0)[:, None]], dim=1)
        several = dist.get_world_size() > 1
        self._under_way = dist.all_reduce(self._sums_CV1, async_op=True) if several else None

    def move(self, centers_CV: Tensor, *, rate: float) -> None:
        """Move the centres, in place."""
        if self._under_way:
            self._under_way.wait()
        update_centers(centers_CV, self._sums_CV1[:, :-1], self._sums_CV1[:, -1], rate=rate)


def _micro_batches(num_rows: int, num_parts: int) -> list[slice]:
    """Consecutive rows, the first parts one longer where it must be."""
    sizes = [num_rows // num_parts + (part < num_rows % num_parts) for part in range(num_parts)]
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _tensor(array: NDArray, device: torch.device) -> Tensor:
    """The same memory where it can be: arrays of the object store are read-only, and nobody writes to a batch."""
    return torch.from_numpy(array).to(device, non_blocking=True)
