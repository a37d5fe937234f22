"""The stream: Ray Data carries out the plan, one pipeline per training worker.

A pipeline's items are ranges of supersteps, one a task, short ones first. Of each superstep a task fetches the rank's
window of every lane by ranged reads, checks every row, and yields the finished batches in order. The plan decides what
is in them; Ray decides only where the work runs.

A task holds one superstep at a time: ``chunk_rows`` x the rank's lanes x the bytes of an encoded image (128 x 64 x 20
kB = 164 MB), and the block of 32 MB that it is finishing. ``num_cpus`` tasks run at once; finished blocks wait in Ray's
object store. The manifest's blocks (26 bytes a row) lie there too, once a node, and are read in place.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, cast

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import DataContext, TaskPoolStrategy
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import ExecutionResources
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.data._internal.stats import get_or_create_stats_actor
from ray.data._internal.usage.actor import get_or_create_usage_collection_actor
from ray.data._internal.usage.collector import usage_collection_disabled
from ray.exceptions import GetTimeoutError

from ldlva_dist.errors import ClusterError, DataError
from ldlva_dist.messages import Batch
from ldlva_dist.runtime.own_node import on_own_node, store_share
from ldlva_dist.stream.manifest_columns import Manifest
from ldlva_dist.stream.plan import Plan
from ldlva_dist.stream.quarantine import BadRow, Quarantine
from ldlva_dist.stream.superstep import Columns, ImageSettings, Window, fetch, finish_superstep
from ldlva_dist.waits.patience import tell_by
from ldlva_dist.waits.patient_iterator import patiently

TASKS_PER_PIPELINE = 512
# A block is as many whole batches of a task as fit, or one: few objects.
BLOCK_BYTES = 32 << 20
LOOP_PAUSE_S, BLOCKS_WAITING = 0.02, 2
# A task of fewer rows would cost Ray more than it is worth; it goes through several supersteps, one after the other.
TASK_ROWS = 4096
TIMEOUT_S, LIMIT_S = 120.0, 600.0
LOST_WINDOWS = 8  # tolerated one after the other in one lane


@dataclass(frozen=True, kw_only=True)
class Supersteps:
    """The function of the pipeline: ranges of supersteps in, this rank's batches out."""

    plan: Plan
    manifest: Manifest
    images: ImageSettings
    rank: int
    world_size: int
    first_step: int
    stop_step: int
    quarantine: Any = None
    """Handle of a :func:`start_quarantine` actor, which counts bad rows; None: the first one stops the run."""
    control: Any = None
    """Handle of the run's :class:`RunControl` actor, which shows what tasks wait for; None: nobody hears of it."""

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
        """Yield the batches of supersteps ``first`` to ``stop`` - 1 as columns, some whole ones at a time."""
        if self.control:
            tell_by(self.control.tell_wait.remote)
        per_superstep, b = self.plan.steps_per_superstep, self.rows_per_step
        ranges = zip(items["first"].tolist(), items["stop"].tolist(), strict=True)
        for superstep in chain.from_iterable(range(*ends) for ends in ranges):
            first = superstep * per_superstep
            begin, end = max(first, self.first_step), min(first + per_superstep, self.stop_step)
            window, order = self._window(superstep)
            for step in range(begin, end, self.steps_per_block):
                steps = np.arange(step, min(end, step + self.steps_per_block))
                rows = order[(step - first) * b : (step - first + len(steps)) * b]
                yield self._finish(window, rows) | {"step": np.repeat(steps, b)}

    @property
    def _image_bytes(self) -> int:
        return self.rows_per_step * self.images.size**2 * self.images.channels

    def _window(self, superstep: int) -> tuple[Window, NDArray[np.int64]]:
        """The rank's lanes, and the order in which their rows are trained on: step by step, and in a step by lane."""
        lanes = self.plan.lanes_of(self.rank, self.world_size)
        supersteps = np.full(len(lanes), superstep)
        for _ in range(LOST_WINDOWS):
            windows = [self.plan.window(*place) for place in zip(lanes, supersteps.tolist(), strict=True)]
            size = len(windows[0][1])
            runs = [run for runs, _ in windows for run in runs]
            window = fetch(self.plan, runs, size, self.manifest.shard_uris, self.manifest.rows)
            if window.bad:
                tolerate(self.quarantine, [window.describe(row) for row in window.bad])
            lost = window.lost_lanes()
            if not len(lost):
                order = np.stack([order for _, order in windows]) + size * np.arange(len(lanes))[:, None]
                return window, order.reshape(len(lanes), -1, self.plan.rows_per_step).swapaxes(0, 1).ravel()
            supersteps[lost] += 1  # the lane's next window has as many rows
        raise DataError(f"{LOST_WINDOWS} windows of one lane, one after the other, have no row that can be read")

    def _finish(self, window: Window, rows: NDArray[np.int64]) -> Columns:
        try:
            return finish_superstep(window, window.good(rows), self.images, self.plan.seed)
        except DataError:
            bad = window.find_undecodable(window.good(rows), self.images.channels)
            if not bad:
                raise
            tolerate(self.quarantine, bad)
            return self._finish(window, rows)


