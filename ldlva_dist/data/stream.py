"""The stream: Ray Data carries out the plan, one pipeline per training worker.

A pipeline's items are superstep numbers. One task fetches the rank's window of every lane by ranged reads, checks every
row, and yields the finished batches of the superstep in order. The plan decides what is in them; Ray decides only where
the work runs.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from ldlva_dist.data import storage
from ldlva_dist.data.manifest import DatasetInfo, read_columns, read_va
from ldlva_dist.data.plan import Plan, Run
from ldlva_dist.data.shards import read_rows
from ldlva_dist.data.transforms import augment, decode, resize
from ldlva_dist.messages import Batch

Columns = dict[str, NDArray[Any]]
BLOCK_ROWS = 1 << 18
SUPERSTEPS_PER_PIPELINE = 512
# Ray Data hands blocks on when they are this large: small enough that the first batch need not wait for a whole task.
BLOCK_BYTES = 4 << 20
LOOP_PAUSE_S = 0.02


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How an image becomes a training sample; see DataConfig."""

    size: int
    channels: int
    flip: bool
    pad: int
    erase_probability: float


class Manifest:
    """The training columns of the manifest in Ray's object store: one copy a node, cut in blocks of 2^18 rows."""

    def __init__(self, dataset_uri: str, info: DatasetInfo, task_options: Mapping[str, Any] | None = None) -> None:
        """Start reading, by tasks with Ray's ``task_options``; neither driver nor worker holds the columns."""
        rows, shards = info.num_train, info.shards_of("train")
        load = ray.remote(_load_block).options(**(task_options or {}))
        self.shard_uris = [storage.join(dataset_uri, shard.name) for shard in shards]
        self.shard_rows = tuple(shard.rows for shard in shards)
        self._blocks = [
            load.remote(dataset_uri, first, min(BLOCK_ROWS, rows - first)) for first in range(0, rows, BLOCK_ROWS)
        ]

    def rows(self, ids: NDArray[np.int64]) -> Columns:
        """The columns of the rows ``ids`` [n], which lie in at most a few blocks."""
        block_of = ids // BLOCK_ROWS
        parts = [
            {
                name: column[ids[block_of == b] - b * BLOCK_ROWS]
                for name, column in cast(Columns, ray.get(self._blocks[b])).items()
            }
            for b in np.unique(block_of)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _load_block(dataset_uri: str, first: int, rows: int) -> Columns:
    names = ["offset", "size", "checksum", "label"]
    table = read_columns(dataset_uri, names, first_id=first, rows=rows)
    return {name: table[name].to_numpy() for name in names} | {"va": read_va(dataset_uri, first, rows)}


@dataclass(frozen=True, kw_only=True)
class Supersteps:
    """The function of the pipeline: superstep numbers in, this rank's batches out."""

    plan: Plan
    manifest: Manifest
    images: ImageSettings
    rank: int
    world_size: int
    first_step: int
    stop_step: int

    def __call__(self, items: Any) -> Iterator[Any]:
        """Yield the batches of the supersteps ``items["superstep"]``, each as columns."""
        for superstep in items["superstep"].tolist():
            yield from self._batches(superstep)

    def _batches(self, superstep: int) -> Iterator[Columns]:
        lanes = self.plan.lanes_of(self.rank, self.world_size)
        with ThreadPoolExecutor(max_workers=8) as pool:
            windows = list(pool.map(lambda lane: self._window(lane, superstep), lanes))
        per = self.plan.rows_per_step
        for slot in range(self.plan.steps_per_superstep):
            step = superstep * self.plan.steps_per_superstep + slot
            if self.first_step <= step < self.stop_step:
                take = slice(slot * per, (slot + 1) * per)
                yield self._batch(step, [window.rows(take) for window in windows])

    def _window(self, lane: int, superstep: int) -> "_Window":
        runs, order = self.plan.window(lane, superstep)
        return _fetch(self.manifest, runs, order)

    def _batch(self, step: int, parts: list[dict[str, Any]]) -> Columns:
        data = [image for part in parts for image in part.pop("data")]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        pixels = np.stack([resize(decode(d, self.images.channels), self.images.size) for d in data])
        columns["image"] = augment(
            pixels,
            seed=self.plan.seed,
            epochs_b=columns.pop("epoch"),
            ids_b=columns["id"],
            pad=self.images.pad,
            flip=self.images.flip,
            erase_probability=self.images.erase_probability,
        )
        return columns | {"step": np.full(len(data), step)}


@dataclass(frozen=True)
class _Window:
    """The encoded rows of one lane's window, in the order they are trained on."""

    data: list[memoryview]
    columns: Columns

    def rows(self, take: slice) -> dict[str, Any]:
        return {name: column[take] for name, column in self.columns.items()} | {"data": self.data[take]}


def _fetch(manifest: Manifest, runs: Sequence[Run], order: NDArray[np.int64]) -> _Window:
    data: list[memoryview] = []
    parts: list[Columns] = []
    for run in runs:
        ids = np.arange(run.first_id, run.first_id + run.rows)
        rows = manifest.rows(ids)
        data += read_rows(manifest.shard_uris[run.shard], rows["offset"], rows["size"], rows["checksum"])
        parts.append({"id": ids, "epoch": np.full(run.rows, run.epoch), "label": rows["label"], "va": rows["va"]})
    columns = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    return _Window([data[i] for i in order], columns)


def batches(supersteps: Supersteps, *, num_cpus: float) -> Iterator[Batch]:
    """This rank's batches of the steps [first_step, stop_step), in order.

    Args:
        supersteps: What the tasks do.
        num_cpus: CPUs the pipeline may use at once.
    """
    plan, positions = supersteps.plan, supersteps.plan.positions(supersteps.rank, supersteps.world_size)
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    begin = supersteps.first_step // plan.steps_per_superstep
    end = -(-supersteps.stop_step // plan.steps_per_superstep)
    context.target_max_block_size = BLOCK_BYTES
    context.custom_execution_callback_classes = [_Breather]
    for first in range(begin, end, SUPERSTEPS_PER_PIPELINE):
        items = [{"superstep": superstep} for superstep in range(first, min(end, first + SUPERSTEPS_PER_PIPELINE))]
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            supersteps, batch_size=None, num_cpus=min(1.0, num_cpus), concurrency=max(1, int(num_cpus))
        )
        for columns in dataset.iter_batches(batch_size=len(positions), batch_format="numpy", prefetch_batches=2):
            yield _to_batch(cast(Columns, columns), positions)


class _Breather(ExecutionCallback):
    """Pauses Ray Data's scheduling loop, which runs in a thread of the training process.

    While finished batches wait to be trained on, the loop finds its tasks ready, may not read them, and starts over
    without a pause: it would take a core, and the interpreter, from the training (measured in DECISIONS.md).
    """

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        time.sleep(LOOP_PAUSE_S)


def _to_batch(columns: Columns, positions: NDArray[np.int32]) -> Batch:
    steps = np.unique(columns["step"])
    assert len(steps) == 1, f"rows of steps {steps} in one batch"
    return Batch(
        step=int(steps[0]),
        positions=positions,
        ids=columns["id"],
        images=columns["image"],
        labels=columns["label"].astype(np.int64),
        va=columns["va"],
    )
