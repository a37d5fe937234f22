"""From settings to a worker: its state, restored where there is a checkpoint, and all that it trains with."""

import dataclasses
import math
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import ray.train.torch
import torch
import torch.distributed as dist

from ldlva_dist import storage
from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.on_workers.rank_bank import RankBank
from ldlva_dist.bank.on_workers.record_tensors import row_bytes
from ldlva_dist.bank.records import BankSpec
from ldlva_dist.bank.static_rows import load_shard_rows
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.resume import newest_whole, roll_back, starting_point
from ldlva_dist.checkpoint.saver import Saver
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import SettingError
from ldlva_dist.messages import Batch
from ldlva_dist.method.losses import balanced_class_weights
from ldlva_dist.method.robust_losses import RobustSettings
from ldlva_dist.method.row_routes import RowRoutes
from ldlva_dist.method.step import StepSettings
from ldlva_dist.method.uncertainty_table import StartNoise, UncertaintyTable
from ldlva_dist.records.ids_log import IdsLog
from ldlva_dist.records.metrics_log import MetricsLog
from ldlva_dist.records.trackers import open_tracker
from ldlva_dist.records.uncertainty_history import drop_history
from ldlva_dist.stream.class_balance import class_quotas
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training.device.copies import copies_for
from ldlva_dist.training.device.room import least_bytes, require_gpu_room
from ldlva_dist.training.engine import Engine, EngineSettings, build_optimizer
from ldlva_dist.training.inputs import Resources, balanced_plan, neighbor_images, read_batches
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.feature_graphs import (
    FIRST_GRAPH,
    FeatureGraphs,
    GraphBuilder,
    Rebuilds,
    plan_rebuilds,
)
from ldlva_dist.training.neighbors.warm_start import fill_bank, steps_of_one_pass
from ldlva_dist.training.network import build_model, feature_width_of, restored_model
from ldlva_dist.training.rank_votes import Agreement
from ldlva_dist.training.recorder import Recorder
from ldlva_dist.training.schedule import Schedule
from ldlva_dist.training.state import BankSnapshots, TrainState
from ldlva_dist.training.worker import Worker
from ldlva_dist.waits.patient_iterator import begun


def build_worker(config: RunConfig, resources: Resources) -> Worker:
    """One rank of a run, ready for its next step; what a killed start left behind is removed. Collective."""
    device = ray.train.torch.get_device()
    torch.set_num_threads(max(1, int(config.placement.cpus_per_worker)))
    plan = balanced_plan(config, resources, config.data.balance)
    resources.require_lease()
    if device.type == "cuda":
        gpu_bytes = torch.cuda.get_device_properties(device).total_memory
        require_gpu_room(least_bytes_of_rank(config, resources.info, dist.get_world_size()), gpu_bytes)
    checkpoint = newest_whole(config.uri, resources.control.tell.remote)
    batches = _batches(config, resources, plan, checkpoint)
    client = _connect(config, resources, device)
    begins_with = None if checkpoint else config.training.start_from
    start = starting_point(begins_with) if begins_with else None
    state = build_state(config, resources.info, client, device=device, checkpoint=checkpoint, start=start)
    recorder = _recorder(config, resources, state)
    if client and config.bank.warm_start == "forward" and state.step == 0:
        fill_bank(state, client, plan, _one_pass(config, resources))
    if state.step == 0:
        recorder.add_uncertainties(state, epoch=0.0)
    return Worker(
        state=state,
        plan=plan,
        batches=batches,
        client=client,
        images=neighbor_images(config, resources, plan),
        graphs=_feature_graphs(config, resources, plan, client),
        settings=step_settings(config, resources.info, device),
        schedule=_schedule(config, plan),
        meters=Meters(
            batch_size=plan.batch_size,
            num_rows=plan.num_rows,
            total_steps=plan.steps_for(config.training.epochs),
            device=device,
        ),
        recorder=recorder,
        saver=Saver(
            config.uri,
            num_to_keep=config.training.num_to_keep,
            limit_s=config.training.timeout_s,
            require_lease=resources.require_lease,
        ),
        agreement=Agreement(
            resources.control.stopping.remote(),
            save_every_minutes=config.training.checkpoint_every_minutes,
            tell=resources.control.tell.remote,
        ),
    )


def build_state(
    config: RunConfig,
    info: DatasetInfo,
    bank: BankSnapshots | None,
    *,
    device: torch.device,
    checkpoint: Checkpoint | None,
    start: Checkpoint | None = None,
) -> TrainState:
    """The state of a run, from its checkpoint, or from the beginning, with what another run had learnt. Collective."""
    num_classes, saved = len(info.class_names), checkpoint or start
    model = restored_model(config, num_classes, saved) if saved else build_model(config, num_classes)
    model.to(device)
    optim, training = config.optim, config.training
    optimizer = build_optimizer(
        model, optim.name, lr=optim.lr, weight_decay=optim.weight_decay, momentum=optim.momentum
    )
    settings = EngineSettings(
        # A single rank has nothing to share out, and the flat copies of ZeRO cost it time; checkpoints are the same.
        zero_stage=training.zero_stage if dist.get_world_size() > 1 else 0,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        micro_batch_size=max(
            1, config.data.batch_size // dist.get_world_size() // training.gradient_accumulation_steps
        ),
        gradient_clipping=optim.gradient_clipping,
        bf16=training.precision == "bf16",
        use_gpu=device.type == "cuda",
    )
    table = _build_table(config, info) if config.uses_table else None
    state = TrainState(config=config, info=info, engine=Engine(model, optimizer, settings), table=table, bank=bank)
    state.restore(checkpoint, start)
    state.engine.train()
    return state


