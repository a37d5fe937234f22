"""A training step of two ranks on CPUs stands still for gradients there and back alone; all else travels meanwhile.

What counts is what is waited for after something else was waited for: a clock ticks when a rank waits for an answer to
what it began since the last tick. All waits of ``torch.distributed`` tick it, also those inside calls that block.
"""

import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ldlva_dist.checkpoint.saver import Saver
from ldlva_dist.config import DataConfig, RunConfig, TrainingConfig
from ldlva_dist.messages import Batch, Neighbors
from ldlva_dist.method.row_routes import Route
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training import rank_votes
from ldlva_dist.training.build import build_state, step_settings
from ldlva_dist.training.device.copies import NoCopies
from ldlva_dist.training.device.tensors import neighbor_tensors
from ldlva_dist.training.loop import train
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.feature_graphs import FeatureGraphs, Rebuilds
from ldlva_dist.training.neighbors.lookups import Lookup
from ldlva_dist.training.recorder import Recorder
from ldlva_dist.training.schedule import Schedule
from ldlva_dist.training.worker import Worker
from testing.forked_ranks import run_ranks
from testing.tiny_runs import random_info, tiny_run

RANKS, ROWS, BATCH, K, CLASSES, STEPS = 2, 90, 14, 4, 5, 6
EVERY_CALL = "all_reduce", "all_to_all_single", "broadcast", "reduce", "all_gather", "barrier", "isend", "irecv"
IN_A_STEP = ["send_ids", "take", "take"]
"""Who waits, one after the other: for counts, which travel during the forward; for parts of gradients, with the
uncertainties' own; and for the means of all parts, with the next step's uncertainties."""

HELPS = "wait", "finish_gather"
"""Functions that wait for others."""


