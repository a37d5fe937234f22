"""What a network's training takes of a device's memory at least, and whether a GPU has it.

Only what is sure to be there at once is counted, so that nothing is refused that might fit: no context of CUDA, no
buckets, no gradients, no batches that come ahead. The forecast (forecast/memory.py) counts those too.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ldlva_dist.config import RunConfig
from ldlva_dist.errors import SettingError
from ldlva_dist.models.ldlva import LDLVA

ADAM = ("exp_avg", "exp_avg_sq")


def require_gpu_room(least_bytes: int, gpu_bytes: int) -> None:
    """SettingError where a worker evidently does not fit its GPU.

    Args:
        least_bytes: What it holds at once at least, see :func:`least_bytes`.
        gpu_bytes: All memory of the GPU.
    """
    if least_bytes > gpu_bytes:
        raise SettingError(
            "data.batch_size / (placement.num_workers x training.gradient_accumulation_steps) must leave room on each "
            f"GPU ({gpu_bytes / 2**30:.1f} GiB) for the rows' activations, the network, its optimiser and a bank on "
            f"the workers, got at least {least_bytes / 2**30:.1f} GiB"
        )


def least_bytes(config: RunConfig, model: LDLVA, num_workers: int) -> int:
    """What a GPU holds when a forward ends: weights, moments of a second step, and what the backward will read.

    Args:
        config: The run's settings.
        model: Its network, on the meta device.
        num_workers: Those that there are.
    """
    weights, moments = parameter_bytes(model), len(moment_names(config)) * parameter_bytes(model)
    stage = config.training.zero_stage if num_workers > 1 else 0
    if stage:
        moments //= num_workers
    if stage == 3:
        weights //= num_workers
    rows = config.data.batch_size // num_workers // config.training.gradient_accumulation_steps
    kept = activation_bytes(model, *meta_inputs(config, model, rows))
    return weights + moments + (kept // 2 if config.training.precision == "bf16" else kept)


def meta_inputs(config: RunConfig, model: LDLVA, rows: int) -> list[Tensor]:
    """A micro-batch of so many rows and what the network reads of neighbours where it does, on the meta device."""
    data = config.data
    shape = rows, data.image_size, data.image_size, data.channels
    inputs = [torch.empty(shape, dtype=torch.uint8, device="meta")]
    if config.loss.recipe in ("official", "paper"):
        pairs = rows, config.neighbors.num_neighbors
        inputs.append(torch.empty(*pairs, model.feature_width, device="meta"))
        inputs.append(torch.empty(pairs, dtype=torch.bool, device="meta"))
    return inputs


def activation_bytes(model: LDLVA, images: Tensor, *neighbors: Tensor) -> int:
    """What autograd keeps of one forward, each tensor once; nothing is computed on the meta device.

    Args:
        model: The network.
        images: A batch.
        neighbors: Their neighbours' features, and which of them count; nothing for the backbone alone.
    """
    kept: dict[int, Tensor] = {}
    weights = {id(parameter) for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights and not any(tensor is value for value in model.buffers()):
            kept[id(tensor)] = tensor
        return tensor

    give_back: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, give_back):
        output = model(images, *neighbors)
    assert output.features_BV is not None
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in kept.values()}
    return sum(storages.values())


def parameter_bytes(model: nn.Module) -> int:
    """Of the weights, without running statistics and other buffers."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def moment_names(config: RunConfig) -> tuple[str, ...]:
    """What the optimiser keeps of every parameter."""
    if config.optim.name == "sgd":
        return ("momentum_buffer",) if config.optim.momentum else ()
    return ADAM
