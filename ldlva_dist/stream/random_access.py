"""Images of any training samples, by id: ranged reads, checked, decoded, the last used ones kept in memory.

n = ids asked for, H = W = the side that images are resized to, c = channels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.dataset.shards import read_rows
from ldlva_dist.errors import DataError
from ldlva_dist.stream.quarantine import BadRow

READ_THREADS = 8
ENTRY_BYTES = 512  # of a kept image, besides its pixels: its key, and the headers of Python and numpy (measured)


class CachedRows(Protocol):
    """What is needed of the manifest; see :class:`ldlva_dist.stream.manifest_columns.Manifest`."""

    @property
    def shard_uris(self) -> Sequence[str]:
        """Of all training shards, in id order."""
        ...

    @property
    def shard_rows(self) -> Sequence[int]:
        """Rows of each of them."""
        ...

    def rows(self, ids: NDArray[np.int64], /) -> Mapping[str, NDArray[Any]]:
        """Columns (offset, size, checksum) of given ids."""
        ...


class RandomAccess:
    """Reads images one by one, on :data:`READ_THREADS` threads; may be used by one thread at a time."""

    def __init__(
        self, manifest: CachedRows, *, preparation: Preparation, cache_mb: int, on_bad: Callable[[BadRow], None]
    ) -> None:
        """Nothing is read yet.

        Args:
            manifest: Where the images lie.
            preparation: How they become the network's input.
            cache_mb: Memory for images that were read before, in MiB.
            on_bad: Told of every image that cannot be read, before it counts as missing; may raise.
        """
        self._manifest, self._ends = manifest, np.cumsum(manifest.shard_rows)
        self._preparation, self._on_bad = preparation, on_bad
        self._shape = (preparation.size, preparation.size, preparation.channels)
        room = cache_mb * 2**20 // (math.prod(self._shape) + ENTRY_BYTES)
        self._cached = lru_cache(maxsize=room)(self._read)
        self._pool = ThreadPoolExecutor(max_workers=READ_THREADS, thread_name_prefix="neighbor-images")

    def images(self, ids_n: NDArray[np.int64]) -> tuple[list[NDArray[np.uint8]], NDArray[np.bool_]]:
        """[n] images [H, W, c], black where one cannot be read, and which of them could be.

        Distinct ids are best asked for once: nothing is shared between the rows of a call.
        """
        columns = self._manifest.rows(ids_n)
        shards = np.searchsorted(self._ends, ids_n, side="right")
        places = [ids_n, shards, columns["offset"], columns["size"], columns["checksum"]]
        rows = list(zip(*(column.tolist() for column in places), strict=True))
        parts = [rows[i::READ_THREADS] for i in range(READ_THREADS)]
        found: list[NDArray[np.uint8] | None] = [None] * len(rows)
        for i, images in enumerate(self._pool.map(lambda part: [self._cached(*row) for row in part], parts)):
            found[i::READ_THREADS] = images
        black = np.zeros(self._shape, dtype=np.uint8)
        return [black if image is None else image for image in found], np.array([image is not None for image in found])

    def _read(self, sample: int, shard: int, offset: int, size: int, checksum: int) -> NDArray[np.uint8] | None:
        uri = self._manifest.shard_uris[shard]
        try:
            return self._preparation.read(read_rows(uri, [offset], [size], [checksum])[0])
        except DataError as error:
            self._on_bad(BadRow(id=sample, shard=uri, offset=offset, reason=str(error)))
            return None
