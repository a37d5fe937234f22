"""One optimiser step on one rank's rows: micro-batches through the method, then weights, centres and uncertainty."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from ldlva_dist.method.centers import update_centers
from ldlva_dist.method.robust_losses import mixup_share
from ldlva_dist.method.robust_step import ROBUST, robust_step
from ldlva_dist.method.step import StepResult, StepSettings, TensorBatch, TensorNeighbors, step
from ldlva_dist.training.device.copies import DeviceCopies
from ldlva_dist.training.neighbors.exact_neighbors import forward_exact
from ldlva_dist.training.state import TrainState


@dataclass(frozen=True)
class StepOutputs:
    """What a step leaves for bank and log; b = this rank's rows."""

    probs: Tensor
    """[b, C] where the bank is: on the CPU for actors, else on the device."""
    features: Tensor
    """[b, V] likewise."""
    logit_grads: Tensor
    """[b], or [b, F] for ``sop``: gradients of the rows' own losses in what the table holds of them, on the CPU."""
    terms: dict[str, Tensor]
    """Scalars on the CPU: sums over the rank's rows, divided by the global batch size."""


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

    Outputs are known after the forward: on a GPU the host gets them while backward and optimiser still run.

    Args:
        state: What is trained; its step counter and its table are left to the caller.
        batch: This rank's rows.
        neighbors: Their neighbours, for ``elr`` themselves; None where the bank is not read.
        settings: The method's settings.
        lr: The network's learning rate in this step.
        use_neighbors: False while the run warms up on the given labels alone.
    """
    config, engine = state.config, state.engine
    num_parts = config.training.gradient_accumulation_steps
    results: list[StepResult] = []
    coming: list[Callable[[], dict[str, Tensor]]] = []
    centers = None
    # DeepSpeed averages over ranks and micro-batches; the losses are shares of the global batch's, so they add up.
    scale = dist.get_world_size() * num_parts
    for part in _micro_batches(len(batch.labels_B), num_parts):
        near = neighbors and neighbors[part]
        if near and config.reads_images:
            near = forward_exact(engine, near, settings, engine.module.feature_width)
        result = (
            robust_step(
                engine,
                batch[part],
                near,
                settings=settings,
                global_batch_size=config.data.batch_size,
                mix_share=mixup_share(config.training.seed, state.step, settings.robust.mixup_alpha),
            )
            if settings.recipe in ROBUST
            else step(
                engine,
                batch[part],
                near,
                settings=settings,
                global_batch_size=config.data.batch_size,
                use_neighbors=use_neighbors,
            )
        )
        results.append(result)
        coming.append(_bring_out(result, engine.copies, stays=config.bank_stays))
        if settings.recipe == "official" and len(results) == num_parts:
            centers = CenterSums(results)
        engine.backward(result.loss * scale)
        engine.step(lr)
    if centers:
        centers.move(engine.module.centers, rate=config.loss.center_rate)
    there = [wait() for wait in coming]
    terms_T = torch.stack([part["terms"] for part in there]).sum(dim=0)
    return StepOutputs(
        probs=_joined([part["probs"] for part in there]),
        features=_joined([part["features"] for part in there]),
        logit_grads=_joined([part["logit_grads"] for part in there]),
        terms=dict(zip(results[0].terms, terms_T, strict=True)),
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


def _bring_out(result: StepResult, copies: DeviceCopies, *, stays: bool) -> Callable[[], dict[str, Tensor]]:
    """Begin to bring to the host what is wanted there; with ``stays`` the bank takes its part where it is."""
    bank = {"probs": result.probs_BC, "features": result.features_BV}
    host = {"logit_grads": result.logit_grad_B, "terms": torch.stack(list(result.terms.values()))}
    there = copies.outward(host if stays else host | bank)
    return lambda: bank | there()


def _micro_batches(num_rows: int, num_parts: int) -> list[slice]:
    """Consecutive rows, the first parts one longer where it must be."""
    sizes = [num_rows // num_parts + (part < num_rows % num_parts) for part in range(num_parts)]
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _joined(parts: list[Tensor]) -> Tensor:
    """One after the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
