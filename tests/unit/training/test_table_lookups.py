"""A recipe with a table and no bank: its rows come with the batches, in the order of the steps."""

import numpy as np
import torch

from ldlva_dist.messages import Batch
from ldlva_dist.method.uncertainty_table import UncertaintyTable
from ldlva_dist.training.device.copies import NoCopies
from ldlva_dist.training.device.tensors import with_logits
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.lookups import TableLookups
from ldlva_dist.training.neighbors.prefetch import Prefetch

ROWS, BATCH, STEPS, RATES = 12, 4, 5, [0.5, 0.25]


def batch_of(step: int) -> Batch:
    ids = np.random.default_rng(step).permutation(ROWS)[:BATCH]
    return Batch(
        step=step,
        positions=np.arange(BATCH, dtype=np.int32),
        ids=ids,
        images=np.zeros((BATCH, 2, 2, 1), dtype=np.uint8),
        labels=ids % 2,
        va=np.zeros((BATCH, 2), dtype=np.float32),
    )


def test_every_batch_reads_what_the_steps_before_it_left_in_its_rows() -> None:
    table, values = UncertaintyTable(ROWS, initial_logit=1.0, lr=RATES), np.ones((ROWS, 2), dtype=np.float32)
    meters = Meters(batch_size=BATCH, num_rows=ROWS, total_steps=STEPS, device=torch.device("cpu"))
    prefetch = Prefetch(lookups=TableLookups(route_of=table.route), meters=meters)
    for step, inputs in enumerate(prefetch.steps(map(batch_of, range(STEPS)))):
        assert inputs.lookup is not None
        assert inputs.lookup.route is not None
        ids = batch_of(step).ids
        rows, near = with_logits(inputs.rows(), inputs.lookup.near(), table.read(inputs.lookup.route), NoCopies())
        assert near is None
        assert rows.noise_BF is not None
        np.testing.assert_array_equal(rows.noise_BF.numpy(), values[ids])
        gradients = np.random.default_rng(100 + step).normal(size=(BATCH, 2)).astype(np.float32)
        table.apply(inputs.lookup.route, torch.from_numpy(gradients))()
        values[ids] -= np.array(RATES, dtype=np.float32) * gradients
    np.testing.assert_allclose(table.state()["logits"].numpy(), values, rtol=1e-6)
