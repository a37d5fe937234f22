"""The stored image files of some samples, as they are in the shards. n = samples."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.dataset.shards import read_each, read_rows
from ldlva_dist.errors import DataError

IMAGE_COLUMNS = ("id", "key", "shard", "offset", "size", "checksum")
GAP_BYTES = 64 << 10
"""Read and not needed, where that joins two images: less than a request costs."""


@dataclass(frozen=True)
class StoredImages:
    """Images of some samples, read by byte range and checked by checksum."""

    rows: pa.Table
    """[n] columns IMAGE_COLUMNS, by ascending id."""
    shard_uri: Callable[[int], str]
    """Address of a shard by its number."""

    def part(self, begin: int, end: int) -> "StoredImages":
        """The images of rows [begin, end), or to the last one where there are fewer."""
        return StoredImages(self.rows.slice(begin, end - begin), self.shard_uri)

    def read(self, sample: int) -> memoryview:
        """The file of one of the samples, by its id; a damaged one is a DataError. Threads may read at once."""
        row = int(np.searchsorted(self.rows["id"].to_numpy(), sample))
        return self.part(row, row + 1).read_all()[0]

    def read_all(self) -> list[memoryview]:
        """[n] files, by one ranged read for those that lie together; a damaged one is a DataError."""
        return [image for uri, *place in self._together() for image in read_rows(uri, *place)]

    def read_each(self) -> list[memoryview | DataError]:
        """[n] files, read in the same way, or for a damaged one the error that says so."""
        return [image for uri, *place in self._together() for image in read_each(uri, *place)]

    def _together(self) -> Iterator[tuple[str, NDArray, NDArray, NDArray]]:
        """Shard, offsets, sizes and checksums of rows that one read gets."""
        shard_n, offset_n, size_n, checksum_n = (self.rows[name].to_numpy() for name in IMAGE_COLUMNS[2:])
        is_apart = (np.diff(shard_n) != 0) | (offset_n[1:] > offset_n[:-1] + size_n[:-1] + GAP_BYTES)
        edges = [0, *(np.flatnonzero(is_apart) + 1).tolist(), len(shard_n)]
        for begin, end in pairwise(edges):
            if begin < end:
                rows = slice(begin, end)
                yield self.shard_uri(int(shard_n[begin])), offset_n[rows], size_n[rows], checksum_n[rows]