def start_quarantine(*, num_rows: int, max_share: float, uri: str | None, actor_options: Mapping[str, Any]) -> Any:
    """Handle of an actor that counts the bad rows of all workers; it goes when the last handle goes."""
    return ray.remote(Quarantine).options(**actor_options).remote(num_rows=num_rows, max_share=max_share, uri=uri)


def tolerate(quarantine: Any, rows: Sequence[BadRow]) -> None:
    """Count bad rows; a DataError unless there is a :func:`start_quarantine` actor and its budget allows them."""
    if quarantine is None:
        raise DataError(f"{rows[0]} (data.on_bad_data says what is done with such rows)")
    try:
        ray.get(quarantine.add.remote(rows), timeout=TIMEOUT_S)
    except GetTimeoutError as error:
        raise ClusterError(f"the count of bad rows did not answer in {TIMEOUT_S:g} s") from error


def start_statistics() -> None:
    """Start Ray Data's actors for statistics on this node, if there are none yet.

    They stay when all jobs have ended. Without this the first worker would start them on its own node, which Ray's
    autoscaler then keeps.
    """
    get_or_create_stats_actor()
    if not usage_collection_disabled():
        get_or_create_usage_collection_actor()


def batches(supersteps: Supersteps, *, num_cpus: float, limit_s: float = LIMIT_S) -> Iterator[Batch]:
    """This rank's batches of the steps [first_step, stop_step), in order.

    Args:
        supersteps: What the tasks do.
        num_cpus: CPUs the pipeline may use at once. They are reserved with the worker's own, so its tasks ask Ray for
            none: others could take what is free between two tasks, and two runs could wait for each other for ever.
        limit_s: Longest wait for a batch, in seconds.

    Raises:
        ClusterError: for a batch that does not come within the limit.
    """
    plan, positions = supersteps.plan, supersteps.plan.positions(supersteps.rank, supersteps.world_size)
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(cpu=num_cpus)
    context.enable_progress_bars = False
    begin = supersteps.first_step // plan.steps_per_superstep
    end = -(-supersteps.stop_step // plan.steps_per_superstep)
    context.target_max_block_size = supersteps.bytes_per_block
    context.custom_execution_callback_classes = [_OwnLimits, _Breather]
    tasks = task_ranges(begin, end, supersteps_per_task(plan.steps_per_superstep * len(positions)))
    for at in range(0, len(tasks), TASKS_PER_PIPELINE):
        items = [{"first": first, "stop": stop} for first, stop in tasks[at : at + TASKS_PER_PIPELINE]]
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            supersteps,
            batch_size=None,
            num_cpus=0,
            compute=TaskPoolStrategy(num_tasks(num_cpus)),
            scheduling_strategy=on_own_node(),
        )
        # Whole blocks, as cutting batches anew would copy them. They are made here: there is nothing to prefetch, and
        # with N to prefetch Ray Data would hold each block back until the N after it are finished.
        blocks = dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
        for block in patiently(blocks, "the stream", limit_s=limit_s, state=partial(_state, supersteps)):
            columns = cast(Columns, block)
            for row in range(0, len(columns["step"]), len(positions)):
                rows = slice(row, row + len(positions))
                yield _to_batch({name: column[rows] for name, column in columns.items()}, positions)


def supersteps_per_task(rows: int) -> int:
    """Those of so many rows that a task goes through."""
    return max(1, TASK_ROWS // rows)


def task_ranges(begin: int, end: int, most: int) -> list[tuple[int, int]]:
    """The supersteps of each task: one, as the first batch is waited for, then twice as many each, up to ``most``."""
    ranges, size = [], 1
    while begin < end:
        ranges.append((begin, min(end, begin + size)))
        begin, size = begin + size, min(2 * size, most)
    return ranges


def num_tasks(num_cpus: float) -> int:
    """Tasks of a pipeline at once."""
    return max(1, int(num_cpus))


def _state(supersteps: Supersteps) -> str:
    """What a rank says that has no batch."""
    return f"rank {supersteps.rank} has no batch; its tasks wait for a process on its node, or for the data set's store"


class _OwnLimits(ExecutionCallback):
    """Lets a pipeline use what it was told, which preflight has counted.

    Ray Data deals what a node has left among all pipelines by whole numbers: none each, where they are more.
    """

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        cpus = executor._options.resource_limits.cpu
        limits = ExecutionResources(cpu=cpus, object_store_memory=store_share(cpus))
        autoscaler: Any = executor._cluster_autoscaler
        autoscaler.get_total_resources = lambda: limits


class _Breather(ExecutionCallback):
    """Pauses Ray Data's scheduling loop, which runs in a thread of the training process, while batches wait for it.

    With several finished blocks waiting to be trained on, the loop finds its tasks ready and may not read them. It
    starts over without a pause, 750 times a second, and would take a core, and the interpreter, from the training
    (results/stream.md). Where training waits for data the loop starts a task, or sleeps by itself until one has
    something.
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
