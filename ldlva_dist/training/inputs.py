"""What a training worker reads: its batches in the order of the plan, and its neighbours' images."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist

from ldlva_dist.bank.service import NeighborService
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.index.service import IndexService
from ldlva_dist.messages import Batch
from ldlva_dist.stream import pipeline
from ldlva_dist.stream.class_balance import Balance
from ldlva_dist.stream.plan import Plan
from ldlva_dist.stream.random_access import RandomAccess
from ldlva_dist.training.neighbors.exact_neighbors import NeighborImages


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the launching process prepared for all workers."""

    info: DatasetInfo
    manifest: pipeline.Manifest
    service: NeighborService | None
    index: IndexService | None
    """The index of the learnt features; None for neighbours in the plane."""
    quarantine: Any
    """The actor that counts bad rows; None where the first one stops the run."""
    control: Any
    """The :class:`RunControl` actor."""
    require_lease: Callable[[], None] = lambda: None
    """Raises where the run's folder is another job's by now; who writes there asks first."""


def make_plan(config: RunConfig, shard_rows: tuple[int, ...], balance: Balance | None = None) -> Plan:
    """The plan of a run over training shards of so many rows; its numbers do not depend on the class balance."""
    data = config.data
    return Plan(shard_rows, config.training.seed, data.batch_size, data.chunk_rows, balance, data.max_lanes, data.fold)


def balanced_plan(config: RunConfig, resources: Resources, balance: float) -> Plan:
    """The plan of a run with a class balance, and without its fold."""
    plan = make_plan(config, resources.manifest.shard_rows)
    if balance == 0 and config.data.fold is None:
        return plan
    counts_kC = resources.manifest.chunk_classes(plan, len(resources.info.class_names))
    return make_plan(config, plan.shard_rows, Balance(counts_kC, balance, config.training.seed))


def read_batches(
    config: RunConfig, resources: Resources, plan: Plan, steps: range, *, augmented: bool = True
) -> Iterator[Batch]:
    """This rank's batches of consecutive steps, in order."""
    supersteps = pipeline.Supersteps(
        plan=plan,
        manifest=resources.manifest,
        images=_image_settings(config, augmented=augmented),
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        first_step=steps.start,
        stop_step=steps.stop,
        quarantine=resources.quarantine,
        control=resources.control,
    )
    return pipeline.batches(supersteps, num_cpus=config.placement.data_cpus, limit_s=config.training.timeout_s)


def neighbor_images(config: RunConfig, resources: Resources, plan: Plan) -> NeighborImages | None:
    """The reader of neighbours' images for the exact source; None for the bank."""
    if not config.reads_images:
        return None
    access = RandomAccess(
        resources.manifest,
        on_bad=lambda row: pipeline.tolerate(resources.quarantine, [row]),
        preparation=preparation(config),
        cache_mb=config.neighbors.cache_mb,
    )
    return NeighborImages(
        access,
        epoch_of=plan.epoch_of,
        seed=config.training.seed,
        images=_image_settings(config, augmented=True),
        warmup_epochs=config.loss.warmup_epochs,
        timeout_s=config.neighbors.timeout_s,
    )


def preparation(config: RunConfig) -> Preparation:
    """How an image becomes the input of a run's network."""
    data = config.data
    return Preparation(size=data.image_size, channels=data.channels, resize=data.resize)


def _image_settings(config: RunConfig, *, augmented: bool) -> pipeline.ImageSettings:
    data = config.data
    return pipeline.ImageSettings(
        **asdict(preparation(config)),
        flip=data.flip and augmented,
        pad=data.pad if augmented else 0,
        erase_probability=data.erase_probability if augmented else 0.0,
    )
