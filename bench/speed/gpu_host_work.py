"""Claim: beside a GPU the training thread of a rank has little to do: what it does in a step stands in the GPU's way.

ResNet-50's sizes at 224 px (V = 2048, K = 8, 256 rows a rank), two ranks, a bank of two shards, and the real loop of
``training/loop.py``; forward, backward and optimiser are a stub that costs nothing, so that all CPU time of the thread
is host work: joins, records, copies, table, votes, meters. Copies to and from the device are made as a GPU's are, in a
thread beside, into memory that is kept in place of pinned memory; a build without such copies makes its own. CPU time
of the thread (``time.thread_time``), so waits do not count, nor what the bank's and the copies' threads do.

Goal: at most 0.25 of the build that ``--checkout FOLDER`` names (commit 44e4586, with its own ``.venv``), in turn with
this one; without it, of the 17.4 ms that a review measured of that build's copies, joins, records and table.
"""

import json
import logging
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist
import tyro
from torch import Tensor

ROWS, NEIGHBORS, WIDTH, PIXELS, CLASSES, SAMPLES, SHARDS = 256, 8, 2048, 224, 8, 16_384, 2
REVIEWED_MS, GOAL, LIMIT_S = 17.4, 0.25, 280.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured, and how long."""

    checkout: str | None = None
    """Folder of another build, to be measured in turn with this one."""
    steps: int = 40
    warmup: int = 8
    rounds: int = 2
    ranks: int = 2
    measure: bool = False
    """Measure the build that is imported, and print its figures alone."""


def main(arguments: Arguments) -> None:
    """Measure side by side and print one JSON line."""
    if arguments.measure:
        print(json.dumps(measure(arguments)), flush=True)
        return
    from bench.common import report

    builds = {"this": Path(__file__).parents[2]}
    builds |= {"other": Path(arguments.checkout)} if arguments.checkout else {}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
    for turn in range(arguments.rounds):
        for name in sorted(builds, reverse=turn % 2 == 1):
            found[name].append(in_build(builds[name], arguments))
    figures = {
        name: {key: statistics.mean(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    other_ms = figures["other"]["thread_ms"] if "other" in figures else REVIEWED_MS
    ratio = figures["this"]["thread_ms"] / other_ms
    report("gpu_host_work", ok=ratio <= GOAL, ratio=ratio, **figures)


def in_build(checkout: Path, arguments: Arguments) -> dict[str, float]:
    """The figures of a build, measured by this file in that build's own environment."""
    command = [str(checkout / ".venv/bin/python"), __file__, "--measure", "--steps", str(arguments.steps)]
    command += ["--warmup", str(arguments.warmup), "--ranks", str(arguments.ranks)]
    environment = os.environ | {"PYTHONPATH": str(checkout), "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, timeout=LIMIT_S, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments: Arguments) -> dict[str, float]:
    """CPU milliseconds of a step, of the training thread and of all threads of a rank; the mean of the ranks."""
    import torch.multiprocessing as mp

    from ldlva_dist.bank.service import start_service

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    service = start_service(
        "gpu-host-work", [_bank_rows(shard) for shard in range(SHARDS)], bank_spec(), {"num_cpus": 0}
    )
    address = ray.get_runtime_context().gcs_address
    context = mp.get_context("spawn")
    figures = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=run_rank, args=(rank, arguments, address, folder, figures))
                 for rank in range(arguments.ranks)]  # fmt: skip
        for rank in ranks:
            rank.start()
        found = [figures.get(timeout=LIMIT_S) for _ in ranks]
        for rank in ranks:
            rank.join(LIMIT_S)
    service.stop()
    ray.shutdown()
    return {key: statistics.mean(figure[key] for figure in found) for key in found[0]}


def run_rank(rank: int, arguments: Arguments, address: str, folder: str, figures: Any) -> None:
    """Train one rank, with nothing to compute."""
    from ldlva_dist.training import optimizer_step, rank_votes
    from ldlva_dist.training.loop import train

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    torch.set_num_threads(1)
    rank_votes.ASK_RAY_EVERY_S = math.inf  # outside of Ray Train there is nobody to ask
    meeting = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=arguments.ranks)
    optimizer_step.step = stub_step()
    clock: dict[int, tuple[float, float]] = {}
    train(build_worker(rank, arguments, clock))
    begin, end = clock[arguments.warmup], clock[arguments.warmup + arguments.steps]
    names = "thread_ms", "process_ms"
    figures.put({n: 1000 * (b - a) / arguments.steps for n, a, b in zip(names, begin, end, strict=True)})
    dist.destroy_process_group()
    ray.shutdown()


