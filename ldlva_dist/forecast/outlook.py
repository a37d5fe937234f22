"""All that can be told of a run before it starts, and what stands in its way."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ldlva_dist import storage
from ldlva_dist.bank.records import bytes_per_row
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import LdlvaError, RunStopped, SettingError
from ldlva_dist.forecast.memory import STORE, Role, computed_memory, measured_memory
from ldlva_dist.forecast.probe import Probe, probe
from ldlva_dist.forecast.sizes import checkpoint_bytes, epoch_bytes, planned_bank_spec
from ldlva_dist.forecast.work import RunWork, work_of
from ldlva_dist.run import launch
from ldlva_dist.run.preflight import Check, Problem, checks, find_problems
from ldlva_dist.runtime import placement
from ldlva_dist.runtime.own_node import mean_store_share
from ldlva_dist.stream import pipeline
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training.inputs import Resources, balanced_plan, make_plan


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a run will take; speed, time and cost are None where nothing was probed."""

    name: str
    dataset: str
    num_train: int
    num_classes: int
    epochs: float
    work: RunWork
    steps_done: int
    """By an earlier start of the run: time and cost are those of the rest."""
    read_bytes_per_epoch: int
    checkpoint_bytes: dict[str, int]
    """Bytes of one checkpoint, by part."""
    memory: tuple[Role, ...]
    nodes: int
    samples_per_second: float | None
    start_seconds: float | None
    probed_steps: int | None
    seconds: float | None
    cost: float | None
    problems: tuple[Problem, ...]

    @property
    def kept_bytes(self) -> int:
        """What all checkpoints take in the end, at most."""
        return self.work.checkpoints_kept * sum(self.checkpoint_bytes.values())

    @property
    def most_bytes(self) -> int:
        """What they take while one more is being written."""
        return min(self.work.checkpoints, self.work.checkpoints_kept + 1) * sum(self.checkpoint_bytes.values())

    def plain(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return asdict(self) | {
            "checkpoint_bytes_in_all": sum(self.checkpoint_bytes.values()),
            "kept_bytes": self.kept_bytes,
            "most_bytes": self.most_bytes,
        }


def estimate_run(
    config: RunConfig,
    dataset: Dataset,
    *,
    probe_seconds: float | None,
    price: float | None = None,
    tell: Callable[[str], None] = print,
) -> Outlook:
    """Check, compute, and with ``probe_seconds`` train for a while, unless something stands in the way.

    Args:
        config: A run's settings, with absolute paths.
        dataset: Its data set.
        probe_seconds: How long the probe trains; None for arithmetic alone.
        price: Of one node for an hour.
        tell: Told before the probe.

    Raises:
        SettingError: for settings that nothing can be computed of.
        RunStopped: where the user stopped the probe.
    """
    info, work, fits = dataset.info, work_of(config, dataset.info), checks(config, dataset)
    if probe_seconds is not None and not find_problems(fits):
        with launch.nodes_for(config):  # the probe, a run, asks for them again
            pass
    nodes = placement.count_nodes()
    config = replace(
        config, placement=placement.settle_data_cpus(config.placement, config.bank_shards, config.index_shards)
    )
    memory = computed_memory(config, info, nodes, mean_store_share(config.placement.data_cpus))
    sizes = checkpoint_bytes(config, info)
    problems = find_problems([*fits, *_room(config, info, memory, work, sum(sizes.values()))])
    seen: Probe | None = None
    if probe_seconds is not None and not problems:
        tell(f"probing: a start, and {probe_seconds:g} s of training")
        seen, problems = _probe(config, probe_seconds)
        if seen:
            memory = measured_memory(memory, seen.peaks)
            problems = find_problems([_memory_check(memory)])
    done = _steps_done(config)
    seconds = _seconds(work, done, seen)
    return Outlook(
        name=config.name,
        dataset=config.data.dataset,
        num_train=info.num_train,
        num_classes=len(info.class_names),
        epochs=config.training.epochs,
        work=work,
        steps_done=done,
        read_bytes_per_epoch=epoch_bytes(info, _plan(config, dataset)),
        checkpoint_bytes=sizes,
        memory=tuple(memory),
        nodes=nodes,
        samples_per_second=seen.samples_per_second if seen else None,
        start_seconds=seen.start_seconds if seen else None,
        probed_steps=seen.steps if seen else None,
        seconds=seconds,
        cost=seconds / 3600 * nodes * price if seconds is not None and price is not None else None,
        problems=tuple(problems),
    )


def _probe(config: RunConfig, seconds: float) -> tuple[Probe | None, list[Problem]]:
    try:
        return probe(config, seconds), []
    except RunStopped:
        raise
    except LdlvaError as error:
        cure = "jobs/train.py would end so too; jobs/doctor.py looks at the machine, make_shards.py verify at the data"
        return None, [Problem(sentence=f"the probe failed: {error}", cure=cure, exit_code=error.exit_code)]


def _seconds(work: RunWork, done: int, seen: Probe | None) -> float | None:
    if seen is None:
        return None
    return seen.start_seconds + work.seconds(seen.samples_per_second) * (work.steps - done) / work.steps


def _steps_done(config: RunConfig) -> int:
    checkpoint = Checkpoint.newest(config.uri)
    return checkpoint.facts["step"] if checkpoint else 0


def _plan(config: RunConfig, dataset: Dataset) -> Plan:
    """With class balance or a fold the manifest is counted, by tasks of the cluster."""
    if config.data.balance == 0 and config.data.fold is None:
        return make_plan(config, tuple(shard.rows for shard in dataset.info.shards_of("train")))
    manifest = pipeline.Manifest(dataset, placement.manifest_task())
    only_data = Resources(info=dataset.info, manifest=manifest, service=None, index=None, quarantine=None, control=None)
    return balanced_plan(config, only_data, config.data.balance)


def _room(config: RunConfig, info: DatasetInfo, memory: Sequence[Role], work: RunWork, checkpoint: int) -> list[Check]:
    """Whether memory and storage hold the run; a run itself finds out on the way."""
    found = [_memory_check(memory)]
    if config.bank_shards:
        k, shards = config.bank_neighbors, config.bank.num_shards
        bank = info.num_train * bytes_per_row(planned_bank_spec(config, info), k)
        found.insert(
            0,
            Check(
                require=partial(placement.check_memory, bank, shards),
                cure="--bank.features-dtype int8, more --bank.num-shards, or more nodes",
            ),
        )
    needed = min(work.checkpoints, work.checkpoints_kept + 1) * checkpoint
    found.append(
        Check(
            require=partial(_require_space, config.storage_path, needed),
            cure="free some of it, a smaller --training.num-to-keep, or another --storage-path",
        )
    )
    return found


def _memory_check(memory: Sequence[Role]) -> Check:
    processes = sum(role.together for role in memory if role.name != STORE and not role.name.startswith("GPU"))
    store = sum(role.together for role in memory if role.name == STORE)
    return Check(
        require=partial(placement.check_room, processes, store),
        cure="fewer --placement.num-workers, a smaller --data.batch-size, --bank.features-dtype int8, or more nodes",
    )


def _require_space(uri: str, needed: int) -> None:
    disk = storage.disk_of(uri)
    if disk and disk[1] < needed:
        raise SettingError(
            f"the disk of storage_path={uri} must have room for the checkpoints ({needed / 1e9:.2f} GB), "
            f"got {disk[1] / 1e9:.2f} GB free"
        )
