"""The loop every training worker runs: look up, step, write, measure, save."""

import dataclasses
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from ldlva_dist import storage
from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.service import NeighborService
from ldlva_dist.checkpoint.resume import newest_whole, roll_back
from ldlva_dist.checkpoint.saver import METRIC, Saver
from ldlva_dist.config import RunConfig
from ldlva_dist.messages import BankUpdate, Batch
from ldlva_dist.records.ids_log import IdsLog
from ldlva_dist.records.metrics_log import MetricsLog
from ldlva_dist.records.prometheus import ExportedMetrics
from ldlva_dist.records.trackers import open_tracker
from ldlva_dist.records.uncertainty_history import drop_history, write_history
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training.bad_loss import give_up
from ldlva_dist.training.build import build_state, step_settings
from ldlva_dist.training.due import due_at
from ldlva_dist.training.evaluate import SplitReader, predict, split_labels
from ldlva_dist.training.inputs import Resources, balanced_plan, make_plan, neighbor_images, read_batches
from ldlva_dist.training.late_ranks import named_waits
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.feature_graphs import Builder, FeatureGraphs, Rebuilds, plan_rebuilds
from ldlva_dist.training.neighbors.prefetch import look_ahead
from ldlva_dist.training.neighbors.warm_start import fill_bank, steps_of_one_pass
from ldlva_dist.training.optimizer_step import Outputs, optimize
from ldlva_dist.training.rank_votes import Agreement, Verdict
from ldlva_dist.training.schedule import Schedule
from ldlva_dist.training.state import TrainState

FIND_LATE_S = 30.0


def train_worker(config: RunConfig, resources: Resources) -> None:
    """Train from the last checkpoint, or the beginning, to the last step; a rank that others wait for is named."""
    try:
        with named_waits(partial(_find_late, resources.control)):
            _train(config, resources)
    finally:
        if dist.get_rank() == 0:
            resources.control.leave.remote()


def _train(config: RunConfig, resources: Resources) -> None:
    device = ray.train.torch.get_device()
    torch.set_num_threads(max(1, int(config.placement.cpus_per_worker)))
    plan = balanced_plan(config, resources)
    resources.require_lease()
    client = _connect(config, resources.service)
    uri = newest_whole(config.uri, resources.control.tell.remote)
    state = build_state(config, resources.info, client, device=device, checkpoint_uri=uri)
    settings, schedule = step_settings(config, resources.info, device), _schedule(config, plan)
    total_steps = plan.steps_for(config.training.epochs)
    meters = Meters(batch_size=plan.batch_size, num_rows=plan.num_rows, total_steps=total_steps, device=device)
    log = _roll_back(config, state.step, resources.control.tell.remote)
    exported = ExportedMetrics(config.name)
    training = config.training
    saver = Saver(
        config.uri,
        num_to_keep=training.num_to_keep,
        limit_s=training.timeout_s,
        require_lease=resources.require_lease,
    )
    agreement = Agreement(resources.control.stopping.remote(), save_every_minutes=training.checkpoint_every_minutes)
    ids = IdsLog(config.uri, state.step, dist.get_rank()) if config.training.log_ids else None

    graphs = _feature_graphs(config, resources, plan, client)
    _warm_start(config, resources, state, client)
    graphs.go_on(state.step)
    remember(state, epoch=0.0, kept=state.step == 0)
    batches = read_batches(config, resources, plan, range(state.step, total_steps))
    images = neighbor_images(config, resources, plan)
    for batch, neighbors in look_ahead(batches, client, meters, images, graphs.graph_of):
        lr = schedule.rate(state.step)
        use_neighbors = plan.epoch_of(state.step) >= config.loss.warmup_epochs
        outputs = optimize(state, batch, neighbors, settings=settings, lr=lr, use_neighbors=use_neighbors)
        if client:
            client.write(bank_update(config, batch, outputs))
        state.step += 1
        meters.add(outputs.terms, batch, neighbors)
        if ids:
            ids.add(batch)

        verdict = agreement.after_step(loss=float(outputs.terms["loss"]), uploading=saver.uploading)
        settle(verdict, state, saver, batch, outputs)
        due = due_at(training, plan, state.step, save=verdict.save or verdict.stop)
        if due.log:
            metrics = meters.drain(state.step, client and client.traffic.drain()) | {
                "learning_rate": lr,
                "skipped_steps": state.engine.skipped_steps,
            }
            if due.evaluation:
                metrics |= evaluate(state)
                remember(state, epoch=plan.epoch_of(state.step), kept=due.history)
            if log:
                resources.require_lease()
                log.add(metrics)
                exported.set(metrics)
                log.flush()  # a resumed run must find the lines of its checkpoint
            if due.checkpoint:
                save(state, saver, metrics, ids)
                agreement.note_saved()
            meters.restart_clock()
        if verdict.stop:
            break
        graphs.go_on(state.step)
    finish(saver)
    if log:
        log.close()


