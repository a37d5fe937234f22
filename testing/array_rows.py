"""Arrays in place of a bank, for an index to be built from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import ObjectRef


class ArrayRows:
    """Vectors that stand in arrays, one after the other; ``index.client.RowSource``."""

    def __init__(self, parts: Sequence[NDArray[np.floating]]) -> None:
        self._parts = parts
        self.bounds = [0, *np.cumsum([len(part) for part in parts]).tolist()]
        self.row_bytes = parts[0][0].nbytes

    def piece(self, first: int, stop: int) -> ObjectRef[Any]:
        """A reference to rows that are in one array."""
        part = int(np.searchsorted(self.bounds, first, side="right")) - 1
        begin = self.bounds[part]
        return ray.put(self._parts[part][first - begin : stop - begin])
