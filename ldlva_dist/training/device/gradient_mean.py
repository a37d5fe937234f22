"""The mean of the gradients over the ranks on CPUs, in two messages to each other rank: parts there, means back.

gloo's own sum is a ring, whose 2 (W - 1) messages wait for each other; the bytes are the same. A message of gloo leaves
only when the receiver has said that it waits for it, so both are waited for from the beginning of a step, before there
are gradients. docs/concepts/traffic.md says what that is in seconds.
"""

import time
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

PARTS, MEANS = 1, 2
"""Tags of messages."""


class GradientMean:
    """What one rank sums for all, and what it gets from them. Every method is a collective."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """``parameters`` are the same on all ranks, on the CPU."""
        self._learnt = [parameter for parameter in parameters if parameter.requires_grad]
        self._sizes = [parameter.numel() for parameter in self._learnt]
        self._rank, num_ranks = dist.get_rank(), dist.get_world_size()
        self._others = [other for other in range(num_ranks) if other != self._rank]
        part = -(-sum(self._sizes) // num_ranks)
        self._own, self._parts, self._means = (torch.zeros(num_ranks, part) for _ in range(3))
        self._coming: list[list[dist.Work]] = []
        self.waited_s = 0.0
        """How long, in all, :meth:`take` has stood still for other ranks."""

    def expect(self) -> None:
        """Let the others send without waiting, from now until the next :meth:`take`."""
        self._coming = [
            [_work(dist.irecv(rows[other], other, tag=tag)) for other in self._others]
            for tag, rows in ((PARTS, self._parts), (MEANS, self._means))
        ]

    @torch.no_grad()
    def take(self) -> None:
        """Give each rank the mean of all ranks' gradients, with the same bits, after :meth:`expect`.

        A parameter that has no gradient here, but may have one elsewhere, gets zeros, as DeepSpeed does it.
        """
        gradients = [_gradient(parameter) for parameter in self._learnt]
        torch.cat([gradient.flatten() for gradient in gradients], out=self._own.view(-1)[: sum(self._sizes)])
        under_way = [_work(dist.isend(self._own[other], other, tag=PARTS)) for other in self._others]
        self._parts[self._rank] = self._own[self._rank]
        (coming_parts, coming_means), self._coming = self._coming, []  # none is waited for twice
        self._wait(coming_parts)
        mean = self._means[self._rank].copy_(self._parts[0])
        for part in self._parts[1:]:  # in the order of the ranks
            mean += part
        mean *= 1.0 / len(self._parts)
        under_way += [_work(dist.isend(mean, other, tag=MEANS)) for other in self._others]
        self._wait([*coming_means, *under_way])
        means = self._means.view(-1)[: sum(self._sizes)].split(self._sizes)
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _wait(self, coming: Iterable[dist.Work]) -> None:
        began = time.perf_counter()
        for work in coming:
            work.wait()
        self.waited_s += time.perf_counter() - began


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _work(work: dist.Work | None) -> dist.Work:
    assert work is not None, "this rank is one of the group"
    return work
