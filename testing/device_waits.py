"""A mode of torch that refuses what a GPU would be waited for, where there is none."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.masked_scatter.default,  # its backward is a masked_select
    aten.bincount.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
BY_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class CountedWaits(TorchDispatchMode):
    """Counts the operators whose result or shape the host must wait for on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += is_wait(func, args)
        return func(*args, **(kwargs or {}))


class NoWaits(TorchDispatchMode):
    """Refuses them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not is_wait(func, args), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def is_wait(func: Any, args: Any) -> bool:
    """Whether the host waits for an operator: it gives a number, or a shape that follows from values."""
    if func not in BY_INDEX:
        return func in WAITS
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
