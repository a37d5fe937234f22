"""Copies between host and device beside the training: inputs come ahead of their step, outputs go during the backward.

Pinned memory is torch's own: its allocator keeps a piece until the copies that read it are done, so that the batches
under way are a ring without a count of ours.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist.bank.on_workers.rank_bank import HostCopies

_T = TypeVar("_T")

# Arrays of Ray's object store are read-only, and torch would say so; set once, as filters are the whole process's.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class DeviceCopies(HostCopies, Protocol):
    """The way of one rank's arrays to its device, and of its outputs back; nobody writes to either side afterwards."""

    at_once: bool
    """Whether outputs are on the host without waiting."""

    def ahead(self, make: Callable[[], _T]) -> Callable[[], _T]:
        """Begin to make a dataclass of inward tensors; what is returned gives it to the step that uses it."""
        ...


class NoCopies:
    """The host is the device: a tensor is the array's own memory, also where that is read-only, and nothing waits."""

    device, at_once = torch.device("cpu"), True

    def inward(self, values: NDArray[Any] | Tensor) -> Tensor:
        """The same memory."""
        return values if isinstance(values, Tensor) else torch.from_numpy(values)

    def ahead(self, make: Callable[[], _T]) -> Callable[[], _T]:
        """Nothing is begun: it is made when it is needed."""
        return make

    def outward(self, tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """The tensors themselves."""
        return lambda: dict(tensors)


class GpuCopies:
    """A thread that fills pinned memory, and a stream for each direction; the training's stream waits by events."""

    at_once = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._inward, self._outward = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device-copies")

    def inward(self, values: NDArray[Any] | Tensor) -> Tensor:
        """A copy, by way of pinned memory, on the stream of the caller."""
        source = values if isinstance(values, Tensor) else torch.from_numpy(values)
        pinned = torch.empty(source.shape, dtype=source.dtype, pin_memory=True).copy_(source)
        return pinned.to(self.device, non_blocking=True)

    def ahead(self, make: Callable[[], _T]) -> Callable[[], _T]:
        """Made in the thread, on a stream of its own; an error of it comes out where it is taken."""

        def made_beside() -> tuple[_T, Any]:
            with torch.cuda.device(self.device), torch.cuda.stream(self._inward):
                return make(), self._inward.record_event()

        future = self._thread.submit(made_beside)

        def take() -> _T:
            made, event = future.result()
            training = torch.cuda.current_stream(self.device)
            training.wait_event(event)
            for tensor in _tensors_of(made):
                tensor.record_stream(training)  # its memory is the other stream's again only when this one is done
            return made

        return take

    def outward(self, tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Copies on a stream of their own; the training's goes on, and is not waited for."""
        self._outward.wait_stream(torch.cuda.current_stream(self.device))
        there = {}
        with torch.cuda.stream(self._outward):
            for name, tensor in tensors.items():
                pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                there[name] = pinned.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._outward)
            event = self._outward.record_event()

        def wait() -> dict[str, Tensor]:
            event.synchronize()
            return there

        return wait


def copies_for(device: torch.device) -> DeviceCopies:
    """The way to a device."""
    return GpuCopies(device) if device.type == "cuda" else NoCopies()


def _tensors_of(made: Any) -> Iterator[Tensor]:
    """Tensors among the fields of a dataclass."""
    assert is_dataclass(made), f"a dataclass of tensors, not {type(made)}"
    yield from (value for field in fields(made) if isinstance(value := getattr(made, field.name), Tensor))
