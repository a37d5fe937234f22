"""One run: check, start the services, fit, take the services away."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import UserCallback
from ray.train.torch import TorchTrainer

from ldlva_dist import storage
from ldlva_dist.bank.records import bytes_per_row
from ldlva_dist.bank.service import NeighborService, shard_loads, start_service
from ldlva_dist.checkpoint.checkpoint import CONFIG, Checkpoint
from ldlva_dist.checkpoint.saved_files import newest_bank_files
from ldlva_dist.config import RunConfig, to_json
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import ClusterError, DataError, RunLost, RunStopped, SettingError
from ldlva_dist.index.service import IndexService, start_index
from ldlva_dist.records.console import say
from ldlva_dist.records.follow import Follower
from ldlva_dist.run import preflight
from ldlva_dist.run.backend import StoppableTorchConfig
from ldlva_dist.run.elastic import FollowCluster, LimitedTrainer, SaveBeforeResize, WaitForCluster, WorkerWait
from ldlva_dist.run.lease import Holder, Lease, leased
from ldlva_dist.run.news import end_control, start_control
from ldlva_dist.run.outcome import recorded
from ldlva_dist.run.paths import with_absolute_paths
from ldlva_dist.run.supervise import attend
from ldlva_dist.runtime import growth, placement
from ldlva_dist.runtime.head_watch import is_head_lost
from ldlva_dist.runtime.waiting import last_line, own_error
from ldlva_dist.stream import pipeline, quarantine
from ldlva_dist.training import build
from ldlva_dist.training.inputs import Resources
from ldlva_dist.training.loop import train_worker


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a finished run leaves behind."""

    run_uri: str
    checkpoint: Checkpoint
    """The last checkpoint; the last step counts, never the best."""
    metrics: dict[str, Any]
    """The last report's."""


def fit(
    config: RunConfig,
    *,
    callbacks: Sequence[Any] = (),
    until: Event | None = None,
    sound: bool = False,
    holder: Holder | None = None,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
) -> RunResult:
    """Train to the end, from the last checkpoint of a run of the same name and settings.

    Args:
        config: The run's settings.
        callbacks: Of Ray Train.
        until: Where it is set the run saves and stops, as at a signal.
        sound: Whether the data set is known to be sound: :func:`prepare` has been called for it.
        holder: The process that the job ends with, if it is not this one.
        on_metrics: Called from a thread with every new line of the run's metrics, for as long as the run is this job's.

    Raises:
        SettingError: for settings that do not fit each other, the data set or the cluster; nothing was written.
        DataError: for data or checkpoints that are damaged, or a loss that is not finite.
        ClusterError: if workers or services failed more than ``placement.max_failures`` times, or another job is
            running in the run's folder.
        RunLost: if the run's folder was deleted or taken over meanwhile.
        RunStopped: if it was asked to stop, and has saved; called in the main thread, it takes Ctrl-C and SIGTERM so.
    """
    config = preflight.as_begun(with_absolute_paths(config))
    dataset = prepare(config, sound=sound)
    with leased(config.uri, holder) as lease, recorded(config.uri) as say_done:
        write_settings(config)
        with Follower(config.uri, on_metrics) if on_metrics else nullcontext():
            _run(config, dataset, lease, callbacks, until)
        lease.claim.require()
        result = _result(config)
        say_done(f"trained to step {result.metrics['step']}; the last checkpoint is {result.checkpoint.uri}")
        return result


def _run(config: RunConfig, dataset: Dataset, lease: Lease, callbacks: Sequence[Any], until: Event | None) -> None:
    """Start the services, train to the end, take the services away."""
    with nodes_for(config):
        settled = placement.settle_data_cpus(config.placement, config.bank_shards, config.index_shards)
        config = replace(config, placement=settled)
        pipeline.start_statistics()
        manifest = pipeline.Manifest(dataset, placement.manifest_task())
        service = _start_service(config, dataset) if config.bank_shards else None
    index = None
    control = start_control()
    try:
        index = _start_index(config) if config.index_shards else None
        resources = Resources(
            info=dataset.info,
            manifest=manifest,
            service=service,
            index=index,
            quarantine=_start_quarantine(config, dataset.info),
            control=control,
            require_lease=lease.claim.require,
        )
        trainer = LimitedTrainer(
            partial(train_worker, config, resources),
            policy=_policy(config, control),
            torch_config=StoppableTorchConfig(
                backend=placement.backend(config.placement), timeout_s=math.ceil(config.training.timeout_s)
            ),
            scaling_config=placement.scaling(config.placement),
            run_config=ray.train.RunConfig(
                name=config.name,
                **train_storage(config.storage_path),
                failure_config=placement.failures(config.placement),
                callbacks=[_NoSecondTry(), *_resize_callbacks(config, control), *callbacks],
            ),
        )
        attend(
            partial(_fit, trainer),
            control,
            grace_s=config.training.stop_grace_s,
            until=until,
            require=lease.require,
        )
    finally:
        end_control(control)
        if not is_head_lost():  # then all of it is lost
            for started in (service, index):
                if started:
                    started.stop()


def _result(config: RunConfig) -> RunResult:
    """What the run left; RunStopped where it is not at its end."""
    checkpoint = Checkpoint.newest(config.uri)
    if checkpoint is None:
        raise RunLost(f"the checkpoints of {config.uri} were deleted while the run went on")
    metrics = checkpoint.facts["metrics"]
    if metrics["step"] < metrics["steps"]:
        raise RunStopped(
            f"run {config.name!r} was asked to stop, and has saved after step {metrics['step']} of {metrics['steps']} "
            f"({checkpoint.uri}); run the same command again to resume from there"
        )
    return RunResult(run_uri=config.uri, checkpoint=checkpoint, metrics=metrics)


