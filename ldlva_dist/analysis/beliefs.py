"""What a run believes of its training samples, out of a checkpoint's table and bank. N = samples, C = classes."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ldlva_dist.bank.checkpoint_parts import newest
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.index.graph import read_graph
from ldlva_dist.method.similarity import log_similarity
from ldlva_dist.training.build import bank_spec


@dataclass(frozen=True, kw_only=True)
class Beliefs:
    """Of every training sample, by id."""

    uncertainty: NDArray[np.float32]
    """[N] weight of the neighbours in the sample's target; high = the label is not to be trusted."""
    probs: NDArray[np.float32]
    """[N, C] last stored class probabilities; zeros where the sample was never reached."""


def read_beliefs(checkpoint: Checkpoint, info: DatasetInfo) -> Beliefs:
    """The beliefs at a checkpoint of a run with neighbours."""
    logits_N = checkpoint.read_logits(info.num_train)
    outputs, _ = newest(checkpoint.bank_files, info.num_train, bank_spec(checkpoint.config, info))
    return Beliefs(uncertainty=logits_N.sigmoid().numpy(), probs=outputs.records["probs"].astype(np.float32))


def neighbors_opinion(
    beliefs: Beliefs, config: RunConfig, dataset: Dataset, ids_n: NDArray[np.int64]
) -> NDArray[np.float32]:
    """[n, C] what the neighbours of some samples say: their stored probabilities, weighted by similarity alone."""
    k = config.neighbors.num_neighbors
    graph_nK = np.concatenate([read_graph(dataset, int(i), 1, k)[0] for i in ids_n]).astype(np.int64)
    va_N2 = torch.from_numpy(dataset.va(0, len(beliefs.uncertainty)))
    weights_nK = log_similarity(
        va_N2[ids_n],
        va_N2[graph_nK],
        width=config.loss.kernel_width,
        recipe=config.loss.recipe,
    ).softmax(dim=1)
    return (weights_nK.numpy()[..., None] * beliefs.probs[graph_nK]).sum(axis=1)
