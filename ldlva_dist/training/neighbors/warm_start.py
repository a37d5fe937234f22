"""``bank.warm_start="forward"``: before the first step every training sample gets the outputs of the new network.

One pass of the stream over the training split, each sample once and not augmented, but for a fold that is left out.
BatchNorm uses the statistics of the batch and leaves its own as they are: so the bank holds what the first epoch would
write if the network did not learn, and a network that was never trained has no statistics yet that its features could
be normalised with.
"""

import time
from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist

from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.on_workers.rank_bank import RankBank
from ldlva_dist.messages import Batch
from ldlva_dist.method.step import forward_neighbors
from ldlva_dist.records.console import say
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training.state import TrainState

SAY_EVERY_S = 10.0


def fill_bank(state: TrainState, client: NeighborClient | RankBank, plan: Plan, batches: Iterable[Batch]) -> None:
    """Give the bank the outputs of the network as it is. Collective.

    Args:
        state: A new run's; nothing of it changes.
        client: The way to a bank that has begun and holds nothing.
        plan: Without class balance: its first epoch has every sample once.
        batches: This rank's, of :func:`steps_of_one_pass`, not augmented.
    """
    buffers = [buffer.clone() for buffer in state.engine.module.buffers()]
    said = time.monotonic()
    for batch in batches:
        images = torch.from_numpy(batch.images.copy()).to(state.engine.device)
        probs_bC, features_bV = (values.cpu().numpy() for values in forward_neighbors(state.engine, images))
        first = plan.epochs_at(batch.step, dist.get_rank(), dist.get_world_size()) == 0
        ids, rows = np.unique(batch.ids[first], return_index=True)  # one that took a bad row's place stands there twice
        client.fill(ids, probs_bC[first][rows], features_bV[first][rows])
        if dist.get_rank() == 0 and time.monotonic() - said > SAY_EVERY_S:
            done = min(plan.num_rows, (batch.step + 1) * plan.batch_size)
            say(f"warm start of the bank: {done:,} of {plan.num_rows:,} samples")
            said = time.monotonic()
    for buffer, before in zip(state.engine.module.buffers(), buffers, strict=True):
        buffer.copy_(before)
    dist.barrier()


def steps_of_one_pass(plan: Plan) -> range:
    """The steps that hold all of the first epoch; the last may hold rows of the second."""
    return range(-(-plan.num_rows // plan.batch_size))
