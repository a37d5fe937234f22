"""Tensors by name out of files that others wrote, ``.safetensors`` or ``.pth``; nothing else in them is unpickled."""

import io
import pickle
import struct
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

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


def first_line(error: BaseException) -> str:
    """What an exception of a library says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def shown(name: str) -> str:
    """A tensor's name as it may be printed."""
    plain = "".join(c if c.isprintable() else "?" for c in name)
    return plain if len(plain) <= NAME_SHOWN else f"{plain[:NAME_SHOWN]}..."


def _holds_a_dict(state: object, name: str) -> bool:
    return isinstance(state, Mapping) and isinstance(state.get(name), Mapping)
