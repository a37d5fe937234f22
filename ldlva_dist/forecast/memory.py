"""Memory of a run by role: from shapes and settings alone, or as a probe has seen it.

B = rows of a rank's micro-batch, P = bytes of the parameters, n = rows of a bank shard.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from ldlva_dist.bank.on_workers.record_tensors import row_bytes
from ldlva_dist.bank.records import bytes_per_row
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.forecast.sizes import graph_columns, meta_model, planned_bank_spec
from ldlva_dist.forecast.watch import DRIVER, OTHERS, STORE, Peaks
from ldlva_dist.index.backends import HNSWIndex
from ldlva_dist.index.client import PIECE_BYTES as ROWS_ON_THEIR_WAY
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.storage.checksums import PIECE_BYTES
from ldlva_dist.stream import pipeline
from ldlva_dist.training.device.room import activation_bytes, meta_inputs, moment_names, parameter_bytes
from ldlva_dist.training.engine import BUCKET_NUMBERS
from ldlva_dist.training.inputs import make_plan

MB = 1 << 20
IMPORTED = {"trainer": 440 * MB, "bank shard": 116 * MB, "index shard": 140 * MB, "stream task": 115 * MB}
"""Private memory of a worker that has imported what its role needs, and holds nothing yet; see bench/size/plan.py."""
CUDA_HOST = 1024 * MB
"""Memory of the host that a process with a GPU takes besides."""
CUDA_CONTEXT = 1024 * MB
"""Memory of a GPU that CUDA, cuDNN and cuBLAS take for themselves; an estimate, not measured."""
BATCHES_AHEAD = 3
"""Batches on a GPU at once: the step's own, and two that were copied ahead."""
FIXED = {DRIVER: 370 * MB, "controller": 270 * MB}
MANIFEST_ROW = 26
"""Bytes of a training sample in the object store of every node that streams."""
BLOCKS_WAITING = 4
"""Blocks of a pipeline that are finished, on their way, or being taken, where its tasks end in their order."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """What the processes of one kind need, at most."""

    name: str
    processes: int
    each: int
    """Bytes."""
    how: Literal["computed", "measured"] = "computed"
    computed: int | None = None
    """Bytes by arithmetic, where ``each`` was measured."""

    @property
    def together(self) -> int:
        """Bytes of all of them."""
        return self.processes * self.each


def computed_memory(config: RunConfig, info: DatasetInfo, nodes: int, store_share: float = math.inf) -> list[Role]:
    """Every role by arithmetic. On a GPU the network's share is the device's, and a role of its own.

    Args:
        config: The run's settings.
        info: Of its data set.
        nodes: Of the cluster.
        store_share: Bytes of a node's object store that a pipeline may fill.
    """
    placement, model = config.placement, meta_model(config, info)
    network, copies = _network_bytes(config, model), _checkpoint_copies(config, model)
    trainer = IMPORTED["trainer"] + copies + _waiting_bytes(config, info) + _rank_host_bytes(config, info)
    roles = []
    if placement.use_gpu:
        each = network + _device_bytes(config, model) + _rank_rows_bytes(config, info)
        roles.append(Role(name="GPU of a trainer", processes=placement.max_workers, each=each))
        trainer += CUDA_HOST
    else:
        trainer += network + _rank_rows_bytes(config, info)
    roles.append(Role(name="trainer", processes=placement.max_workers, each=trainer))
    if config.bank_shards:
        roles.append(Role(name="bank shard", processes=config.bank_shards, each=_shard_bytes(config, info)))
    if config.index_shards:
        # The points of the graph in use and of the one being built, and the index's own copy of both.
        row = 4 * model.feature_width * 4
        if config.index.min_recall < 1 and not placement.gpus_per_index:
            row += 2 * HNSWIndex.LINK_BYTES
        each = IMPORTED["index shard"] + info.num_train * row // config.index_shards
        roles.append(Role(name="index shard", processes=config.index_shards, each=each))
    tasks = placement.max_workers * pipeline.num_tasks(placement.data_cpus)
    roles.append(Role(name="stream task", processes=tasks, each=IMPORTED["stream task"] + _task_bytes(config, info)))
    roles += [Role(name=name, processes=1, each=each) for name, each in FIXED.items()]
    roles.append(Role(name=STORE, processes=nodes, each=store_bytes(config, info, store_share) // nodes))
    return roles


def measured_memory(computed: list[Role], peaks: Peaks) -> list[Role]:
    """The same roles as a probe saw them; those that it did not see stay computed. Ray's own processes come on top."""
    roles = [
        replace(role, each=peaks[role.name].largest, how="measured", computed=role.each)
        if role.name in peaks and role.name != STORE
        else role
        for role in computed
    ]
    if OTHERS in peaks:
        roles.append(Role(name=OTHERS, processes=1, each=peaks[OTHERS].together, how="measured"))
    return roles


def store_bytes(config: RunConfig, info: DatasetInfo, store_share: float = math.inf) -> int:
    """What Ray's object stores hold at most: the manifest, blocks of every pipeline, and features on their way."""
    blocks = config.placement.max_workers * _pipeline_bytes(config, info, store_share)
    return MANIFEST_ROW * info.num_train + blocks + (ROWS_ON_THEIR_WAY if config.index_shards else 0)


