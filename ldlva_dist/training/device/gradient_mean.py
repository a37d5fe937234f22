"""The mean of the gradients over the ranks on CPUs, in two messages to each other rank: parts there, means back.

gloo's own sum is a ring, whose 2 (W - 1) messages wait for each other; the bytes are the same. A message of gloo leaves
only when the receiver has said that it waits for it, so both are waited for from the beginning of a step, before there
are gradients. docs/concepts/traffic.md says what that is in seconds.
"""

import time
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldlva_dist.method.posted_exchange import PostedExchange, Tag


class GradientMean:
    """What one rank sums for all, and what it gets from them. Every method is a collective."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """``parameters`` are the same on all ranks, on the CPU."""
        self._learnt = [parameter for parameter in parameters if parameter.requires_grad]
        self._sizes = [parameter.numel() for parameter in self._learnt]
        self._rank, self._num_ranks = dist.get_rank(), dist.get_world_size()
        part = -(-sum(self._sizes) // self._num_ranks)
        self._own, self._parts, self._means = (torch.zeros(self._num_ranks, part) for _ in range(3))
        self._coming: tuple[PostedExchange, PostedExchange] | None = None
        self.waited_s = 0.0
        """How long, in all, :meth:`take` has stood still for other ranks, and done something else meanwhile."""

    def expect(self) -> None:
        """Let the others send without waiting, from now until the next :meth:`take`."""
        self._coming = self._post(self._parts, Tag.PARTS), self._post(self._means, Tag.MEANS)

    @torch.no_grad()
    def take(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Give each rank the mean of all ranks' gradients, with the same bits, after :meth:`expect`.

        A parameter that has no gradient here, but may have one elsewhere, gets zeros, as DeepSpeed does it.
        ``meanwhile`` is done while the means travel.
        """
        gradients = [_gradient(parameter) for parameter in self._learnt]
        torch.cat([gradient.flatten() for gradient in gradients], out=self._own.view(-1)[: sum(self._sizes)])
        assert self._coming, "it was expected"
        (parts, means), self._coming = self._coming, None  # none is waited for twice
        parts.send(self._own, [1] * self._num_ranks)
        began = time.perf_counter()
        parts.wait()
        self.waited_s += time.perf_counter() - began
        mean = self._parts[0].clone()
        for part in self._parts[1:]:  # in the order of the ranks
            mean += part
        mean *= 1.0 / self._num_ranks
        means.send(mean.expand(self._num_ranks, -1), [1] * self._num_ranks)
        began = time.perf_counter()
        meanwhile()
        means.wait()
        self.waited_s += time.perf_counter() - began
        whole = self._means.view(-1)[: sum(self._sizes)].split(self._sizes)
        for gradient, mean in zip(gradients, whole, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _post(self, room: Tensor, tag: Tag) -> PostedExchange:
        return PostedExchange(room, [1] * self._num_ranks, tag=tag, rank=self._rank)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
