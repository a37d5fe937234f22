"""The mean of gradients over real gloo ranks: numpy's, with the same bits everywhere, in two messages to each rank."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from ldlva_dist.training.device.gradient_mean import GradientMean
from testing.forked_ranks import run_ranks

SHAPES = (5, 3), (7,), (2, 2, 2), (1,)
"""31 numbers, which neither two nor three ranks share evenly."""
STEPS, WITHOUT = 3, 2
"""Place of a parameter that has a gradient on the first rank alone."""


def _gradients(rank: int, step: int) -> list[np.ndarray]:
    random = np.random.default_rng((rank, step))
    drawn = [random.normal(size=shape).astype(np.float32) for shape in SHAPES]
    return [np.zeros_like(one) if rank and place == WITHOUT else one for place, one in enumerate(drawn)]


def _rank(rank: int, world_size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    sent, awaited, bare, bare_receive = list[int](), list[int](), dist.isend, dist.irecv
    dist.isend = lambda values, other, **options: sent.append(other) or bare(values, other, **options)
    dist.irecv = lambda values, other, **options: awaited.append(other) or bare_receive(values, other, **options)
    learnt = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    fixed = nn.Parameter(torch.zeros(3), requires_grad=False)
    mean, began = GradientMean([*learnt[:1], fixed, *learnt[1:]]), time.perf_counter()
    meanwhile = list[int]()
    for step in range(STEPS):
        mean.expect()
        assert len(awaited) == 2 * (world_size - 1) * (step + 1), "parts and means, before there are gradients"
        for place, (parameter, gradient) in enumerate(zip(learnt, _gradients(rank, step), strict=True)):
            parameter.grad = None if rank and place == WITHOUT else torch.from_numpy(gradient)
        mean.take(lambda: meanwhile.append(len(sent)))
        torch.save([parameter.grad for parameter in learnt], f"{folder}/rank-{rank}-{step}.pt")
    assert 0 < mean.waited_s < time.perf_counter() - began
    assert fixed.grad is None
    assert meanwhile == [2 * (world_size - 1) * (step + 1) for step in range(STEPS)], "parts and means are under way"
    assert sorted(sent) == sorted([other for other in range(world_size) if other != rank] * 2 * STEPS)
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_gets_the_mean_of_all_gradients_with_the_same_bits(world_size: int, tmp_path: Path) -> None:
    run_ranks(_rank, (world_size, str(tmp_path)), world_size)
    for step in range(STEPS):
        got = [torch.load(tmp_path / f"rank-{rank}-{step}.pt") for rank in range(world_size)]
        drawn = [_gradients(rank, step) for rank in range(world_size)]
        means = [np.mean(same, axis=0, dtype=np.float64) for same in zip(*drawn, strict=True)]
        for one in got:
            for gradient, first, mean in zip(one, got[0], means, strict=True):
                assert torch.equal(gradient, first)
                np.testing.assert_allclose(gradient.numpy(), mean, rtol=1e-6, atol=1e-7)