@dataclass
class Exchanges:
    """What one rank begins and waits for. Ranks do the same at the same time, so its own messages tell when others'."""

    ticks: int = 0
    waited: list[str] = field(default_factory=list)
    """Who waited at each tick, since :meth:`drain`."""
    begun: Counter[str] = field(default_factory=Counter)
    """Calls by kind, since :meth:`drain`."""
    _begun_at: dict[Any, Callable[[], int]] = field(default_factory=dict)
    _sent_at: dict[int, int] = field(default_factory=dict)
    """When the latest message of each tag was sent."""

    def watch(self) -> None:
        """Count from now on, in this process."""
        bare_wait = dist.Work.wait

        def wait(work: Any, *args: Any) -> Any:
            begun_at = self._begun_at.pop(work, lambda: self.ticks)()
            if begun_at + 1 > self.ticks:
                self.ticks = begun_at + 1
                self.waited.append(_who_waits())
            return bare_wait(work, *args)

        setattr(dist.Work, "wait", wait)  # noqa: B010  the class's own name is not to be assigned to
        for kind in EVERY_CALL:
            setattr(dist, kind, self._watched(kind, getattr(dist, kind)))

    def drain(self) -> tuple[list[str], Counter[str]]:
        """Who waited and what was begun since the last call."""
        counted = self.waited, self.begun
        self.waited, self.begun = [], Counter()
        return counted

    def _watched(self, kind: str, bare: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.begun[kind] += 1
            if kind == "isend":
                self._sent_at[kwargs["tag"]] = self.ticks
            now, work = self.ticks, bare(*args, **kwargs)
            if work is not None:  # what blocks has waited by itself
                is_answer = kind == "irecv"  # it comes when the other rank has sent, not when it was first waited for
                self._begun_at[work] = partial(self._sent_at.__getitem__, kwargs["tag"]) if is_answer else lambda: now
            return work

        return call


def _who_waits() -> str:
    """The nearest function that is the project's own and no help of another."""
    frame = sys._getframe(2)
    while frame.f_back and ("ldlva_dist" not in frame.f_code.co_filename or frame.f_code.co_name in HELPS):
        frame = frame.f_back
    return frame.f_code.co_name


@dataclass(frozen=True, kw_only=True)
class KnownNeighbors:
    """Stands for the bank, whose calls are no collectives: neighbours by chance; the table and its ways are real."""

    route_of: Callable[[Any, int], Route]
    feature_width: int

    def find(self, batch: Batch) -> Neighbors:
        """All of them are here at once."""
        random, shape = np.random.default_rng(batch.step), (len(batch.ids), K)
        return Neighbors(
            ids=random.integers(ROWS, size=shape),
            va=random.uniform(-1, 1, (*shape, 2)).astype(np.float32),
            labels=random.integers(CLASSES, size=shape),
            probs=random.dirichlet(np.ones(CLASSES), shape).astype(np.float32),
            features=random.normal(size=(*shape, self.feature_width)).astype(np.float32),
            versions=np.zeros(shape, np.int64),
        )

    def ask(self, batch: Batch, found: Neighbors) -> tuple[Neighbors, Route]:
        """Their way is found while the step before is trained."""
        return found, self.route_of(np.concatenate([batch.ids, found.ids.ravel()]), len(batch.ids))

    def collect(self, batch: Batch, asked: tuple[Neighbors, Route]) -> Lookup:
        """Nothing is left to wait for."""
        near, route = asked
        return Lookup(
            near=lambda: neighbor_tensors(near, NoCopies()),
            route=route,
            coming_versions=lambda: near.versions,
            graph=0,
            write=lambda outputs: None,
        )


class WorkerOfKnownNeighbors(Worker):
    """Trains as every worker does."""

    def _lookups(self) -> KnownNeighbors:
        assert self.state.table
        return KnownNeighbors(route_of=self.state.table.route, feature_width=self.state.engine.module.feature_width)


def _worker(config: RunConfig, batches: Iterator[Batch]) -> Worker:
    info, device = random_info(ROWS), torch.device("cpu")
    return WorkerOfKnownNeighbors(
        state=build_state(config, info, None, device=device, checkpoint=None),
        plan=_plan(),
        batches=batches,
        client=None,
        images=None,
        graphs=FeatureGraphs(Rebuilds(begins=(), takes_effect=())),
        settings=step_settings(config, info, device),
        schedule=Schedule(peak=1e-3, total_steps=100),
        meters=Meters(batch_size=BATCH, num_rows=ROWS, total_steps=100, device=device),
        recorder=Recorder("exchanges", None, None, lambda: None),
        saver=Saver(config.uri, num_to_keep=1, limit_s=60),
        agreement=rank_votes.Agreement(None, save_every_minutes=None),
    )


def _plan() -> Plan:
    return Plan((ROWS,), 0, BATCH, 16)


def _batches(exchanges: Exchanges, counted: list[tuple[list[str], Counter[str]]]) -> Iterator[Batch]:
    """This rank's rows, step by step; what was exchanged since the one before is noted when the next is asked for."""
    rows = _plan().positions(dist.get_rank(), RANKS)
    for step in range(STEPS):
        random = np.random.default_rng(step)
        ids = random.permutation(ROWS)[:BATCH][rows]
        yield Batch(
            step=step,
            positions=rows,
            ids=ids,
            images=random.integers(256, size=(len(ids), 16, 16, 3), dtype=np.uint8),
            labels=ids % CLASSES,
            va=random.uniform(-1, 1, (len(ids), 2)).astype(np.float32),
        )
        counted.append(exchanges.drain())


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    rank_votes.ASK_RAY_EVERY_S = math.inf  # there is no Ray here
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    config = tiny_run("none", folder, "exchanges")
    config = replace(
        config,
        data=DataConfig(dataset="none", batch_size=BATCH, image_size=16),
        model=replace(config.model, width=2),
        training=TrainingConfig(epochs=99.0, evaluate_every_epochs=99.0, log_every_steps=99, zero_stage=0),
    )
    exchanges, counted = Exchanges(), list[tuple[list[str], Counter[str]]]()
    worker = _worker(config, _batches(exchanges, counted))
    exchanges.watch()
    train(worker)
    assert worker.state.step == STEPS
    torch.save([(waited, dict(begun)) for waited, begun in counted], f"{folder}/rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_a_step_of_two_ranks_waits_for_gradients_there_and_back_alone(tmp_path: Path) -> None:
    run_ranks(_rank, (str(tmp_path),), RANKS)
    for rank in range(RANKS):
        counted = torch.load(tmp_path / f"rank-{rank}.pt")
        steady = counted[3:]  # before, nothing was begun ahead
        assert [waited for waited, _ in steady] == [IN_A_STEP] * len(steady)
        for _, begun in steady:  # the centres' sums; counts, ids, uncertainties, their gradients, parts and means
            assert begun == {"all_to_all_single": 1, "isend": 6, "irecv": 6}
