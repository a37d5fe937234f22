"""A loss that is not finite ends the run: what was learnt in that step is of no use, and would be learnt again."""

import math
from typing import NoReturn

import torch.distributed as dist
from numpy.typing import NDArray

from ldlva_dist.checkpoint.read import last_checkpoint
from ldlva_dist.errors import DataError


def give_up(run_uri: str, step: int, loss: float, ids: NDArray) -> NoReturn:
    """Say on every rank which one's loss it was, and of which samples. Collective.

    Args:
        run_uri: The run, whose last checkpoint is named.
        step: The step, counted from 1.
        loss: This rank's.
        ids: [b] the samples that this rank trained on in the step.

    Raises:
        DataError: always, the same on all ranks; the run is not tried again.
    """
    said: list[tuple[float, list[int]] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(said, None if math.isfinite(loss) else (loss, ids.tolist()))
    rank, bad = next((rank, bad) for rank, bad in enumerate(said) if bad is not None)
    raise DataError(
        f"the loss of step {step} is {bad[0]} on rank {rank}, which trained on the samples {bad[1]}; "
        f"the last good checkpoint is {last_checkpoint(run_uri) or 'none: the run had not saved yet'}. "
        "A lower optim.lr or an optim.gradient_clipping under another name may help, where the samples are sound"
    )
