"""Claim: a checkpoint a minute costs under 2 % of the time; a table of 100 million rows moves in under a minute.

Stall: ResNet-18, 112 px, batch 32, one worker without a GPU, table of 450 k rows, bank of 450 k x 512 in one actor.
What a checkpoint costs is the time that the loop stands in its save, and what the steps take longer until all is
uploaded; by how much the private memory of the rank and of the bank's actor grows is told for a save and for a resume.
Table: saved by two gloo ranks, checked and loaded by three, all on this machine, through a local disk; memory is what
the ranks of one side hold at their peaks above what they held before they had a table, in all. ``--rows`` are a tenth
of the claim's by default; ``--rows 100000000`` is the claim itself. Agreement: what the verdict after a step costs of a
step of the same network on two gloo ranks, half a batch and a thread each. All use the modules of training as they are.
"""

import json
import logging
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
import torch
import torch.distributed as dist
import tyro
from numpy.typing import NDArray
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]
from torch.multiprocessing.spawn import spawn

from bench.common import report
from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.records import STATIC
from ldlva_dist.bank.service import start_service
from ldlva_dist.bank.static_rows import ShardRows
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.resume import newest_whole
from ldlva_dist.checkpoint.saver import Saver
from ldlva_dist.checkpoint.table_files import table_files
from ldlva_dist.config import DataConfig, LossConfig, ModelConfig, OptimConfig, RunConfig
from ldlva_dist.dataset.manifest import DatasetInfo, SplitInfo
from ldlva_dist.messages import Batch
from ldlva_dist.method.uncertainty_table import UncertaintyTable
from ldlva_dist.training import build
from ldlva_dist.training import rank_votes as agreement_module
from ldlva_dist.training.device.tensors import batch_tensors, with_logits
from ldlva_dist.training.meters import Meters
from ldlva_dist.training.neighbors.lookups import ActorLookups
from ldlva_dist.training.neighbors.prefetch import Prefetch
from ldlva_dist.training.optimizer_step import optimize
from ldlva_dist.training.rank_votes import Agreement
from ldlva_dist.training.state import TrainState
from testing.processes import PrivatePeak

SAMPLES, BATCH, PIXELS, NEIGHBORS, CLASSES = 450_000, 32, 112, 8, 8
SAVERS, LOADERS = 2, 3
WARMUP = 5
INTERVAL_S, STALL_SHARE = 60.0, 0.02
TABLE_ROWS, TABLE_S, TABLE_FACTOR = 100_000_000, 60.0, 3.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to measure."""

    rows: int = TABLE_ROWS // 10
    """Of the table that moves."""
    saves: int = 3
    plain_steps: int = 20
    """Steps without a checkpoint, before the first and after the last."""
    agreement_steps: int = 15
    """Of two ranks."""
    threads: int = max(1, (os.cpu_count() or 2) - 1)
    """Of torch; the bank actor and the upload have the rest."""


def main(arguments: Arguments) -> None:
    """Measure and print one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        table = move_table(folder, arguments.rows)
        agreement = measure_agreement(folder, arguments.agreement_steps)
        stall = measure_stall(folder, arguments)
    scale = TABLE_ROWS / arguments.rows
    ok = table["seconds"] * scale < TABLE_S and table["memory_factor"] < TABLE_FACTOR
    ok = ok and stall["share_of_a_minute"] < STALL_SHARE
    report(
        "checkpoint",
        ok=ok,
        rows=arguments.rows,
        table=table,
        stall=stall,
        agreement=agreement,
        threads=arguments.threads,
    )


