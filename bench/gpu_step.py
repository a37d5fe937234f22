"""Claim: on a GPU a step of ours costs little more than the network's own forward, backward and optimiser.

Needs torch, DeepSpeed and a few small packages, neither Ray nor FAISS nor a data set: the bank is one shard in this
process, the images are in memory. Each stage prints a JSON line as it ends; the first comes within a minute or two:
the bare loop against ours, ResNet-18 at 112 px and ResNet-50 at 224 px, fp32 and bf16, with what a step waits for
(``torch.cuda.set_sync_debug_mode``; by tracing on a CPU); a profiler trace; a state that is saved and resumed; two
ranks on one GPU over gloo. ``--rehearse`` does it all on the CPU with tiny networks.

    python -m venv env && env/bin/pip install torch numpy psutil setuptools wheel
    DS_BUILD_OPS=0 DS_ACCELERATOR=cpu env/bin/pip install --no-build-isolation deepspeed
    env/bin/pip install boto3 isal pillow pyarrow safetensors simplejpeg tenacity tyro
    env/bin/python -m bench.gpu_step

Goals: ours at least 0.90 of bare for ResNet-50 in bf16, 0.75 for ResNet-18, at most 3 waits a step.
"""

import asyncio
import json
import os
import platform
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import tyro
from torch.nn import functional as F

from ldlva_dist.bank.records import STATIC, BankSpec, Write, as_bytes, as_records, decode_features, encode_records
from ldlva_dist.bank.shard import BankShard
from ldlva_dist.bank.static_rows import ShardRows
from ldlva_dist.bank.wire import BankAnswer, BankCall
from ldlva_dist.config.presets import demo
from ldlva_dist.dataset.manifest import DatasetInfo, SplitInfo
from ldlva_dist.messages import Batch, Neighbors
from ldlva_dist.method.step import StepSettings
from ldlva_dist.method.uncertainty_table import UncertaintyTable
from ldlva_dist.models.backbone import build_backbone
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.training.device.tensors import batch_tensors, neighbor_tensors, with_logits
from ldlva_dist.training.engine import Engine, EngineSettings, build_optimizer
from ldlva_dist.training.optimizer_step import StepOutputs, optimize
from ldlva_dist.training.state import TrainState
from testing.device_waits import CountedWaits