def evaluate(state: TrainState) -> dict[str, float]:
    """Accuracy on the given labels of the holdout, over all ranks; nothing where there is no holdout. Collective."""
    config, info = state.config, state.info
    if info.splits["holdout"].rows == 0:
        return {}
    reader = SplitReader(
        dataset_uri=config.data.dataset,
        info=info,
        split="holdout",
        size=config.data.image_size,
        channels=config.data.channels,
    )
    state.engine.average_buffers()
    state.engine.train(False)
    rows, probs = predict(
        lambda images: state.engine(images).logits_BC,
        reader,
        device=state.engine.device,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
    )
    state.engine.train(True)
    labels = split_labels(config.data.dataset, info, "holdout")
    hits = torch.tensor((labels[rows] == probs.argmax(axis=1)).sum(), device=state.engine.device)
    dist.all_reduce(hits)
    return {"holdout_accuracy": hits.item() / len(labels)}


def remember(state: TrainState, *, epoch: float, kept: bool) -> None:
    """Add this rank's uncertainties to the run's history, if they are to be kept."""
    if state.table and kept:
        uri, first_id, values_n = state.config.uri, state.table.start, state.table.uncertainties()
        write_history(uri, values_n, step=state.step, epoch=epoch, rank=dist.get_rank(), first_id=first_id)


def settle(verdict: Verdict, state: TrainState, saver: Saver, batch: Batch, outputs: Outputs) -> None:
    """Finish a checkpoint that is uploaded; DataError where some rank's loss is not finite. Collective."""
    if verdict.uploaded or verdict.is_bad:
        finish(saver)
    if verdict.is_bad:
        give_up(state.config.uri, state.step, float(outputs.terms["loss"]), batch.ids)


def save(state: TrainState, saver: Saver, metrics: dict[str, Any], ids: IdsLog | None) -> None:
    """Begin a checkpoint; it counts once every rank's files are in the run's folder. Collective."""
    if ids:
        ids.flush()
    finish(saver)
    files, elsewhere = state.copy()
    saver.begin(state.step, files, state.facts() | {"metrics": metrics}, elsewhere)


def finish(saver: Saver) -> None:
    """Wait for the checkpoint in flight, if there is one, and report the evaluation it goes with. Collective.

    Reports are for a sweep: Ray Train keeps no account of checkpoints, whose own lists say which of them are whole.
    """
    if not saver.in_flight:
        return
    metrics = dict(saver.finish()["metrics"])
    if METRIC in metrics:
        ray.train.report(metrics)


def _roll_back(config: RunConfig, step: int, tell: Callable[[str], Any]) -> MetricsLog | None:
    """Remove what a killed lineage left of steps after ``step``; rank 0's log, which goes on there."""
    if dist.get_rank() != 0:
        return None
    roll_back(config.uri, step)
    storage.delete_unfinished(config.uri)
    drop_history(config.uri, step)
    tracker = open_tracker(config.training.tracker, config.uri, dataclasses.asdict(config), step + 1)
    log = MetricsLog(config.uri, step + 1, tracker)
    if log.last_step != step:  # a checkpoint is begun only when its line is in the log
        tell(f"{config.uri}/metrics.jsonl ends at step {log.last_step}: its lines up to step {step} are lost")
    return log


def _feature_graphs(
    config: RunConfig, resources: Resources, plan: Plan, client: NeighborClient | None
) -> FeatureGraphs:
    """The rebuilds of a run in feature space; none for one in the plane."""
    if client is None or resources.index is None:
        return FeatureGraphs(Rebuilds(begins=(), takes_effect=()))
    rebuilds = plan_rebuilds(plan, config.training.epochs, config.index.rebuild_every_epochs)
    if dist.get_rank() != 0:
        return FeatureGraphs(rebuilds)
    index = resources.index.client(config.training.timeout_s)
    return FeatureGraphs(rebuilds, Builder(client, index, config.neighbors.num_neighbors))


def _connect(config: RunConfig, service: NeighborService | None) -> NeighborClient | None:
    """A client under a name that this start of the worker group alone uses: the service refuses leftovers of others."""
    if service is None:
        return None
    token = [uuid.uuid4().hex]
    dist.broadcast_object_list(token, src=0)
    return NeighborClient(
        service,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        token=token[0],
        k=config.neighbors.num_neighbors,
        timeout_s=config.neighbors.timeout_s,
    )


def _warm_start(config: RunConfig, resources: Resources, state: TrainState, client: NeighborClient | None) -> None:
    if client is None or config.bank.warm_start != "forward" or state.step > 0:
        return
    plan = make_plan(config, resources.manifest.shard_rows)
    steps = steps_of_one_pass(plan)
    fill_bank(state, client, plan, read_batches(config, resources, plan, steps, augmented=False))


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


def _find_late(control: Any, place: str, rank: int) -> list[int]:
    """Ask the launching process which ranks are not waiting at a place as this one is."""
    return ray.get(control.find_late.remote(place, rank, dist.get_world_size()), timeout=FIND_LATE_S)


def bank_update(config: RunConfig, batch: Batch, outputs: Outputs) -> BankUpdate:
    """The exact source reads no features back; its probabilities are kept for the reports."""
    features = outputs.features[:, :0] if config.neighbors.source == "exact" else outputs.features
    return BankUpdate(step=batch.step, positions=batch.positions, ids=batch.ids, probs=outputs.probs, features=features)