def least_bytes_of_rank(config: RunConfig, info: DatasetInfo, num_workers: int) -> int:
    """What a worker's device holds at once at least: its network at work, and its rows of a bank on the workers."""
    with torch.device("meta"):
        model, spec = build_model(config, len(info.class_names), pretrained=False), bank_spec(config, info)
    rows = info.num_train // num_workers if config.bank_stays else 0
    return least_bytes(config, model, num_workers) + rows * row_bytes(spec)


def _build_table(config: RunConfig, info: DatasetInfo) -> UncertaintyTable:
    group = _gloo_group(config.training.timeout_s) if dist.get_world_size() > 1 else None
    uncertainty, robust = config.uncertainty, config.robust
    if config.learns_noise:
        rates = [robust.sop_u_rate] + [robust.sop_v_rate] * len(info.class_names)
        return UncertaintyTable(
            info.num_train,
            initial_logit=0.0,
            lr=rates,
            noise=StartNoise(deviation=robust.sop_spread, seed=config.training.seed),
            group=group,
        )
    return UncertaintyTable(
        info.num_train,
        initial_logit=uncertainty.initial_logit,
        lr=uncertainty.lr,
        momentum=uncertainty.momentum,
        group=group,
    )


def _gloo_group(timeout_s: float) -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)))


def bank_spec(config: RunConfig, info: DatasetInfo) -> BankSpec:
    """What the run's bank stores. Labels that a bank starts with are smoothed as those of the loss, or by 0.1."""
    return BankSpec(
        num_classes=len(info.class_names),
        # The exact source reads nothing back; its probabilities are kept for the reports.
        feature_width=feature_width_of(config) if config.keeps_features else 0,
        probs_dtype=config.bank.probs_dtype,
        features_dtype=config.bank.features_dtype,
        momentum=_momentum(config),
        label_smoothing=(config.loss.label_smoothing or 0.1) if config.bank.warm_start == "labels" else None,
        own_row=config.reads_own_outputs,
        timeout_s=config.neighbors.timeout_s,
    )


def _momentum(config: RunConfig) -> float:
    """Weight of the old probabilities in those that the bank keeps."""
    recipes = {"elr": config.robust.elr_momentum, "posterior": config.posterior.momentum}
    return recipes.get(config.loss.recipe, config.bank.momentum)


def step_settings(config: RunConfig, info: DatasetInfo, device: torch.device) -> StepSettings:
    """What the maths of a step needs to know."""
    loss = config.loss
    weights = None
    if loss.class_weights == "balanced":
        counts = class_quotas(info.class_counts["train"], config.data.balance)  # of an epoch as it is streamed
        weights = balanced_class_weights(torch.tensor(counts)).float().to(device)
    return StepSettings(
        recipe=loss.recipe,
        num_classes=len(info.class_names),
        gamma=loss.gamma,
        kernel_width=loss.kernel_width,
        calibration_floor=loss.calibration_floor,
        reference_k=loss.reference_k,
        label_smoothing=loss.label_smoothing,
        detach_uncertainty=loss.detach_uncertainty,
        class_weights=weights,
        robust=RobustSettings(**dataclasses.asdict(config.robust)),
        own_weight=config.posterior.own_weight,
    )


def check_against_dataset(config: RunConfig, info: DatasetInfo) -> None:
    """SettingError for settings that do not fit the data set, or name a model that does not exist."""
    feature_width_of(config)
    if not config.uses_neighbors:
        return
    if config.neighbors.source == "exact" and config.bank.warm_start != "empty":
        raise SettingError(
            "bank.warm_start must be empty for neighbors.source=exact, which reads no stored outputs, "
            f"got {config.bank.warm_start}"
        )
    k, rows = config.neighbors.num_neighbors, info.num_train
    if k >= rows:
        raise SettingError(f"neighbors.num_neighbors must be < the number of training samples ({rows}), got {k}")
    if not info.has_valence_arousal:
        _check_without_va(config, info)


def _check_without_va(config: RunConfig, info: DatasetInfo) -> None:
    """Neighbours are found in feature space alone, and until then nobody reads any."""
    if config.index.space != "feature":
        raise SettingError(
            f"loss.recipe={config.loss.recipe!r} needs valence-arousal, which data set {info.name!r} does not have; "
            "use loss.recipe=ce, add valence-arousal (jobs/annotate_va.py), or find neighbours in feature space "
            "(index.space=feature)"
        )
    first = FIRST_GRAPH * config.index.rebuild_every_epochs
    if not first <= config.loss.warmup_epochs < config.training.epochs:
        raise SettingError(
            f"loss.warmup_epochs must be >= {FIRST_GRAPH:g} x index.rebuild_every_epochs ({first:g}), when the first "
            f"neighbours are there, and < training.epochs ({config.training.epochs:g}) without valence-arousal, "
            f"got {config.loss.warmup_epochs:g}"
        )


