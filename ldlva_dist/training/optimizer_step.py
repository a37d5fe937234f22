"""One optimiser step on one rank's rows: micro-batches through the method, then weights, centres and uncertainty."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ldlva_dist.method.centers import update_centers
from ldlva_dist.method.posterior import move_joint, posterior_step
from ldlva_dist.method.robust_losses import mixup_share
from ldlva_dist.method.robust_step import ROBUST, robust_step
from ldlva_dist.method.row_routes import begin_gather
from ldlva_dist.method.step import StepResult, StepSettings, TensorBatch, TensorNeighbors, step
from ldlva_dist.training.device.copies import DeviceCopies
from ldlva_dist.training.neighbors.exact_neighbors import forward_exact
from ldlva_dist.training.state import TrainState

_T = TypeVar("_T")


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
    use_neighbors: bool,
    tell: Callable[[StepOutputs], _T],
) -> tuple[StepOutputs, _T]:
    """Train the network, with centres or noise matrix, on this rank's part of a global batch. Collective.

    Outputs are known after the forward: on a GPU the host gets them while backward and optimiser still run.

    Args:
        state: What is trained; its step counter, and what its table is told, are left to the caller.
        batch: This rank's rows.
        neighbors: Their neighbours, for ``elr`` themselves, for ``posterior`` both; None where the bank is not read.
        settings: The method's settings.
        use_neighbors: False while the run warms up on the given labels alone.
        tell: Is called with the outputs as soon as the host has them, so that what it sends travels with the gradients.

    Returns:
        The outputs, and what ``tell`` gave.
    """
    config, engine = state.config, state.engine
    num_parts = config.training.gradient_accumulation_steps
    results: list[StepResult] = []
    coming: list[Callable[[], dict[str, Tensor]]] = []
    sums = done = None
    # The engine averages over ranks and micro-batches; the losses are shares of the global batch's, so they add up.
    scale = dist.get_world_size() * num_parts

    def take_outputs() -> tuple[StepOutputs, _T]:
        outputs = _outputs(results, coming)
        return outputs, tell(outputs)

    for part in _micro_batches(len(batch.labels_B), num_parts):
        near = neighbors and neighbors[part]
        if near and config.reads_images:
            near = forward_exact(engine, near, settings, engine.module.feature_width)
        result = _forward(state, batch[part], near, settings=settings, use_neighbors=use_neighbors)
        results.append(result)
        coming.append(_bring_out(result, engine.copies, stays=config.bank_stays))
        if len(results) == num_parts and settings.recipe in ("official", "posterior"):
            sums = RankSums(results)
        if len(results) == num_parts and engine.copies.at_once:
            done = take_outputs()
        engine.backward(result.loss * scale)
        engine.step(meanwhile=state.settle)
    if sums and settings.recipe == "official":
        update_centers(engine.module.centers, *sums.wait(), rate=config.loss.center_rate)
    elif sums:
        (counts_CC,) = sums.wait()
        move_joint(engine.module.noise_joint, counts_CC, share=config.data.batch_size / state.info.num_train)
    return done or take_outputs()


def _forward(
    state: TrainState,
    batch: TensorBatch,
    near: TensorNeighbors | None,
    *,
    settings: StepSettings,
    use_neighbors: bool,
) -> StepResult:
    """The loss of a micro-batch by the recipe's own formulas."""
    engine, global_batch_size = state.engine, state.config.data.batch_size
    if settings.recipe in ROBUST:
        share = mixup_share(state.config.training.seed, state.step, settings.robust.mixup_alpha)
        return robust_step(engine, batch, near, settings=settings, global_batch_size=global_batch_size, mix_share=share)
    if settings.recipe == "posterior":
        assert near is not None, "posterior reads the bank"
        return posterior_step(
            engine,
            batch,
            near,
            joint_CC=engine.module.noise_joint,
            settings=settings,
            global_batch_size=global_batch_size,
            use_neighbors=use_neighbors,
        )
    return step(
        engine, batch, near, settings=settings, global_batch_size=global_batch_size, use_neighbors=use_neighbors
    )


class RankSums:
    """What one step's rows ask of centres or noise matrix, over all ranks and micro-batches.

    They are known after the forward and needed after the optimiser's step: the ranks add them up meanwhile.
    """

    def __init__(self, results: list[StepResult]) -> None:
        """Begin to add up. Collective."""
        parts = [[each for each in _sums(result) if each is not None] for result in results]
        totals = [torch.stack(same).sum(dim=0) for same in zip(*parts, strict=True)]
        self._shapes = [total.shape for total in totals]
        flat = torch.cat([total.flatten() for total in totals])
        self._wait = begin_gather(flat) if flat.is_cpu or dist.get_world_size() == 1 else _begin_sum(flat)

    def wait(self) -> list[Tensor]:
        """The sums, in the order of the step's result, with the same bits on all ranks."""
        parts = self._wait().sum(dim=0).split([shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]


def _begin_sum(flat: Tensor) -> Callable[[], Tensor]:
    """Begin to sum over the ranks where the numbers are; what is returned gives [1, n]."""
    under_way = dist.all_reduce(flat, async_op=True)

    def finish_sum() -> Tensor:
        if under_way:
            under_way.wait()
        return flat[None]

    return finish_sum


def _sums(result: StepResult) -> tuple[Tensor | None, ...]:
    return result.center_sums_CV, result.center_counts_C, result.joint_sums_CC


def _bring_out(result: StepResult, copies: DeviceCopies, *, stays: bool) -> Callable[[], dict[str, Tensor]]:
    """Begin to bring to the host what is wanted there; with ``stays`` the bank takes its part where it is."""
    bank = {"probs": result.probs_BC, "features": result.features_BV}
    host = {"logit_grads": result.logit_grad_B, "terms": torch.stack(list(result.terms.values()))}
    there = copies.outward(host if stays else host | bank)
    return lambda: bank | there()


def _outputs(results: list[StepResult], coming: list[Callable[[], dict[str, Tensor]]]) -> StepOutputs:
    """Those of all micro-batches, which are waited for."""
    there = [wait() for wait in coming]
    terms_T = torch.stack([part["terms"] for part in there]).sum(dim=0)
    return StepOutputs(
        probs=_joined([part["probs"] for part in there]),
        features=_joined([part["features"] for part in there]),
        logit_grads=_joined([part["logit_grads"] for part in there]),
        terms=dict(zip(results[0].terms, terms_T, strict=True)),
    )


def _micro_batches(num_rows: int, num_parts: int) -> list[slice]:
    """Consecutive rows, the first parts one longer where it must be."""
    sizes = [num_rows // num_parts + (part < num_rows % num_parts) for part in range(num_parts)]
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _joined(parts: list[Tensor]) -> Tensor:
    """One after the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
