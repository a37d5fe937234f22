"""Tensors by name out of files that others wrote, ``.safetensors`` or ``.pth``; nothing else in them is unpickled."""

import io
import pickle
import struct
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from ldlva_dist.errors import DataError

WRAPPERS = ("state_dict", "model", "model_state_dict")
WRAPPED_AT_MOST = 3
NAME_SHOWN = 100
# What torch.load throws at bytes that are no such file, and at objects that are not only tensors.
NO_TORCH_FILE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)
NO_TORCH_FILE += (AssertionError, ArithmeticError, MemoryError, OSError, struct.error)


def read_safetensors(data: bytes, what: str) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file; DataError where ``what`` is none."""
    try:
        return load(data)
    except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{what} is no safetensors file: {first_line(error)}") from error


def read_weights(data: bytes, what: str) -> dict[str, Tensor]:
    """The tensors of a file of either kind; those under ``state_dict`` or ``model`` are found.

    Raises:
        DataError: where ``what`` is no such file, or holds anything but tensors, numbers and text.
    """
    if what.endswith(".safetensors") or data[8:9] == b"{":  # eight bytes of length, then a JSON object
        return read_safetensors(data, what)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except NO_TORCH_FILE as error:
        raise DataError(f"{what} is no file of tensors only: {first_line(error)}") from error
    for _ in range(WRAPPED_AT_MOST):
        state = next((state[name] for name in WRAPPERS if _holds_a_dict(state, name)), state)
    if not isinstance(state, Mapping):
        raise DataError(f"{what} must hold a dict of tensors, got {type(state).__name__}")
    return {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}


def fits(given: Tensor, own: Tensor) -> bool:
    """Whether a tensor can be copied: the shape, floats for floats, and values that are really there."""
    alike = given.is_floating_point() == own.is_floating_point() and not given.is_complex()
    return given.shape == own.shape and alike and given.layout == torch.strided and given.device.type == "cpu"


def form(tensor: Tensor) -> str:
    """A tensor's shape, and its kind of numbers where they are no floats."""
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold infinities or NaN, or would in single precision."""
    return [name for name, value in tensors.items() if not value.float().isfinite().all()]


def require_weights_of(network: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """DataError unless tensors are the finite weights of a network, all of them and no others.

    The network may be on the meta device: so a size that is wrong is found before memory is taken for it.
    """
    own = network.state_dict()
    faults = [f"it has no {name}" for name in own if name not in tensors]
    faults += [f"{shown_name(name)} is none of the network's" for name in tensors if name not in own]
    there = {name: tensors[name] for name in own if name in tensors}
    faults += [
        f"{name} {form(value)} for {form(own[name])}" for name, value in there.items() if not fits(value, own[name])
    ]
    faults += (
        [f"{shown_name(name)} holds numbers that are not finite" for name in not_finite(tensors)] if not faults else []
    )
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise DataError(f"{what} does not hold the weights of its network: {faults[0]}{more}")


def first_line(error: BaseException) -> str:
    """What an exception of a library says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def shown_name(name: str) -> str:
    """A tensor's name as it may be printed."""
    plain = "".join(c if c.isprintable() else "?" for c in name)
    return plain if len(plain) <= NAME_SHOWN else f"{plain[:NAME_SHOWN]}..."


def _holds_a_dict(state: object, name: str) -> bool:
    return isinstance(state, Mapping) and isinstance(state.get(name), Mapping)