def measure_stall(folder: str, arguments: Arguments) -> dict[str, Any]:
    """Seconds that a checkpoint takes from the loop, beside the plain step."""
    torch.set_num_threads(arguments.threads)
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    store = FileStore(f"{folder}/store-stall", 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    os.environ["LOCAL_RANK"] = "0"
    try:
        return _train_and_save(folder, arguments)
    finally:
        dist.destroy_process_group()
        ray.shutdown()


def _train_and_save(folder: str, arguments: Arguments) -> dict[str, Any]:
    state, client, bank_pid = _state()
    saver = Saver(f"{folder}/run", num_to_keep=1, limit_s=600)
    plain, saves, drags, uploads, sizes = [], [], [], [], []
    memory: list[dict[str, float]] = []
    settings = build.step_settings(state.config, state.info, state.engine.device)
    meters = Meters(batch_size=BATCH, num_rows=SAMPLES, total_steps=1, device=state.engine.device)
    left, slow, began_step = arguments.plain_steps, 0.0, time.monotonic()
    began_save = began_step
    processes = os.getpid(), bank_pid
    peak = PrivatePeak()
    table = state.table
    assert table, "the recipe has neighbours"
    copies = state.engine.copies
    lookups = ActorLookups(client=client, route_of=table.route, copies=copies)
    prefetch = Prefetch(lookups=lookups, meters=meters, copies=copies)
    for inputs in prefetch.steps(_batches()):
        lookup = inputs.lookup
        assert lookup, "there is a client"
        assert lookup.route, "there is a table"
        state.engine.begin_step(1e-3)
        rows, near = with_logits(inputs.rows(), lookup.near(), table.read(lookup.route), copies)
        outputs, apply = optimize(
            state,
            rows,
            near,
            settings=settings,
            use_neighbors=True,
            tell=lambda outputs, route=lookup.route: table.apply(route, outputs.logit_grads),
        )
        lookup.write(outputs)
        apply()
        state.step += 1
        seconds, began_step = time.monotonic() - began_step, time.monotonic()
        if saver.in_flight:
            slow += seconds - statistics.median(plain)
            if not saver.uploading:
                uploads.append(time.monotonic() - began_save)
                drags.append(slow)
                facts = saver.finish()
                memory.append(_megabytes(peak))
                saved = Checkpoint.open(f"{folder}/run/step-{facts['step']:08d}")
                sizes.append(sum(saved.size(name) for name in saved.names()) / 1e6)
                left, began_step = arguments.plain_steps // 2, time.monotonic()
            continue
        if state.step > 3:  # the first ones warm up
            plain.append(seconds)
            left -= 1
        if left == 0 and len(saves) == arguments.saves:
            break
        if left == 0:
            peak = PrivatePeak(*processes)
            began_save, slow = time.monotonic(), 0.0
            files, elsewhere = state.copy()
            saver.begin(state.step, files, state.facts() | {"metrics": {}}, elsewhere)
            saves.append(time.monotonic() - began_save)
            began_step = time.monotonic()
            print(json.dumps({"save_s": saves[-1], "step_s": statistics.median(plain)}), flush=True)
    newest = Checkpoint.newest(f"{folder}/run")
    peak, began = PrivatePeak(*processes), time.monotonic()
    state.restore(newest)
    resume_s, resume = time.monotonic() - began, _megabytes(peak)
    costs = [save + drag for save, drag in zip(saves, drags, strict=True)]
    return {
        "step_s": statistics.median(plain),
        "save_s": saves,
        "slower_s": drags,
        "upload_s": uploads,
        "megabytes": sizes[-1],
        "share_of_a_minute": statistics.mean(costs) / INTERVAL_S,
        "save_grows_mb": memory,
        "resume_s": resume_s,
        "resume_grows_mb": resume,
    }


def _megabytes(peak: PrivatePeak) -> dict[str, float]:
    """By how much they grew."""
    return {who: size / 1e6 for who, size in zip(("rank", "bank"), peak.stop(), strict=True)}


def _state() -> tuple[TrainState, NeighborClient, int]:
    """A run's state, its way to the bank, and the process of the bank."""
    config, info = _settings()
    spec = build.bank_spec(config, info)
    service = start_service("bench", [_bank_rows], spec, {"num_cpus": 0})
    client = NeighborClient(service, rank=0, world_size=1, token="bench", k=NEIGHBORS, timeout_s=60)
    state = build.build_state(config, info, client, device=torch.device("cpu"), checkpoint=None)
    facts: Any = ray.get(service.shards[0].facts.remote())
    return state, client, facts.pid


def _settings(recipe: Literal["official", "ce"] = "official") -> tuple[RunConfig, DatasetInfo]:
    config = RunConfig(
        name="bench",
        data=DataConfig(dataset="none", batch_size=BATCH, image_size=PIXELS),
        model=ModelConfig(name="resnet18"),
        loss=LossConfig(recipe=recipe),
        optim=OptimConfig(name="adam", lr=1e-3),
    )
    nothing = SplitInfo(first_id=SAMPLES, rows=0)
    info = DatasetInfo(
        name="bench",
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        splits={"train": SplitInfo(first_id=0, rows=SAMPLES), "holdout": nothing, "test": nothing},
        shards=(),
        has_valence_arousal=True,
        content_hash="0" * 64,
        class_counts={"train": (SAMPLES // CLASSES,) * CLASSES, "holdout": (0,) * CLASSES, "test": (0,) * CLASSES},
    )
    return config, info


def _bank_rows() -> ShardRows:
    generator = np.random.default_rng(0)
    static = np.zeros(SAMPLES, dtype=STATIC)
    static["va"] = generator.uniform(-1, 1, (SAMPLES, 2))
    static["label"] = generator.integers(0, CLASSES, SAMPLES)
    graph = generator.integers(0, SAMPLES, (SAMPLES, NEIGHBORS), dtype=np.int32)
    return ShardRows(start=0, static=static, graph=graph)


def _batches(rows: int = BATCH) -> Iterator[Batch]:
    generator, step = np.random.default_rng(1), 0
    images = generator.integers(0, 256, (rows, PIXELS, PIXELS, 3), dtype=np.uint8)
    while True:
        yield Batch(
            step=step,
            positions=np.arange(rows, dtype=np.int32),
            ids=generator.choice(SAMPLES, rows, replace=False),
            images=images,
            labels=generator.integers(0, CLASSES, rows),
            va=generator.uniform(-1, 1, (rows, 2)).astype(np.float32),
        )
        step += 1


def measure_agreement(folder: str, steps: int) -> dict[str, float]:
    """What the ranks' verdict costs of a step."""
    spawn(_agree, (folder, steps), nprocs=SAVERS)
    notes = _read_notes(folder, "agree")
    return {name: max(note[name] for note in notes) for name in notes[0]}


def _agree(rank: int, folder: str, steps: int) -> None:
    _join(rank, folder, SAVERS, "agree")
    os.environ["LOCAL_RANK"] = str(rank)
    config, info = _settings("ce")
    state = build.build_state(config, info, None, device=torch.device("cpu"), checkpoint=None)
    settings = build.step_settings(config, info, state.engine.device)
    agreement_module.ASK_RAY_EVERY_S = math.inf  # outside of Ray Train there is nobody to ask
    agreement = Agreement(None, save_every_minutes=1)
    step_s, verdict_s = [], []
    for batch in islice(_batches(BATCH // SAVERS), WARMUP + steps):
        began = time.monotonic()
        state.engine.begin_step(1e-3)
        rows = batch_tensors(batch, state.engine.copies)
        _, decide = optimize(
            state,
            rows,
            None,
            settings=settings,
            use_neighbors=False,
            tell=lambda outputs: agreement.vote(loss=float(outputs.terms["loss"]), uploading=False, saving_s=0.0),
        )
        done = time.monotonic()
        decide()
        verdict_s.append(time.monotonic() - done)
        step_s.append(time.monotonic() - began)
    step, verdict = (statistics.median(seconds[WARMUP:]) for seconds in (step_s, verdict_s))
    _note(folder, "agree", rank, step_s=step, verdict_ms=verdict * 1000, share=verdict / step, alone_ms=_alone_ms())
    dist.destroy_process_group()


def move_table(folder: str, rows: int) -> dict[str, float]:
    """Seconds and memory of a table's way from two ranks to three."""
    spawn(_save_table, (folder, rows), nprocs=SAVERS)
    spawn(_load_table, (folder, rows), nprocs=LOADERS)
    sides = {side: _read_notes(folder, side) for side in ("save", "load")}
    seconds = {f"{side}_s": max(note["seconds"] for note in notes) for side, notes in sides.items()}
    peak = max(sum(note["bytes"] for note in notes) for notes in sides.values())
    return seconds | {"seconds": sum(seconds.values()), "memory_factor": peak / (rows * 8)}


def _save_table(rank: int, folder: str, rows: int) -> None:
    group, peak = _join(rank, folder, SAVERS, "save"), PrivatePeak(os.getpid())
    table = UncertaintyTable(rows, initial_logit=0.0, lr=0.1, momentum=0.9, group=group)
    for begin, values in _pieces(table):
        table.state()["logits"][begin : begin + len(values)] = torch.from_numpy(values)
    dist.barrier()
    began = time.monotonic()
    saver = Saver(f"{folder}/table", num_to_keep=1, limit_s=600)
    saver.begin(1, table_files(table), {"step": 1, "metrics": {}})
    saver.finish()
    dist.barrier()
    _note(folder, "save", rank, seconds=time.monotonic() - began, bytes=peak.stop()[0])
    dist.destroy_process_group()


def _load_table(rank: int, folder: str, rows: int) -> None:
    group, peak = _join(rank, folder, LOADERS, "load"), PrivatePeak(os.getpid())
    began = time.monotonic()
    table = UncertaintyTable(rows, initial_logit=0.0, lr=0.1, momentum=0.9, group=group)
    saved = newest_whole(f"{folder}/table", print)
    assert saved, "a checkpoint was written"
    saved.restore_table(table)
    dist.barrier()
    seconds, grown = time.monotonic() - began, peak.stop()[0]
    for begin, values in _pieces(table):
        np.testing.assert_array_equal(table.state()["logits"][begin : begin + len(values)].numpy(), values)
    _note(folder, "load", rank, seconds=seconds, bytes=grown)
    dist.destroy_process_group()


def _alone_ms(times: int = 200) -> float:
    """What a verdict costs ranks that do nothing else."""
    agreement = Agreement(None, save_every_minutes=1)
    began = time.monotonic()
    for _ in range(times):
        agreement.vote(loss=1.0, uploading=False, saving_s=0.0)()
    return (time.monotonic() - began) / times * 1000


def _join(rank: int, folder: str, world_size: int, what: str) -> dist.ProcessGroup:
    torch.set_num_threads(1)
    store = FileStore(f"{folder}/store-{what}", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    assert dist.group.WORLD is not None
    dist.barrier()
    return dist.group.WORLD


def _pieces(table: UncertaintyTable, rows: int = 1 << 18) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """What stands in the table, by id; in pieces, because memory is measured."""
    for begin in range(table.start, table.stop, rows):
        ids = np.arange(begin, min(begin + rows, table.stop))
        yield begin - table.start, (ids % 9973).astype(np.float32)


def _note(folder: str, side: str, rank: int, **figures: float) -> None:
    Path(folder, f"{side}-{rank}.json").write_text(json.dumps(figures))


def _read_notes(folder: str, side: str) -> list[dict[str, float]]:
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob(f"{side}-*.json"))]


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
