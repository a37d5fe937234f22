"""Files of tensors for a checkpoint, which are not made of values that have gone wrong."""

from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor

from ldlva_dist.errors import DataError


def pack_tensors(what: str, tensors: Mapping[str, Tensor]) -> bytes:
    """A file of tensors; DataError where any of them is not finite."""
    broken = [name for name, values in tensors.items() if not torch.isfinite(values).all()]
    if broken:
        raise DataError(f"the {what} are not finite any more, first {broken[0]}: no checkpoint is made of them")
    return save(dict(tensors))
