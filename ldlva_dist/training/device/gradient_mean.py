"""The mean of the gradients over the ranks on CPUs, in two messages to each other rank: parts there, sums back.

gloo sums in a ring, whose 2 (W - 1) messages wait for each other; the bytes are the same. docs/concepts/traffic.md says
what that is in seconds.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldlva_dist.method.row_routes import begin_exchange


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each rank the mean of all ranks' gradients, with the same bits. Collective.

    Args:
        parameters: The same on all ranks, on the CPU. One that has no gradient here, but may have one elsewhere, gets
            zeros, as DeepSpeed does it.
    """
    num_ranks = dist.get_world_size()
    gradients = [_gradient(parameter) for parameter in parameters if parameter.requires_grad]
    sizes = [gradient.numel() for gradient in gradients]
    filling = torch.zeros(-sum(sizes) % num_ranks)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), filling]).view(num_ranks, -1)
    parts = torch.empty_like(flat)
    begin_exchange(parts, flat, group=None).wait()
    mean = parts[0]
    for part in parts[1:]:  # in the order of the ranks
        mean += part
    mean *= 1.0 / num_ranks
    begin_exchange(flat, mean.repeat(num_ranks, 1), group=None).wait()
    for gradient, mean in zip(gradients, flat.flatten().split([*sizes, len(filling)]), strict=False):
        gradient.copy_(mean.view_as(gradient))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
