"""The manifest's training columns in Ray's object store: the stream's tasks read them there, in place."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import ray
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.stream.plan import Plan, without_left_out
from ldlva_dist.stream.superstep import Columns

BLOCK_ROWS = 1 << 18
TIMEOUT_S = 120.0


class Manifest:
    """The training columns of the manifest in Ray's object store: one copy a node, cut in blocks of 2^18 rows."""

    def __init__(self, dataset: Dataset, task_options: Mapping[str, Any] | None = None) -> None:
        """Start reading, by tasks with Ray's ``task_options``; neither driver nor worker holds the columns."""
        rows, info = dataset.info.num_train, dataset.info
        self._task_options = dict(task_options or {})
        load = ray.remote(_load_block).options(**self._task_options)
        self.shard_uris = [dataset.shard_uri(n) for n, shard in enumerate(info.shards) if shard.split == "train"]
        self.shard_rows = tuple(shard.rows for shard in info.shards_of("train"))
        opened = ray.put(dataset)  # sent once a node, not once a task: of a large data set it names many shards
        self._blocks = [
            load.remote(opened, first, min(BLOCK_ROWS, rows - first)) for first in range(0, rows, BLOCK_ROWS)
        ]

    def rows(self, ids: NDArray[np.int64]) -> Columns:
        """The columns of the rows ``ids`` [n], in their order."""
        block_of = ids // BLOCK_ROWS
        parts, places = [], []
        for b in np.unique(block_of):
            places.append(np.flatnonzero(block_of == b))
            block = cast(Columns, ray.get(self._blocks[b]))
            parts.append({name: column[ids[places[-1]] - b * BLOCK_ROWS] for name, column in block.items()})
        back = np.argsort(np.concatenate(places))
        return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}

    def chunk_classes(self, plan: Plan, num_classes: int) -> NDArray[np.int32]:
        """[k, C] rows of each class in each chunk of a plan, but for those that it leaves out.

        Every block of the manifest is counted by a task.
        """
        first_k = plan.chunks[0]
        count = ray.remote(_count_classes).options(**self._task_options)
        counts_kC = np.zeros((len(first_k), num_classes), dtype=np.int32)
        refs, begins = [], []
        for b, block in enumerate(self._blocks):
            begin = int(np.searchsorted(first_k, b * BLOCK_ROWS, side="right")) - 1
            end = int(np.searchsorted(first_k, (b + 1) * BLOCK_ROWS))
            begins.append(begin)
            refs.append(count.remote(block, b * BLOCK_ROWS, first_k[begin:end], num_classes, plan.fold))
        for begin, part in zip(begins, cast(list[NDArray[np.int32]], ray.get(refs, timeout=TIMEOUT_S)), strict=True):
            counts_kC[begin : begin + len(part)] += part
        return counts_kC


def _count_classes(
    block: Columns, first: int, first_k: NDArray[np.int64], num_classes: int, fold: tuple[int, int] | None
) -> NDArray[np.int32]:
    """[k, C] rows of each class in a block that begins at id ``first``, by the chunks that begin at ids ``first_k``."""
    labels = without_left_out(fold, first, block["label"].astype(np.int64))
    chunk = np.searchsorted(first_k, first + np.arange(len(labels)), side="right") - 1
    cell = (chunk * num_classes + labels)[labels >= 0]
    counts = np.bincount(cell, minlength=len(first_k) * num_classes)
    return counts.reshape(-1, num_classes).astype(np.int32)


def _load_block(dataset: Dataset, first: int, rows: int) -> Columns:
    names = ["offset", "size", "checksum", "label"]
    table = dataset.columns(names, first_id=first, rows=rows)
    return {name: table[name].to_numpy() for name in names} | {"va": dataset.va(first, rows)}
