"""The stored image files of some samples, as they are in the shards. n = samples asked for."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.dataset.manifest_blocks import read_blocks
from ldlva_dist.dataset.shards import read_rows
from ldlva_dist.dataset.versions import shard_uri

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

    def read(self, sample: int) -> memoryview:
        """The file of one of the samples; a damaged one is a DataError. Threads may read at once."""
        shard, offset, size, checksum = self._place_n4[np.searchsorted(self._ids_n, sample)].tolist()
        return read_rows(self._shards[shard], [offset], [size], [checksum])[0]