CLASSES, NEIGHBORS, SAMPLES, COUNTED, LIMIT_S = 8, 8, 8192, 5, 300.0
GOALS = {"resnet18": 0.75, "resnet50": 0.90}
MOST_WAITS = 3


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to measure."""

    batch: int = 256
    steps: int = 60
    warmup: int = 10
    trace: str = "gpu_step_trace.json"
    """File of the profiler's trace, for chrome://tracing or Perfetto."""
    rehearse: bool = False
    """On the CPU, tiny."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """One of those that are measured."""

    name: str
    pixels: int
    width: int = 64
    stem: str = "imagenet"

    def build(self) -> LDLVA:
        """New, with the same weights every time."""
        torch.manual_seed(0)
        return LDLVA(
            build_backbone(self.name, width=self.width, channels=3, stem=self.stem), CLASSES, recipe="official"
        )


NETWORKS = Network(name="resnet18", pixels=112), Network(name="resnet50", pixels=224)
TINY = (Network(name="resnet10", pixels=32, width=8, stem="small"),)


def main(arguments: Arguments) -> None:
    """Measure in stages, each printed as it ends."""
    if not arguments.rehearse and not torch.cuda.is_available():
        raise SystemExit("error: bench.gpu_step needs a GPU that torch sees, or --rehearse")
    if arguments.rehearse:
        arguments, device = replace(arguments, batch=32, steps=8, warmup=2), torch.device("cpu")
    else:
        device = torch.device("cuda", 0)
    os.environ["LOCAL_RANK"] = "0"
    good = True
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        for network in TINY if arguments.rehearse else NETWORKS:
            for precision in ("fp32", "bf16"):
                good &= measure(network, precision, arguments, device)
        network = (TINY if arguments.rehearse else NETWORKS)[0]
        trace(network, arguments, device)
        good &= resume(network, arguments, device)
        dist.destroy_process_group()
        good &= two_ranks(network, arguments, folder)
    say("all", ok=good)


def measure(network: Network, precision: str, arguments: Arguments, device: torch.device) -> bool:
    """The bare loop, ours, and what a step of ours waits for."""
    facts = {"network": network.name, "pixels": network.pixels, "precision": precision}
    bare = bare_speed(network, precision, arguments, device)
    say("bare", ok=True, **facts, samples_per_second=bare)
    run = Run(network, precision, arguments, device)
    ours = run.speed(arguments.warmup, arguments.steps)
    ratio, waits = ours / bare, run.waits()
    is_fast = precision == "fp32" or ratio >= GOALS.get(network.name, 0.0)
    ok = is_fast and waits <= MOST_WAITS
    say("ours", ok=ok, **facts, samples_per_second=ours, ratio=ratio, waits_a_step=waits)
    return ok


def bare_speed(network: Network, precision: str, arguments: Arguments, device: torch.device) -> float:
    """Samples/s of forward, backward and optimiser on tensors in the device's memory."""
    model = network.build().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    shape = arguments.batch, network.pixels, network.pixels, 3
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    labels, began = torch.arange(arguments.batch, device=device) % CLASSES, 0.0
    for step in range(arguments.warmup + arguments.steps):
        if step == arguments.warmup:
            synchronize(device)
            began = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images).logits_BC
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    synchronize(device)
    return arguments.batch * arguments.steps / (time.monotonic() - began)