def build_worker(rank: int, arguments: Arguments, clock: dict[int, tuple[float, float]]) -> Any:
    """The worker of a run of which only the network is missing."""
    from ldlva_dist.bank.client import NeighborClient
    from ldlva_dist.bank.service import find_service
    from ldlva_dist.checkpoint.saver import Saver
    from ldlva_dist.config.presets import demo
    from ldlva_dist.dataset.manifest import DatasetInfo, SplitInfo
    from ldlva_dist.method.step import StepSettings
    from ldlva_dist.method.uncertainty_table import UncertaintyTable
    from ldlva_dist.stream.plan import Plan
    from ldlva_dist.training.meters import Meters
    from ldlva_dist.training.neighbors.feature_graphs import FeatureGraphs, Rebuilds
    from ldlva_dist.training.rank_votes import Agreement
    from ldlva_dist.training.recorder import Recorder
    from ldlva_dist.training.schedule import Schedule
    from ldlva_dist.training.state import TrainState
    from ldlva_dist.training.worker import Worker

    batch_size, config = ROWS * arguments.ranks, demo()
    config = replace(
        config,
        data=replace(config.data, batch_size=batch_size),
        loss=replace(config.loss, warmup_epochs=0.0),
        training=replace(config.training, epochs=1e4, evaluate_every_epochs=5e3, log_every_steps=10**9),
    )
    nothing = SplitInfo(first_id=SAMPLES, rows=0)
    info = DatasetInfo(
        name="bench",
        class_names=tuple(map(str, range(CLASSES))),
        splits={"train": SplitInfo(first_id=0, rows=SAMPLES), "holdout": nothing, "test": nothing},
        shards=(),
        has_valence_arousal=True,
        content_hash="0",
        class_counts={"train": (SAMPLES // CLASSES,) * CLASSES},
    )
    client = NeighborClient(
        find_service("gpu-host-work"), rank=rank, world_size=arguments.ranks, token="bench", k=NEIGHBORS, timeout_s=60
    )
    client.begin(0)
    dist.barrier()
    group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=60))
    table = UncertaintyTable(SAMPLES, initial_logit=-0.5, lr=0.3, group=group if arguments.ranks > 1 else None)
    plan = Plan((SAMPLES,), 0, batch_size, 128)
    engine: Any = stub_engine()
    return Worker(
        state=TrainState(config=config, info=info, engine=engine, table=table, bank=client),
        plan=plan,
        batches=batches(rank, arguments, clock),
        client=client,
        images=None,
        graphs=FeatureGraphs(Rebuilds(begins=(), takes_effect=())),
        settings=StepSettings(recipe="official", num_classes=CLASSES),
        schedule=Schedule(peak=0.1, total_steps=10**6),
        meters=Meters(batch_size=batch_size, num_rows=SAMPLES, total_steps=10**6, device=torch.device("cpu")),
        recorder=Recorder("bench", None, None, lambda: None),
        saver=Saver("none", num_to_keep=1, limit_s=60),
        agreement=Agreement(None, save_every_minutes=None),
    )


def batches(rank: int, arguments: Arguments, clock: dict[int, tuple[float, float]]) -> Iterator[Any]:
    """Batches as the object store gives them, read-only; notes the CPU seconds at which each one is asked for."""
    from ldlva_dist.messages import Batch

    random = np.random.default_rng(rank)
    images = [random.integers(0, 256, (ROWS, PIXELS, PIXELS, 3), dtype=np.uint8) for _ in range(3)]
    for block in images:
        block.flags.writeable = False
    for step in range(arguments.warmup + arguments.steps + 3):
        clock[step] = time.thread_time(), time.process_time()
        yield Batch(
            step=step,
            positions=np.arange(ROWS, dtype=np.int32) + rank * ROWS,
            ids=random.permutation(SAMPLES)[:ROWS],
            images=images[step % len(images)],
            labels=np.arange(ROWS) % CLASSES,
            va=np.zeros((ROWS, 2), dtype=np.float32),
        )


def stub_step() -> Callable[..., Any]:
    """A step whose outputs are there already."""
    from ldlva_dist.method.step import StepResult

    result = StepResult(
        loss=torch.zeros(()),
        logit_grad_B=torch.full((ROWS,), 0.01),
        probs_BC=torch.full((ROWS, CLASSES), 1 / CLASSES),
        features_BV=torch.rand(ROWS, WIDTH),
        center_sums_CV=torch.zeros(CLASSES, WIDTH),
        center_counts_C=torch.zeros(CLASSES),
        terms=dict.fromkeys(("loss", "cross_entropy", "uncertainty_mean", "intra"), torch.zeros(())),
    )
    return lambda *_, **__: result


def stub_engine() -> SimpleNamespace:
    """An engine that does nothing, with copies beside the training thread."""
    return SimpleNamespace(
        device=torch.device("cpu"),
        copies=CopiesBeside(),
        module=SimpleNamespace(centers=torch.zeros(CLASSES, WIDTH), feature_width=WIDTH),
        backward=lambda loss: None,
        begin_step=lambda rate: None,
        step=lambda *_, **__: None,
        waited_s=0.0,
        skipped_steps=0,
    )


class CopiesBeside:
    """What ``training/device/copies.py`` does for a GPU, into kept memory in place of pinned and the GPU's."""

    device, at_once = torch.device("cpu"), False

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._kept: dict[tuple[Any, ...], list[Tensor]] = {}

    def inward(self, values: Any) -> Tensor:
        """Copied into memory that was used some copies before."""
        source = values if isinstance(values, Tensor) else torch.from_numpy(values)
        return self._memory(source).copy_(source)

    def ahead(self, make: Callable[[], Any]) -> Callable[[], Any]:
        """In the thread."""
        return self._thread.submit(make).result

    def outward(self, tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Copied as a GPU would do it: by somebody else."""
        return self._thread.submit(lambda: {n: self._memory(t).copy_(t) for n, t in tensors.items()}).result

    def _memory(self, like: Tensor) -> Tensor:
        ring = self._kept.setdefault((like.shape, like.dtype), [])
        ring.append(torch.empty(like.shape, dtype=like.dtype) if len(ring) < 8 else ring.pop(0))
        return ring[-1]


def bank_spec() -> Any:
    """Sizes of a ResNet-50's bank."""
    from ldlva_dist.bank.records import BankSpec

    return BankSpec(num_classes=CLASSES, feature_width=WIDTH)


def _bank_rows(shard: int) -> Callable[[], Any]:
    def load() -> Any:
        from ldlva_dist.bank.records import STATIC
        from ldlva_dist.bank.static_rows import ShardRows

        random, rows = np.random.default_rng(shard), SAMPLES // SHARDS
        graph = random.integers(0, SAMPLES, (rows, NEIGHBORS), dtype=np.int32)
        return ShardRows(start=shard * rows, static=np.zeros(rows, dtype=STATIC), graph=graph)

    return load


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