def _pipeline_bytes(config: RunConfig, info: DatasetInfo, store_share: float) -> int:
    """Blocks of one pipeline: while its first task is late, all that the tasks beside it made waits for that one's.

    Ray Data begins no task that would go beyond the share; what those at work are finishing comes in any case.
    """
    plan, data = make_plan(config, tuple(shard.rows for shard in info.shards_of("train"))), config.data
    superstep = plan.steps_per_superstep * len(plan.positions(0, config.placement.max_workers))
    rows = pipeline.supersteps_per_task(superstep) * superstep
    late = pipeline.num_tasks(config.placement.data_cpus) * rows * data.image_size**2 * data.channels
    return max(BLOCKS_WAITING * _block_bytes(config, info), int(min(late, store_share)))


def _network_bytes(config: RunConfig, model: LDLVA) -> int:
    """Weights, gradients, the optimiser's state, and what a forward keeps for its backward."""
    training, data, workers = config.training, config.data, config.placement.max_workers
    weights, moments = parameter_bytes(model), len(moment_names(config))
    is_shared = workers > 1 and training.zero_stage > 0
    # ZeRO: weights, gradients and one bucket of them are whole, of masters, moments and own gradients a share is held.
    state = 3 * weights + (2 + moments) * weights // workers if is_shared else (2 + moments) * weights
    if workers > 1 and not (is_shared or config.placement.use_gpu):
        state += 3 * weights  # what GradientMean sends and receives
    batch = -(-data.batch_size // workers // training.gradient_accumulation_steps)
    kept = activation_bytes(model, *meta_inputs(config, model, batch))
    return state + (kept // 2 if training.precision == "bf16" else kept)


def _device_bytes(config: RunConfig, model: LDLVA) -> int:
    """What a GPU holds besides: its context, DeepSpeed's buckets, batches that come ahead and their neighbours."""
    data, workers = config.data, config.placement.max_workers
    rows = -(-data.batch_size // workers)
    batches = BATCHES_AHEAD * rows * data.image_size**2 * data.channels
    # Neighbours' features: as they are stored, at most 4 bytes a number, and as float32; of this step and the next.
    near = 2 * rows * config.neighbors.num_neighbors * model.feature_width * 8 if config.uses_neighbors else 0
    is_shared = workers > 1 and config.training.zero_stage > 0
    number = 4 + (2 if config.training.precision == "bf16" else 0)
    return CUDA_CONTEXT + batches + near + (BUCKET_NUMBERS * number if is_shared else 0)


def _checkpoint_copies(config: RunConfig, model: LDLVA) -> int:
    """A rank's copies of weights and moments, and rank 0's file of the moments."""
    weights, moments = parameter_bytes(model), len(moment_names(config))
    return (1 + 2 * moments) * weights


def _shard_bytes(config: RunConfig, info: DatasetInfo) -> int:
    """A shard's rows, graphs found anew, and a piece of the file that they are written to; few old rows change then."""
    spec, rows = planned_bank_spec(config, info), -(-info.num_train // config.bank.num_shards)
    row = bytes_per_row(spec, config.bank_neighbors) + 4 * graph_columns(config)
    return IMPORTED["bank shard"] + rows * row + min(PIECE_BYTES, rows * row)


def _rank_rows_bytes(config: RunConfig, info: DatasetInfo) -> int:
    """A rank's rows of a bank on the workers, in the memory of its device."""
    if not config.bank_stays:
        return 0
    return -(-info.num_train // config.placement.max_workers) * row_bytes(planned_bank_spec(config, info))


def _rank_host_bytes(config: RunConfig, info: DatasetInfo) -> int:
    """What a rank holds of it in the host's memory: ids of neighbours, and during a save a copy of its rows."""
    if not config.bank_stays:
        return 0
    ids = 4 * config.bank_neighbors * -(-info.num_train // config.placement.max_workers)
    return ids + _rank_rows_bytes(config, info)


def _task_bytes(config: RunConfig, info: DatasetInfo) -> int:
    """One superstep of encoded images, and the block that is being finished."""
    plan = make_plan(config, tuple(shard.rows for shard in info.shards_of("train")))
    image = sum(shard.bytes for shard in info.shards_of("train")) // max(1, info.num_train)
    lanes = len(plan.lanes_of(0, config.placement.max_workers))
    return plan.window_rows * lanes * image + 2 * _block_bytes(config, info)


def _waiting_bytes(config: RunConfig, info: DatasetInfo) -> int:
    return 2 * _block_bytes(config, info)


def _block_bytes(config: RunConfig, info: DatasetInfo) -> int:
    """Whole batches up to the size of a block, and no more than a superstep has."""
    plan = make_plan(config, tuple(shard.rows for shard in info.shards_of("train")))
    rows = len(plan.positions(0, config.placement.max_workers))
    batch = rows * config.data.image_size**2 * config.data.channels
    return min(max(batch, pipeline.BLOCK_BYTES), batch * plan.steps_per_superstep)
