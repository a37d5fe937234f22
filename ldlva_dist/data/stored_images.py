"""The stored image files of some samples, as they are in the shards. n = samples asked for."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.data.contents import read_blocks
from ldlva_dist.data.manifest import DatasetInfo
from ldlva_dist.data.shards import read_rows
from ldlva_dist.data.versions import shard_uri

THREADS = 8
PLACE = ("shard", "offset", "size", "checksum")


class StoredImages:
    """Knows where the images of some samples lie; one pass over the manifest finds them all."""

    def __init__(self, dataset_uri: str, info: DatasetInfo, ids_n: NDArray[np.int64]) -> None:
        """Find the places of samples ``ids_n``, in any order."""
        self._ids_n = np.unique(ids_n)
        self._shards = [shard_uri(dataset_uri, info, shard) for shard in info.shards]
        pieces: list[NDArray[Any]] = []
        for block in read_blocks(dataset_uri, ["id", *PLACE]):
            first = block["id"][0].as_py()
            mine = slice(*np.searchsorted(self._ids_n, [first, first + len(block)]))
            rows = self._ids_n[mine] - first
            pieces.append(np.stack([block[name].to_numpy()[rows].astype(np.int64) for name in PLACE], axis=1))
            if mine.stop == len(self._ids_n):
                break
        self._place_n4 = np.concatenate(pieces)

    def read(self, ids: Sequence[int]) -> list[memoryview]:
        """The files of some of the samples, in the order asked for; a damaged one is a DataError."""
        place_n4 = self._place_n4[np.searchsorted(self._ids_n, np.asarray(ids))]
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            return list(pool.map(self._read, place_n4.tolist()))

    def _read(self, place: list[int]) -> memoryview:
        shard, offset, size, checksum = place
        return read_rows(self._shards[shard], [offset], [size], [checksum])[0]
