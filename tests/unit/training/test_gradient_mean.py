"""The mean of gradients over real gloo ranks: numpy's, the same bits everywhere, in two exchanges."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from ldlva_dist.training.device.gradient_mean import average_gradients
from testing.forked_ranks import run_ranks

SHAPES = (5, 3), (7,), (2, 2, 2), (1,)
"""31 numbers, which neither two nor three ranks share evenly."""
WITHOUT = 2
"""Place of a parameter that has a gradient on the first rank alone."""


def _gradients(rank: int) -> list[np.ndarray]:
    random = np.random.default_rng(rank)
    drawn = [random.normal(size=shape).astype(np.float32) for shape in SHAPES]
    return [np.zeros_like(one) if rank and place == WITHOUT else one for place, one in enumerate(drawn)]


def _rank(rank: int, world_size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    exchanges, bare = [], dist.all_to_all_single
    dist.all_to_all_single = lambda *args, **kwargs: exchanges.append(args[1].numel()) or bare(*args, **kwargs)
    learnt = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for place, (parameter, gradient) in enumerate(zip(learnt, _gradients(rank), strict=True)):
        if not rank or place != WITHOUT:
            parameter.grad = torch.from_numpy(gradient)
    fixed = nn.Parameter(torch.zeros(3), requires_grad=False)
    average_gradients([*learnt[:1], fixed, *learnt[1:]])
    assert fixed.grad is None
    assert exchanges == [-(-31 // world_size) * world_size] * 2
    torch.save([parameter.grad for parameter in learnt], f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_gets_the_mean_of_all_gradients_with_the_same_bits(world_size: int, tmp_path: Path) -> None:
    run_ranks(_rank, (world_size, str(tmp_path)), world_size)
    got = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(world_size)]
    means = [np.mean(same, axis=0, dtype=np.float64) for same in zip(*map(_gradients, range(world_size)), strict=True)]
    for one in got:
        for gradient, first, mean in zip(one, got[0], means, strict=True):
            assert torch.equal(gradient, first)
            np.testing.assert_allclose(gradient.numpy(), mean, rtol=1e-6, atol=1e-7)