class Run:
    """Our training on one rank, without a stream: its engine, table and bank."""

    def __init__(self, network: Network, precision: str, arguments: Arguments, device: torch.device) -> None:
        rank, ranks = dist.get_rank(), dist.get_world_size()
        self._rows, self._pixels, self._rank = arguments.batch // ranks, network.pixels, rank
        config = demo()
        config = replace(config, data=replace(config.data, batch_size=arguments.batch))
        model = network.build().to(device).train()
        settings = EngineSettings(
            zero_stage=0,  # gloo gathers nothing from GPUs
            gradient_accumulation_steps=1,
            micro_batch_size=self._rows,
            gradient_clipping=None,
            bf16=precision == "bf16",
            use_gpu=device.type == "cuda",
        )
        optimizer = build_optimizer(model, "sgd", lr=1e-3, weight_decay=1e-4, momentum=0.9)
        nothing = SplitInfo(first_id=SAMPLES, rows=0)
        self.state = TrainState(
            config=config,
            info=DatasetInfo(
                name="bench",
                class_names=tuple(map(str, range(CLASSES))),
                splits={"train": SplitInfo(first_id=0, rows=SAMPLES), "holdout": nothing, "test": nothing},
                shards=(),
                has_valence_arousal=True,
                content_hash="0",
                class_counts={"train": (SAMPLES // CLASSES,) * CLASSES},
            ),
            engine=Engine(model, optimizer, settings),
            table=UncertaintyTable(SAMPLES, initial_logit=-0.5, lr=0.3, group=dist.group.WORLD if ranks > 1 else None),
            bank=None,
        )
        self.state.engine.train()
        self._settings = StepSettings(recipe="official", num_classes=CLASSES)
        self._bank = MemoryBank(model.feature_width)
        shape = self._rows, network.pixels, network.pixels, 3
        self._images = [np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8) for i in range(3)]
        self._counted: AbstractContextManager[Any] = nullcontext()
        self._ahead = self._ask(0)

    def step(self) -> StepOutputs:
        """One, as a worker does it."""
        state, table, copies = self.state, self.state.table, self.state.engine.copies
        assert table, "made above"
        batch, rows, near, route = self._ahead
        self._ahead = self._ask(state.step + 1)
        state.engine.begin_step(1e-3)
        tensors, neighbors = with_logits(rows(), near(), table.read(route), copies)
        with self._counted:  # the table's own arrays are the host's on any machine
            outputs, apply = optimize(
                state,
                tensors,
                neighbors,
                settings=self._settings,
                use_neighbors=True,
                tell=lambda outputs: table.apply(route, outputs.logit_grads),
            )
        self._bank.write(batch, outputs)
        apply()
        state.step += 1
        return outputs

    def speed(self, warmup: int, steps: int) -> float:
        """Samples/s of all ranks after some steps."""
        for _ in range(warmup):
            self.step()
        synchronize(self.state.engine.device)
        began = time.monotonic()
        for _ in range(steps):
            self.step()
        synchronize(self.state.engine.device)
        return self.state.config.data.batch_size * steps / (time.monotonic() - began)

    def waits(self) -> float:
        """How often the host waits for the device in a step, the event of the outputs included."""
        if self.state.engine.device.type == "cpu":
            self._counted = counted = CountedWaits()
            for _ in range(COUNTED):
                self.step()
            self._counted = nullcontext()
            return 1 + counted.count / COUNTED
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            for _ in range(COUNTED):
                self.step()
            torch.cuda.set_sync_debug_mode("default")
        places = [f"{one.filename}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)]
        if places:
            say("waits", ok=True, places=sorted(set(places)))
        return 1 + len(places) / COUNTED

    def _ask(self, step: int) -> tuple[Batch, Callable[[], Any], Callable[[], Any], Any]:
        copies, table = self.state.engine.copies, self.state.table
        assert table, "made above"
        ids = np.random.default_rng((step, self._rank)).permutation(SAMPLES)[: self._rows]
        batch = Batch(
            step=step,
            positions=np.arange(self._rows, dtype=np.int32) + self._rank * self._rows,
            ids=ids,
            images=self._images[step % len(self._images)],
            labels=ids % CLASSES,
            va=np.zeros((self._rows, 2), dtype=np.float32),
        )
        near_ids = np.random.default_rng((step, self._rank, 1)).integers(0, SAMPLES, (self._rows, NEIGHBORS))
        found = self._bank.read(step, near_ids)
        rows = copies.ahead(partial(batch_tensors, batch, copies))
        near = copies.ahead(lambda: neighbor_tensors(found.result(LIMIT_S), copies))
        return batch, rows, near, table.route(np.concatenate([ids, near_ids.ravel()]), len(ids))


class MemoryBank:
    """One shard, served by a thread of this process as Ray would serve an actor; it knows no other rank."""

    def __init__(self, feature_width: int) -> None:
        self._spec = BankSpec(num_classes=CLASSES, feature_width=feature_width)
        static, graph = np.zeros(SAMPLES, dtype=STATIC), np.zeros((SAMPLES, NEIGHBORS), dtype=np.int32)
        self._shard = BankShard(lambda: ShardRows(start=0, static=static, graph=graph), self._spec)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._do(self._shard.begin("bench", 1, 0, {})).result(LIMIT_S)

    def read(self, step: int, ids: np.ndarray) -> "Future[Neighbors]":
        """The neighbours' rows as of a step."""
        return self._do(self._read(step, ids))

    def write(self, batch: Batch, outputs: StepOutputs) -> None:
        """Store what a step gave; nobody waits for it."""
        self._do(self._write(batch, outputs))

    async def _read(self, step: int, ids: np.ndarray) -> Neighbors:
        distinct, place = np.unique(ids.ravel(), return_inverse=True)
        call = BankCall(token="bench", rank=0, read_step=step, ids=distinct)
        answer = BankAnswer.of(await self._shard.exchange(call.pack()), call, self._spec)
        records = as_records(answer.rows.take(place, axis=0), self._spec.record).reshape(ids.shape)
        static = as_records(answer.static.take(place, axis=0), STATIC).reshape(ids.shape)
        return Neighbors(
            ids=ids,
            va=static["va"],
            labels=static["label"].astype(np.int64),
            probs=records["probs"],
            features=decode_features(records),
            versions=records["versions"],
        )

    async def _write(self, batch: Batch, outputs: StepOutputs) -> None:
        rows = as_bytes(encode_records(outputs.probs.numpy(), outputs.features.numpy(), self._spec, batch.step))
        write = Write(step=batch.step, positions=batch.positions, ids=batch.ids, rows=rows)
        await self._shard.exchange(BankCall(token="bench", rank=0, write=write).pack())

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def trace(network: Network, arguments: Arguments, device: torch.device) -> None:
    """One profiler trace of some steps in bf16."""
    run = Run(network, "bf16", arguments, device)
    run.speed(0, arguments.warmup)
    with torch.profiler.profile() as profiler:
        run.speed(0, COUNTED)
    profiler.export_chrome_trace(arguments.trace)
    say("trace", ok=True, file=arguments.trace, steps=COUNTED, bytes=os.path.getsize(arguments.trace))


def resume(network: Network, arguments: Arguments, device: torch.device) -> bool:
    """Losses of a run that goes on, and of one that takes up its weights, moments and table."""
    run = Run(network, "fp32", arguments, device)
    losses = [float(run.step().terms["loss"]) for _ in range(arguments.warmup + COUNTED)]
    again = Run(network, "fp32", arguments, device)
    for _ in range(arguments.warmup):
        again.step()
    saved = again.state.engine.model_state(), again.state.engine.optimizer_state()
    assert again.state.table, "made above"
    table = {name: value.clone() for name, value in again.state.table.state().items()}
    for _ in range(2):  # what is learnt on is forgotten again, but for the bank
        again.step()
    again.state.engine.module.load_state_dict(saved[0])
    again.state.engine.load_optimizer_state(saved[1])
    again.state.table.restore([table])
    same = [torch.equal(value, saved[0][name]) for name, value in again.state.engine.model_state().items()]
    moments = again.state.engine.optimizer_state()
    same += [torch.equal(value, saved[1][name]) for name, value in moments.items()]
    loss = float(again.step().terms["loss"])
    ok = all(same) and bool(np.isfinite([*losses, loss]).all())
    say("resume", ok=ok, tensors_equal=f"{sum(same)} of {len(same)}", losses=losses[-3:], loss_after=loss)
    return ok


def two_ranks(network: Network, arguments: Arguments, folder: str) -> bool:
    """Two processes on one device, over gloo: their weights stay one."""
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    figures = context.Queue()
    ranks = [context.Process(target=run_rank, args=(rank, network, arguments, folder, figures)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    found = [figures.get(timeout=LIMIT_S) for _ in ranks]
    for rank in ranks:
        rank.join(LIMIT_S)
    (speed, *mine), (_, *other) = found
    say("two ranks", ok=mine == other, samples_per_second=speed, weights_equal=mine == other, sums=[mine, other])
    return mine == other


def run_rank(rank: int, network: Network, arguments: Arguments, folder: str, figures: Any) -> None:
    """One of the two."""
    device = torch.device("cpu") if arguments.rehearse else torch.device("cuda", 0)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/two", rank=rank, world_size=2)
    run = Run(network, "fp32", arguments, device)
    speed = run.speed(2, COUNTED)
    weights = [value.double().sum().item() for value in run.state.engine.module.parameters()]
    figures.put((speed, sum(weights), weights[0]))
    dist.barrier()
    dist.destroy_process_group()


def synchronize(device: torch.device) -> None:
    """Wait for all that was begun."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def say(stage: str, *, ok: bool, **figures: Any) -> None:
    """One JSON line."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {"cpus": os.cpu_count(), "gpu": gpu, "torch": torch.__version__, "python": platform.python_version()}
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"name": "gpu_step", "stage": stage, "ok": ok, **rounded, "machine": machine}), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
