"""What one rank trains with, and what it does in a step; the order of it is the loop's (loop.py)."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train

from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.on_workers.rank_bank import RankBank
from ldlva_dist.checkpoint.saver import METRIC, Saver
from ldlva_dist.messages import Batch
from ldlva_dist.method.step import StepSettings
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training.device.tensors import with_logits
from ldlva_dist.training.evaluate import holdout_accuracy
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.exact_neighbors import NeighborImages
from ldlva_dist.training.neighbors.feature_graphs import FeatureGraphs
from ldlva_dist.training.neighbors.lookups import ActorLookups, Lookups, RankLookups, TableLookups
from ldlva_dist.training.neighbors.prefetch import Prefetch, StepInputs
from ldlva_dist.training.optimizer_step import StepOutputs, optimize
from ldlva_dist.training.rank_votes import Agreement, Verdict, give_up
from ldlva_dist.training.recorder import Recorder
from ldlva_dist.training.schedule import Due, Schedule, due_at
from ldlva_dist.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One rank of a run, made by ``build.build_worker``. Every method but :meth:`write` is a collective."""

    state: TrainState
    plan: Plan
    batches: Iterator[Batch]
    """Batches of this rank, from the first step that is to be done."""
    client: NeighborClient | RankBank | None
    """Way to the bank; None for plain cross-entropy."""
    images: NeighborImages | None
    """Reader of neighbours' images; None where the bank's outputs are used."""
    graphs: FeatureGraphs
    settings: StepSettings
    schedule: Schedule
    meters: Meters
    recorder: Recorder
    saver: Saver
    agreement: Agreement

    def lookups(self) -> Iterator[StepInputs]:
        """Batches with what their neighbours said last, and the way of their rows of the table.

        A graph that is due is begun between the write of one step and the question for the next.
        """
        self.graphs.rebuild_if_due(self.state.step)
        clock = self.meters.clock
        prefetch = Prefetch(lookups=self._lookups(), meters=self.meters, copies=self.state.engine.copies)
        for inputs in prefetch.steps(self._timed_batches()):
            clock.mark("bank")
            yield inputs
            self.graphs.rebuild_if_due(self.state.step)

    def step(self, inputs: StepInputs) -> tuple[StepOutputs, Callable[[], Verdict]]:
        """Learn from a batch; its uncertainties move while gradients travel, or at the latest with the verdict."""
        step, clock, engine = self.state.step, self.meters.clock, self.state.engine
        engine.begin_step(self.schedule.rate(step))
        lookup, table = inputs.lookup, self.state.table
        logits = table.read(lookup.route) if table and lookup and lookup.route else None
        clock.mark("table")
        rows, near = inputs.rows(), lookup and lookup.near()
        if logits is not None:
            rows, near = with_logits(rows, near, logits, engine.copies)
        clock.mark("copies")
        uses, vote, waited_s = self._uses_neighbors(step), partial(self._vote, inputs), engine.waited_s
        outputs, verdict = optimize(self.state, rows, near, settings=self.settings, use_neighbors=uses, tell=vote)
        clock.mark("network", gradients_s=engine.waited_s - waited_s)
        self.state.step += 1
        self.meters.add(outputs.terms, inputs.batch, lookup if near else None)
        return outputs, verdict

    def write(self, inputs: StepInputs, outputs: StepOutputs) -> None:
        """Give the bank what the network said of the batch."""
        self.meters.clock.mark("log")
        if inputs.lookup:
            inputs.lookup.write(outputs)
        self.meters.clock.mark("bank")
        self.recorder.add_batch(inputs.batch)

    def decide(self, inputs: StepInputs, outputs: StepOutputs, verdict: Callable[[], Verdict]) -> Verdict:
        """What the ranks decide together after a step, whose uncertainties have moved; ends an uploaded checkpoint.

        Raises:
            DataError: where the loss of some rank is not finite.
        """
        self.meters.clock.mark("log")
        decided = verdict()
        self.meters.clock.mark("votes")
        if decided.uploaded or decided.is_bad:
            self._finish_checkpoint()
        if decided.is_bad:
            give_up(self.state.config.uri, self.state.step, float(outputs.terms["loss"]), inputs.batch.ids)
        return decided

    def due(self, verdict: Verdict) -> Due:
        """What is to be done after the step."""
        save = verdict.save or verdict.stop
        return due_at(self.state.config.training, self.plan, self.state.step, save=save)

    def measure(self, due: Due) -> dict[str, Any]:
        """Write down how it goes; the values of the line."""
        step = self.state.step
        metrics = self.meters.drain(step, self.client and self.client.traffic.drain()) | {
            "time": round(time.time(), 3),
            "learning_rate": self.schedule.rate(step - 1),
            "skipped_steps": self.state.engine.skipped_steps,
        }
        if due.evaluation:
            metrics |= holdout_accuracy(self.state)
        if due.history:
            self.recorder.add_uncertainties(self.state, self.plan.epoch_of(step))
        self.recorder.add_metrics(metrics)
        return metrics

    def save(self, metrics: dict[str, Any], *, at_once: bool = False) -> None:
        """Begin a checkpoint, which counts once all ranks' files are in the run's folder; ``at_once`` waits for it."""
        self.recorder.flush()
        self._finish_checkpoint()
        files, elsewhere = self.state.copy()
        self.saver.begin(self.state.step, files, self.state.facts() | {"metrics": metrics}, elsewhere)
        self.agreement.note_saved()
        if at_once:
            self._finish_checkpoint()

    def leave(self) -> None:
        """Train nothing more that would go with a node, unless all is trained."""
        if self.state.step < self.plan.steps_for(self.state.config.training.epochs):
            self.agreement.wait_for_restart(self.state.step)

    def close(self) -> None:
        """Finish what was begun."""
        self._finish_checkpoint()
        self.recorder.close()

    def _vote(self, inputs: StepInputs, outputs: StepOutputs) -> Callable[[], Verdict]:
        """Begin to send the gradients of the batch's uncertainties, and this rank's votes with them."""
        table, route = self.state.table, inputs.lookup and inputs.lookup.route
        learns = self._uses_neighbors(inputs.batch.step) or self.state.config.learns_noise
        send = partial(table.apply, route, outputs.logit_grads if learns else None) if table and route else None
        loss, saver = float(outputs.terms["loss"]), self.saver
        return self.agreement.vote(loss=loss, uploading=saver.uploading, saving_s=saver.took_s, send=send)

    def _timed_batches(self) -> Iterator[Batch]:
        clock, batches = self.meters.clock, iter(self.batches)
        clock.mark("log")
        while (batch := next(batches, None)) is not None:
            clock.mark("stream")
            yield batch
            clock.mark("bank")

    def _lookups(self) -> Lookups | None:
        table = self.state.table
        if self.client is None:
            return TableLookups(route_of=table.route) if table else None
        if isinstance(self.client, RankBank):
            return RankLookups(bank=self.client, expect=table.expect if table else lambda route: None)
        return ActorLookups(
            client=self.client,
            images=self.images,
            graph_of=self.graphs.graph_of,
            route_of=table.route if table else lambda ids, batch_rows: None,
            copies=self.state.engine.copies,
            keeps_features=self.state.config.keeps_features,
        )

    def _uses_neighbors(self, step: int) -> bool:
        """Whether a step is past the warm-up on the given labels alone."""
        return self.plan.epoch_of(step) >= self.state.config.loss.warmup_epochs

    def _finish_checkpoint(self) -> None:
        """Wait for the checkpoint in flight, if there is one, and report the evaluation it goes with.

        Reports are for a sweep: Ray Train keeps no account of checkpoints, whose own lists say which of them are whole.
        """
        if not self.saver.in_flight:
            return
        metrics = dict(self.saver.finish()["metrics"])
        if METRIC in metrics:
            ray.train.report(metrics)