def _recorder(config: RunConfig, resources: Resources, state: TrainState) -> Recorder:
    log = roll_back_records(config, state.step, resources.control.tell.remote) if dist.get_rank() == 0 else None
    ids = IdsLog(config.uri, state.step, dist.get_rank()) if config.training.log_ids else None
    return Recorder(config.name, log, ids, resources.require_lease)


def roll_back_records(config: RunConfig, step: int, tell: Callable[[str], Any]) -> MetricsLog:
    """Remove what a killed lineage left of steps after ``step``; the log of metrics, which resumes there."""
    roll_back(config.uri, step)
    storage.delete_unfinished(config.uri)
    drop_history(config.uri, step)
    tracker = open_tracker(config.training.tracker, config.uri, dataclasses.asdict(config), step + 1)
    log = MetricsLog(config.uri, step + 1, tracker)
    if log.last_step != step:  # a checkpoint is begun only when its line is in the log
        tell(f"{config.uri}/metrics.jsonl ends at step {log.last_step}: its lines up to step {step} are lost")
    return log


def _connect(config: RunConfig, resources: Resources, device: torch.device) -> NeighborClient | RankBank | None:
    """The way to the bank. Collective."""
    if config.bank_stays:
        return _rank_bank(config, resources.info, device)
    if resources.service is None:
        return None
    # A name that this start of the worker group alone uses: the service refuses leftovers of others.
    token = [uuid.uuid4().hex]
    dist.broadcast_object_list(token, src=0)
    return NeighborClient(
        resources.service,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        token=token[0],
        k=config.bank_neighbors,
        timeout_s=config.neighbors.timeout_s,
    )


def _rank_bank(config: RunConfig, info: DatasetInfo, device: torch.device) -> RankBank:
    """This rank's part of a bank on the workers' devices; loads the places, labels and neighbours of its ids."""
    group = _gloo_group(config.training.timeout_s) if dist.get_world_size() > 1 else None
    routes = RowRoutes(info.num_train, group)
    spec = bank_spec(config, info)
    _require_room(device, (routes.stop - routes.start) * row_bytes(spec))
    rows = load_shard_rows(Dataset.open(config.data.dataset), routes.start, routes.stop, config.bank_neighbors)
    return RankBank(rows, spec, routes, copies_for(device))


def _require_room(device: torch.device, num_bytes: int) -> None:
    """SettingError where a GPU evidently cannot hold a rank's part of the bank."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
    if num_bytes > free:
        raise SettingError(
            f"bank.place must be actors, or there must be more workers: each one's part of the bank is "
            f"{num_bytes / 2**30:.1f} GiB, its GPU has {free / 2**30:.1f} GiB left"
        )


def _batches(config: RunConfig, resources: Resources, plan: Plan, checkpoint: Checkpoint | None) -> Iterator[Batch]:
    """The batches after a checkpoint, on their way while bank and network are made ready; a warm start reads before."""
    step = checkpoint.facts["step"] if checkpoint else 0
    batches = read_batches(config, resources, plan, range(step, plan.steps_for(config.training.epochs)))
    reads_before = step == 0 and config.uses_neighbors and config.bank.warm_start == "forward"
    return batches if reads_before else begun(batches)


def _one_pass(config: RunConfig, resources: Resources) -> Iterator[Batch]:
    """Every sample that is trained on once, in the order of a plan without class balance, not augmented."""
    plan = balanced_plan(config, resources, balance=0.0)
    return read_batches(config, resources, plan, steps_of_one_pass(plan), augmented=False)


def _feature_graphs(
    config: RunConfig, resources: Resources, plan: Plan, client: NeighborClient | RankBank | None
) -> FeatureGraphs:
    """The rebuilds of a run in feature space; none for one in the plane."""
    if not isinstance(client, NeighborClient) or resources.index is None:
        return FeatureGraphs(Rebuilds(begins=(), takes_effect=()))
    rebuilds = plan_rebuilds(plan, config.training.epochs, config.index.rebuild_every_epochs)
    if dist.get_rank() != 0:
        return FeatureGraphs(rebuilds)
    index = resources.index.client(config.training.timeout_s)
    return FeatureGraphs(rebuilds, GraphBuilder(client, index, config.neighbors.num_neighbors))


def _schedule(config: RunConfig, plan: Plan) -> Schedule:
    optim = config.optim
    return Schedule(
        peak=optim.lr,
        total_steps=plan.steps_for(config.training.epochs),
        warmup_steps=plan.steps_for(optim.warmup_epochs) if optim.warmup_epochs else 0,
        decay_steps=tuple(plan.steps_for(e) for e in optim.decay_epochs) if optim.schedule == "step" else (),
        decay_factor=optim.decay_factor,
        cosine=optim.schedule == "cosine",
    )
