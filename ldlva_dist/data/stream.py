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
from ray.data import DataContext, TaskPoolStrategy
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from ldlva_dist.data.manifest import DatasetInfo, read_columns, read_va
from ldlva_dist.data.plan import Plan, Run
from ldlva_dist.data.shards import cut_rows, read_span
from ldlva_dist.data.transforms import augment, decode, resize
from ldlva_dist.data.versions import shard_uri
from ldlva_dist.messages import Batch

Columns = dict[str, NDArray[Any]]
BLOCK_ROWS = 1 << 18
SUPERSTEPS_PER_PIPELINE = 512
# A block is as many whole batches as fit, or one: few objects, and the first batch does not wait for a whole task.
BLOCK_BYTES = 32 << 20
LOOP_PAUSE_S, BLOCKS_WAITING = 0.02, 2
READ_THREADS = 8


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
        self.shard_uris = [shard_uri(dataset_uri, info, shard) for shard in shards]
        self.shard_rows = tuple(shard.rows for shard in shards)
        self._blocks = [
            load.remote(dataset_uri, first, min(BLOCK_ROWS, rows - first)) for first in range(0, rows, BLOCK_ROWS)
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

    @property
    def rows_per_step(self) -> int:
        """Rows of one of this rank's batches."""
        return len(self.plan.lanes_of(self.rank, self.world_size)) * self.plan.rows_per_step

    @property
    def steps_per_block(self) -> int:
        """Batches that are handed on together."""
        return max(1, BLOCK_BYTES // self._image_bytes)

    @property
    def bytes_per_block(self) -> int:
        """Of a block's images; its other columns come on top."""
        return self.steps_per_block * self._image_bytes

    def __call__(self, items: Any) -> Iterator[Columns]:
        """Yield the batches of the supersteps ``items["superstep"]`` as columns, some whole ones at a time."""
        per_superstep, b = self.plan.steps_per_superstep, self.rows_per_step
        for superstep in items["superstep"].tolist():
            first = superstep * per_superstep
            begin, end = max(first, self.first_step), min(first + per_superstep, self.stop_step)
            window = self._window(superstep)
            for step in range(begin, end, self.steps_per_block):
                steps = np.arange(step, min(end, step + self.steps_per_block))
                rows = window.rows(slice((step - first) * b, (step - first + len(steps)) * b))
                yield self._finish(rows) | {"step": np.repeat(steps, b)}

    @property
    def _image_bytes(self) -> int:
        return self.rows_per_step * self.images.size**2 * self.images.channels

    def _window(self, superstep: int) -> "_Window":
        """The encoded rows of the rank's lanes: step by step, and in a step lane by lane."""
        lanes = [self.plan.window(lane, superstep) for lane in self.plan.lanes_of(self.rank, self.world_size)]
        order = np.stack([order for _, order in lanes]) + len(lanes[0][1]) * np.arange(len(lanes))[:, None]
        order = order.reshape(len(lanes), -1, self.plan.rows_per_step).swapaxes(0, 1).ravel()
        return _fetch(self.manifest, [run for runs, _ in lanes for run in runs]).rows(order)

    def _finish(self, window: "_Window") -> Columns:
        columns, images = dict(window.columns), self.images
        columns["image"] = augment(
            (resize(decode(data, images.channels), images.size) for data in window.data),
            seed=self.plan.seed,
            epochs_b=columns.pop("epoch"),
            ids_b=columns["id"],
            pad=images.pad,
            flip=images.flip,
            erase_probability=images.erase_probability,
        )
        return columns


@dataclass(frozen=True)
class _Window:
    """Encoded rows, in the order they are trained on."""

    data: list[memoryview]
    columns: Columns

    def rows(self, take: slice | NDArray[np.int64]) -> "_Window":
        data = self.data[take] if isinstance(take, slice) else [self.data[row] for row in take.tolist()]
        return _Window(data, {name: column[take] for name, column in self.columns.items()})


def _fetch(manifest: Manifest, runs: Sequence[Run]) -> _Window:
    """The rows of all runs, one ranged read each."""
    ids = [np.arange(run.first_id, run.first_id + run.rows) for run in runs]
    columns = manifest.rows(np.concatenate(ids)) | {
        "id": np.concatenate(ids),
        "epoch": np.repeat([run.epoch for run in runs], [run.rows for run in runs]),
    }
    ends = np.cumsum([run.rows for run in runs])[:-1]
    shards = [manifest.shard_uris[run.shard] for run in runs]
    offsets, sizes, checksums = (np.split(columns.pop(name), ends) for name in ("offset", "size", "checksum"))
    with ThreadPoolExecutor(max_workers=READ_THREADS) as pool:
        spans = pool.map(read_span, shards, offsets, sizes)
        # Checked here, not in the threads: they would only take the interpreter from each other.
        parts = map(cut_rows, shards, spans, offsets, sizes, checksums)
        return _Window([image for part in parts for image in part], columns)


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
    context.target_max_block_size = supersteps.bytes_per_block
    context.custom_execution_callback_classes = [_Breather]
    for first in range(begin, end, SUPERSTEPS_PER_PIPELINE):
        items = [{"superstep": superstep} for superstep in range(first, min(end, first + SUPERSTEPS_PER_PIPELINE))]
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            supersteps, batch_size=None, num_cpus=min(1.0, num_cpus), compute=TaskPoolStrategy(max(1, int(num_cpus)))
        )
        # Whole blocks, because cutting batches anew would copy them.
        for block in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2):
            columns = cast(Columns, block)
            for row in range(0, len(columns["step"]), len(positions)):
                rows = slice(row, row + len(positions))
                yield _to_batch({name: column[rows] for name, column in columns.items()}, positions)


class _Breather(ExecutionCallback):
    """Pauses Ray Data's scheduling loop, which runs in a thread of the training process, while batches wait for it.

    With finished blocks waiting to be trained on, the loop finds its tasks ready, may not read them, and starts over
    without a pause: it would take a core, and the interpreter, from the training (bench/RESULTS.md). Where the training
    waits for data the loop has nothing ready and sleeps by itself.
    """

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        output = executor._output_node
        if output and output[1].output_queue.num_blocks >= BLOCKS_WAITING:
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