def train_storage(uri: str) -> dict[str, Any]:
    """Where Ray Train and Tune keep a folder; a store is reached by our own door, with its limits and retries."""
    if not storage.is_remote(uri):
        return {"storage_path": uri}
    filesystem, path = storage.resolve(uri)
    return {"storage_path": path, "storage_filesystem": filesystem}


def prepare(config: RunConfig, *, sound: bool = False) -> Dataset:
    """Check everything that can be checked before a worker starts; nothing is written.

    With ``sound`` the rows of the data set are not looked at again.
    """
    dataset = Dataset.open(config.data.dataset)
    for check in preflight.checks(config, dataset, sound=sound):
        check.require()
    return dataset


def write_settings(config: RunConfig) -> None:
    """Write the config.json of a run whose folder this job holds, unless it is there.

    Raises:
        SettingError: if another job has begun the run with other settings since they were looked at.
    """
    preflight.require_same_settings(config)
    uri = storage.join(config.uri, CONFIG)
    if not storage.exists(uri):
        storage.write_bytes(uri, preflight.settings_of(config.uri) or to_json(config).encode())


@contextmanager
def nodes_for(config: RunConfig) -> Iterator[None]:
    """Ask for nodes that hold a run with its smallest number of workers, and wait; the request ends with the block.

    Args:
        config: The run's settings.

    Raises:
        SettingError: if the cluster can never hold it, as far as that is known.
        ClusterError: after ``placement.wait_for_workers_s``.
    """
    place = config.placement
    bundles = placement.run_bundles(place, place.min_workers, config.bank_shards, config.index_shards)
    request = growth.NodeRequest(config.uri)
    try:
        growth.wait_for_nodes(request, bundles, place.wait_for_workers_s)
        yield
    finally:
        request.cancel()


def _start_service(config: RunConfig, dataset: Dataset) -> NeighborService | None:
    """The actors of the bank; none where it is on the workers' devices. Either way its size is said."""
    info, bank, k = dataset.info, config.bank, config.bank_neighbors
    spec = build.bank_spec(config, info)
    num_bytes = info.num_train * bytes_per_row(spec, k)
    where = f"{bank.num_shards} shards" if config.bank_shards else "the memory of the workers' devices"
    say(
        f"bank: {info.num_train:,} samples, {num_bytes / 2**20:,.0f} MiB in {where} "
        f"({1e6 * bytes_per_row(spec, k) / 2**20:,.0f} MiB for a million samples, "
        f"{1e6 * 4 * k / 2**20:,.0f} of them for the ids of {k} neighbours)",
    )
    if not config.bank_shards:
        return None
    placement.check_memory(num_bytes, bank.num_shards)
    return start_service(
        config.uri,
        shard_loads(dataset, k=k, num_shards=bank.num_shards),
        spec,
        placement.bank_actor(config.placement, num_bytes // bank.num_shards),
        reload=partial(newest_bank_files, config.uri) if bank.on_loss == "continue" else None,
        start_limit_s=config.placement.wait_for_workers_s,
    )


def _start_index(config: RunConfig) -> IndexService:
    return start_index(
        config.index_shards,
        backend=config.index.backend,
        min_recall=config.index.min_recall,
        actor_options=placement.index_actor(config.placement),
        start_limit_s=config.placement.wait_for_workers_s,
    )


def _start_quarantine(config: RunConfig, info: DatasetInfo) -> Any:
    data = config.data
    if data.on_bad_data == "fail":
        return None
    return pipeline.start_quarantine(
        num_rows=info.num_train,
        max_share=data.max_bad_share,
        uri=storage.join(config.uri, quarantine.FILE) if data.on_bad_data == "quarantine" else None,
        actor_options=placement.quarantine_actor(),
    )


def _policy(config: RunConfig, control: Any) -> FollowCluster | WaitForCluster:
    count_workers = partial(placement.count_workers, config.placement, config.bank_shards, config.index_shards)
    wait, scaling = WorkerWait(config.placement, count_workers, control), placement.scaling(config.placement)
    return FollowCluster(scaling, wait, count_workers) if config.placement.is_elastic else WaitForCluster(scaling, wait)


def _resize_callbacks(config: RunConfig, control: Any) -> list[Any]:
    return [SaveBeforeResize(control, grace_s=config.training.stop_grace_s)] if config.placement.is_elastic else []


def _fit(trainer: TorchTrainer) -> ray.train.Result:
    """Fit; an error of ours on a worker comes out as itself, whatever else failed as a ClusterError."""
    try:
        return trainer.fit()
    except ray.train.WorkerGroupError as error:
        if ours := own_error(*error.worker_failures.values()):
            raise ours from error
        rank, cause = next(iter(error.worker_failures.items()))
        raise ClusterError(f"worker {rank} failed: {last_line(cause)}") from error
    except ray.train.ControllerError as error:
        if ours := own_error(error.controller_failure):
            raise ours from error
        raise ClusterError(f"the run's controller failed: {error.controller_failure}") from error
    except RayActorError as error:
        raise ClusterError(
            "the run's controller died; run the same command again to resume from the last checkpoint "
            f"({last_line(error)})"
        ) from error


class _NoSecondTry(UserCallback):
    """Ends a run whose data or settings are at fault, or whose folder is gone: a restart would meet the same."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """An exception of a callback is final."""
        ours = own_error(*worker_exceptions.values())
        if isinstance(ours, DataError | SettingError | RunLost):
            raise ours
