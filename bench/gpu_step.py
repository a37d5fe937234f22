"""Claim: on a GPU a step of ours costs little more than the network's own forward, backward and optimiser.

Needs torch, DeepSpeed and a few small packages, neither Ray nor FAISS nor a data set: the bank is one shard in this
process, the images are in memory. Each stage prints a JSON line as it ends; the first comes within a minute or two:
the bare loop against ours, ResNet-18 at 112 px and ResNet-50 at 224 px, fp32 and bf16, with what a step waits for
(``torch.cuda.set_sync_debug_mode``; by tracing on a CPU); a profiler trace; a run that was saved to files and goes on
in a fresh one, whose losses are those of the run itself (bit for bit on a CPU); two ranks on one GPU over gloo.
``--rehearse`` does it all on the CPU with tiny networks.

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
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import tyro
from safetensors.torch import load_file, save_file
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
from ldlva_dist.storage.checksums import Files
from ldlva_dist.training.device.tensors import batch_tensors, neighbor_tensors, with_logits
from ldlva_dist.training.engine import Engine, EngineSettings, build_optimizer
from ldlva_dist.training.optimizer_step import StepOutputs, optimize
from ldlva_dist.training.state import TrainState
from testing.device_waits import CountedWaits

CLASSES, NEIGHBORS, COUNTED, LIMIT_S = 8, 8, 5, 300.0
GOALS = {"resnet18": 0.75, "resnet50": 0.90}
MOST_WAITS = 3


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to measure."""

    batch: int = 256
    steps: int = 60
    warmup: int = 10
    samples: int = 8192
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
        arguments, device = replace(arguments, batch=32, steps=8, warmup=4, samples=128), torch.device("cpu")
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


class Saved(NamedTuple):
    """Where a run was saved."""

    folder: str
    step: int
    bank: Files
    """Of the bank's rows."""


class Run:
    """Our training on one rank, without a stream: its engine, table and bank."""

    def __init__(
        self, network: Network, precision: str, arguments: Arguments, device: torch.device, saved: Saved | None = None
    ) -> None:
        """New, or where another one was saved."""
        rank, ranks = dist.get_rank(), dist.get_world_size()
        self._rows, self._pixels, self._rank = arguments.batch // ranks, network.pixels, rank
        self._samples = samples = arguments.samples
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
        nothing = SplitInfo(first_id=samples, rows=0)
        self.state = TrainState(
            config=config,
            info=DatasetInfo(
                name="bench",
                class_names=tuple(map(str, range(CLASSES))),
                splits={"train": SplitInfo(first_id=0, rows=samples), "holdout": nothing, "test": nothing},
                shards=(),
                has_valence_arousal=True,
                content_hash="0",
                class_counts={"train": (samples // CLASSES,) * CLASSES},
            ),
            engine=Engine(model, optimizer, settings),
            table=UncertaintyTable(samples, initial_logit=-0.5, lr=0.3, group=dist.group.WORLD if ranks > 1 else None),
            bank=None,
        )
        self.state.engine.train()
        self._settings = StepSettings(recipe="official", num_classes=CLASSES)
        self._bank = MemoryBank(model.feature_width, samples, saved)
        shape = self._rows, network.pixels, network.pixels, 3
        self._images = [np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8) for i in range(3)]
        self._counted: AbstractContextManager[Any] = nullcontext()
        if saved:
            self._restore(saved)
        self._ahead = self._ask(self.state.step)

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

    def losses(self, steps: int) -> list[float]:
        """Those of some more steps."""
        return [float(self.step().terms["loss"]) for _ in range(steps)]

    def save(self, folder: str) -> Saved:
        """Write all that learns into files."""
        engine, table = self.state.engine, self.state.table
        assert table, "made above"
        parts = {"weights": engine.model_state(), "moments": engine.optimizer_state(), "table": table.state()}
        for name, tensors in parts.items():
            save_file({key: value.contiguous() for key, value in tensors.items()}, f"{folder}/{name}.safetensors")
        return Saved(folder, self.state.step, self._bank.save(self.state.step, f"{folder}/bank"))

    def _restore(self, saved: Saved) -> None:
        engine, table = self.state.engine, self.state.table
        assert table, "made above"
        weights, moments, rows = (
            load_file(f"{saved.folder}/{name}.safetensors") for name in ("weights", "moments", "table")
        )
        engine.module.load_state_dict(weights)
        engine.load_optimizer_state(moments)
        table.restore([rows])
        self.state.step = saved.step

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
        ids = np.random.default_rng((step, self._rank)).permutation(self._samples)[: self._rows]
        batch = Batch(
            step=step,
            positions=np.arange(self._rows, dtype=np.int32) + self._rank * self._rows,
            ids=ids,
            images=self._images[step % len(self._images)],
            labels=ids % CLASSES,
            va=np.zeros((self._rows, 2), dtype=np.float32),
        )
        near_ids = np.random.default_rng((step, self._rank, 1)).integers(0, self._samples, (self._rows, NEIGHBORS))
        found = self._bank.read(step, near_ids)
        rows = copies.ahead(partial(batch_tensors, batch, copies))
        near = copies.ahead(lambda: neighbor_tensors(found.result(LIMIT_S), copies))
        return batch, rows, near, table.route(np.concatenate([ids, near_ids.ravel()]), len(ids))


class MemoryBank:
    """One shard, served by a thread of this process as Ray would serve an actor; it knows no other rank."""

    def __init__(self, feature_width: int, samples: int, saved: Saved | None) -> None:
        self._spec = BankSpec(num_classes=CLASSES, feature_width=feature_width)
        static, graph = np.zeros(samples, dtype=STATIC), np.zeros((samples, NEIGHBORS), dtype=np.int32)
        self._shard = BankShard(lambda: ShardRows(start=0, static=static, graph=graph), self._spec)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        step, files = (saved.step, saved.bank) if saved else (0, {})
        self._do(self._shard.begin("bench", 1, step, files)).result(LIMIT_S)

    def read(self, step: int, ids: np.ndarray) -> "Future[Neighbors]":
        """The neighbours' rows as of a step."""
        return self._do(self._read(step, ids))

    def write(self, batch: Batch, outputs: StepOutputs) -> None:
        """Store what a step gave; nobody waits for it."""
        self._do(self._write(batch, outputs))

    def save(self, step: int, folder: str) -> Files:
        """Write its rows as of a step; its files."""
        self._do(self._shard.take_snapshot("bench", step)).result(LIMIT_S)
        entries = self._do(self._shard.write_snapshot("bench", step, folder)).result(LIMIT_S)
        return {f"{folder}/{name}": entry for name, entry in entries.items()}

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
    """Losses of a run that goes on, and of a fresh one that takes up what that one had saved to files."""
    run = Run(network, "fp32", arguments, device)
    before = run.losses(arguments.warmup)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    with tempfile.TemporaryDirectory() as folder:
        saved = run.save(folder)
        went_on = run.losses(COUNTED)
        again = Run(network, "fp32", arguments, device, saved)
        torch.backends.cudnn.benchmark = False
        resumed = again.losses(COUNTED)
    torch.backends.cudnn.deterministic = False
    most_off = float(np.max(np.abs(np.divide(resumed, went_on) - 1)))
    # A GPU may add up in any order. Without saved weights, moments or table it is 5e-4 and more on a CPU.
    ok = bool(np.isfinite([*before, *went_on]).all()) and most_off <= (0.0 if device.type == "cpu" else 1e-4)
    say("resume", ok=ok, saved_at=saved.step, most_off=most_off, losses=went_on, losses_resumed=resumed)
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
