"""Claim: a small network trains nearly as fast as its own `step` on tensors in memory; the host's work is little.

The demo's network (ResNet-10 of width 12, 48 px, B = 32, K = 32) on one and on two workers, each with one torch thread.
Bare is the same ``step``, backward and optimiser on tensors in memory: one process with 32 rows, and two at once with
16 rows each. Host work is what the training thread of rank 0 does in a step beside forward, backward and optimiser,
waits included, by part; it is timed from outside, by wrapping functions, so that ``--checkout FOLDER`` (another build,
with its own ``.venv``) is measured by the same rule, in turn with this one. Names that builds since 44e4586 gave to the
same work are listed below; a build that has none of them is refused. Whatever waits for another rank is a collective.

Goals: one worker at least 0.90 of bare, two workers at least 0.70 of the two bare processes, host work at two workers
at most 0.4 of the other build's.
"""

import functools
import importlib
import json
import logging
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
import tyro

ROWS, NEIGHBORS, CLASSES, TRAIN = 32, 32, 7, 1024
BARE = "forward", "backward", "optimizer"
"""Parts of a step that are no host work."""
LIMIT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured, and how long."""

    checkout: str | None = None
    """Folder of another build, to be measured in turn with this one."""
    steps: int = 200
    """Measured in each run."""
    warmup: int = 48
    """Steps before them: the bank is filled in 32."""
    rounds: int = 1
    workers: tuple[int, ...] = (1, 2)
    measure: bool = False
    """Measure the build that is imported, and print its figures alone."""


def main(arguments: Arguments) -> None:
    """Measure side by side and print one JSON line."""
    if arguments.measure:
        print(json.dumps(measure(arguments)), flush=True)
        return
    from bench.common import report

    here = Path(__file__).parents[2]
    builds = {"this": here} | ({"other": Path(arguments.checkout)} if arguments.checkout else {})
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for turn in range(arguments.rounds):
        for name in sorted(builds, reverse=turn % 2 == 1):
            found[name].append(in_build(builds[name], arguments))
    figures = {name: {str(n): _mean([run[str(n)] for run in runs]) for n in arguments.workers}
               for name, runs in found.items()}  # fmt: skip
    mine, ok = figures["this"], True
    ratios = {n: figure["samples_per_second"] / figure["bare_samples_per_second"] for n, figure in mine.items()}
    ok &= ratios.get("1", 1.0) >= 0.90 and ratios.get("2", 1.0) >= 0.70
    host = {n: mine[n]["host_ms"] / figure["host_ms"] for n, figure in figures.get("other", {}).items()}
    report("overhead", ok=ok and host.get("2", 0.0) <= 0.4, ratio=ratios, host_of_other=host, **figures)


def in_build(checkout: Path, arguments: Arguments) -> dict[str, Any]:
    """The figures of a build, measured by this file in that build's own environment."""
    command = [str(checkout / ".venv/bin/python"), __file__, "--measure", "--steps", str(arguments.steps)]
    command += ["--warmup", str(arguments.warmup), "--workers", *map(str, arguments.workers)]
    environment = os.environ | {"PYTHONPATH": str(checkout), "RAY_worker_niceness": "0"}
    done = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, timeout=LIMIT_S, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments: Arguments) -> dict[str, Any]:
    """Figures of the build that is imported, by number of workers."""
    from bench.common import drawn_faces

    with tempfile.TemporaryDirectory() as folder:
        dataset = drawn_faces(folder, train=TRAIN, pixels=48)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        figures = {str(n): our_speed(arguments, folder, dataset, n) for n in arguments.workers}
        ray.shutdown()
    for n in arguments.workers:
        figures[str(n)]["bare_samples_per_second"] = bare_speed(n, arguments)
    return figures


def our_speed(arguments: Arguments, folder: str, dataset: str, num_workers: int) -> dict[str, Any]:
    """Samples/s, milliseconds of a step by part, and CPU milliseconds of a step by process, of a run."""
    from ldlva_dist.config.presets import demo
    from ldlva_dist.run import launch

    config, steps = demo(), arguments.warmup + arguments.steps + 1
    config = replace(
        config,
        name=f"overhead-{num_workers}",
        storage_path=f"{folder}/runs",
        data=replace(config.data, dataset=dataset, batch_size=ROWS),
        loss=replace(config.loss, warmup_epochs=0.0),
        training=replace(config.training, epochs=steps * ROWS / TRAIN, evaluate_every_epochs=999.0),
        placement=replace(config.placement, num_workers=num_workers, max_failures=0),
    )
    result = f"{folder}/figures-{num_workers}.json"
    launch.train_worker = functools.partial(timed_worker, result, arguments.warmup, arguments.steps)
    launch.fit(config)
    figures = json.loads(Path(result).read_text())
    expected = {part for part, *_ in (*WRAPPED, *EACH)} - ({"collectives"} if num_workers == 1 else set())
    if not expected <= figures["part_ms"].keys():
        # A function that others have imported by its name is to be wrapped where they hold it.
        raise LookupError(f"no call was seen of {', '.join(sorted(expected - figures['part_ms'].keys()))}")
    return figures


def timed_worker(result: str, warmup: int, steps: int, config: Any, resources: Any) -> None:
    """``train_worker`` with its parts timed; rank 0 writes the figures of some steps after the first ones."""
    import torch.distributed as dist

    import ldlva_dist
    from ldlva_dist.training.loop import train_worker

    parts = Parts()
    parts.wrap_all(is_today=Path(ldlva_dist.__file__).parents[1] == Path(__file__).parents[2])
    worker = importlib.import_module("ldlva_dist.training.worker").Worker
    bare_step, begun = worker.step, {}

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = len(begun.setdefault("steps", []))
        begun["steps"].append(None)
        if dist.get_rank() == 0 and done == warmup:
            parts.clear()
            begun["at"] = time.monotonic(), time.thread_time(), cpu_by_process()
        if dist.get_rank() == 0 and done == warmup + steps:
            wall_s, thread_s = time.monotonic() - begun["at"][0], time.thread_time() - begun["at"][1]
            cpu_s, before = defaultdict[str, float](float), begun["at"][2]
            for pid, (name, s) in cpu_by_process().items():
                cpu_s[name] += s - before.get(pid, (name, 0.0))[1]
            part_ms = {name: 1000 * s / steps for name, s in parts.seconds.items()}
            figures = {
                "samples_per_second": config.data.batch_size * steps / wall_s,
                "host_ms": 1000 * wall_s / steps - sum(part_ms.get(name, 0.0) for name in BARE),
                "thread_cpu_ms": 1000 * thread_s / steps,
                "part_ms": part_ms | {"loop": 1000 * wall_s / steps - sum(part_ms.values())},
                "cpu_ms": {name: 1000 * s / steps for name, s in cpu_s.items()},
            }
            Path(result).write_text(json.dumps(figures))
        return bare_step(self, *args, **kwargs)

    worker.step = step
    train_worker(config, resources)


class Parts:
    """Seconds of one thread by part; a part inside another is not counted to the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.perf_counter()
        self._thread = threading.get_ident()

    def clear(self) -> None:
        """Begin anew."""
        self.seconds.clear()
        self._since = time.perf_counter()

    def wrap_all(self, *, is_today: bool) -> None:
        """Wrap what is measured in the build that is imported.

        Args:
            is_today: Whether it is the build that this file belongs to, which must have the newest of all names.

        Raises:
            LookupError: where the build does a piece of work under no name that is known.
        """
        for part, *generations in WRAPPED:
            for owner, name in functions(generations[:1] if is_today else generations):
                setattr(owner, name, self._timed(getattr(owner, name), part))
        for part, place in EACH:
            ((owner, name),) = functions([place])
            setattr(owner, name, self._each(getattr(owner, name), part))

    def _timed(self, bare: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(bare)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return bare(*args, **kwargs)
            self._switch(part)
            try:
                return bare(*args, **kwargs)
            finally:
                self._leave()

        return timed

    def _each(self, bare: Callable[..., Iterator[Any]], part: str) -> Callable[..., Iterator[Any]]:
        def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items = bare(*args, **kwargs)
            take = self._timed(functools.partial(next, items, None), part)
            while (item := take()) is not None:
                yield item

        return timed

    def _switch(self, part: str) -> None:
        self._count()
        self._open.append(part)

    def _leave(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def functions(generations: Sequence[str]) -> list[tuple[Any, str]]:
    """Owners and names of the functions of the first generation that the imported build has whole.

    Args:
        generations: Each ``MODULE:NAME NAME``, the newest first; an empty one is had by every build.

    Raises:
        LookupError: where the build has none of them.
    """
    missing: list[str] = []
    for generation in generations:
        module, _, names = generation.partition(":")
        found = [_function(module, name) for name in names.split()]
        if None not in found:
            return [each for each in found if each]
        missing += [f"{module}:{name}" for name, each in zip(names.split(), found, strict=True) if not each]
    raise LookupError(f"WRAPPED of {__file__} must name what the build has, which lacks {', '.join(missing)}")


def _function(module: str, name: str) -> tuple[Any, str] | None:
    try:
        owner: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            return None
        raise
    *way, last = name.split(".")
    for step in way:
        owner = getattr(owner, step, None)
    return (owner, last) if hasattr(owner, last) else None


_STEP, _WORKER = "ldlva_dist.training.optimizer_step", "ldlva_dist.training.worker"
_NEIGHBORS = "ldlva_dist.training.neighbors"
_TABLE, _VOTES = "ldlva_dist.method.uncertainty_table", "ldlva_dist.training.rank_votes"
WRAPPED = (
    ("collectives", "torch.distributed:all_reduce all_to_all_single broadcast reduce all_gather_into_tensor all_gather "
                    "reduce_scatter_tensor barrier isend irecv Work.wait"),
    ("collectives", "ldlva_dist.training.device.gradient_mean:GradientMean.expect GradientMean.take", ""),
    ("backward", "torch:Tensor.backward"),
    ("optimizer", "torch.optim:AdamW.step"),
    ("optimizer", "torch.optim.adam:adam"),
    ("forward", "ldlva_dist.models.ldlva:LDLVA.forward"),
    ("forward", f"{_STEP}:step"),
    ("engine", "ldlva_dist.training.engine:Engine.__call__ Engine.backward Engine.step"),
    ("engine", "ldlva_dist.training.engine:Engine.begin_step", ""),
    ("engine", "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer.reduce_gradients "
               "DeepSpeedZeroOptimizer.reduce_ready_partitions_and_remove_grads"),
    ("table", f"{_TABLE}:UncertaintyTable.read UncertaintyTable.apply"),
    ("table", f"{_TABLE}:UncertaintyTable.route UncertaintyTable._descend", ""),
    ("copies", f"{_WORKER}:optimize"),
    ("copies", f"{_WORKER}:with_logits", f"{_STEP}:to_tensors"),
    ("copies", f"{_NEIGHBORS}.prefetch:batch_tensors", ""),
    ("copies", f"{_NEIGHBORS}.lookups:neighbor_tensors", ""),
    ("centers", f"{_STEP}:RankSums.__init__ RankSums.wait", f"{_STEP}:_move_centers"),
    ("centers", f"{_STEP}:update_centers"),
    ("votes", f"{_VOTES}:Agreement.vote Agreement._verdict", f"{_VOTES}:Agreement.after_step"),
    ("votes", f"{_WORKER}:Worker._vote Worker.decide", f"{_WORKER}:Worker.vote"),
    ("log", f"{_WORKER}:Worker.step Worker.due Worker.measure"),
    ("bank", f"{_WORKER}:Worker.write"),
)  # fmt: skip
"""Parts, and the functions that they are: today's, and after them those that did the same in earlier builds.

What :func:`optimize` does beside all others is cutting, joining and handing out tensors.
"""
EACH = ("stream", "ldlva_dist.training.build:read_batches"), ("bank", f"{_WORKER}:Worker.lookups")
"""The same of functions that give one thing after another."""


def cpu_by_process() -> dict[int, tuple[str, float]]:
    """The kind of every process of this cluster by its id, and its CPU seconds so far; none that have ended.

    Ray gives a process another name when it gives it an actor: a kind's seconds would not begin with it.
    """
    me = psutil.Process()
    raylet = next(p for p in me.parents() if p.name() == "raylet")
    root = raylet.parent() or raylet
    found: dict[int, tuple[str, float]] = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            times, command = process.cpu_times(), process.cmdline()
        except psutil.Error:
            continue
        name = " ".join(command[:1]) if command and command[0].startswith("ray::") else process.name()
        found[process.pid] = ("trainer" if process.pid == me.pid else name)[:40], times.user + times.system
    return found


def bare_speed(num_processes: int, arguments: Arguments) -> float:
    """Samples/s of ``step``, backward and optimiser on tensors in memory, of so many processes at once together."""
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    gate, speeds = context.Barrier(num_processes), context.Queue()
    ranks = [context.Process(target=bare_rank, args=(ROWS // num_processes, arguments, gate, speeds))
             for _ in range(num_processes)]  # fmt: skip
    for rank in ranks:
        rank.start()
    total = sum(speeds.get(timeout=LIMIT_S) for _ in ranks)
    for rank in ranks:
        rank.join(LIMIT_S)
    return total


def bare_rank(rows: int, arguments: Arguments, gate: Any, speeds: Any) -> None:
    """One of the bare processes."""
    from ldlva_dist.config.presets import demo
    from ldlva_dist.method.step import StepSettings, TensorBatch, TensorNeighbors, step
    from ldlva_dist.models.backbone import build_backbone
    from ldlva_dist.models.ldlva import LDLVA
    from ldlva_dist.training.engine import build_optimizer

    torch.set_num_threads(1)
    model, optim = demo().model, demo().optim
    backbone = build_backbone(model.name, width=model.width, channels=1, stem=model.stem)
    network = LDLVA(backbone, CLASSES, recipe="official", calibration_hidden=model.calibration_hidden)
    optimizer = build_optimizer(
        network, optim.name, lr=optim.lr, weight_decay=optim.weight_decay, momentum=optim.momentum
    )
    shape = rows, NEIGHBORS
    batch = TensorBatch(
        images=torch.randint(0, 256, (rows, 48, 48, 1), dtype=torch.uint8),
        labels_B=torch.randint(CLASSES, (rows,)),
        va_B2=torch.rand(rows, 2),
        logit_B=torch.zeros(rows),
    )
    neighbors = TensorNeighbors(
        va_BK2=torch.rand(*shape, 2),
        labels_BK=torch.randint(CLASSES, shape),
        probs_BKC=torch.rand(*shape, CLASSES).softmax(dim=-1),
        features_BKV=torch.rand(*shape, network.feature_width),
        usable_BK=torch.ones(shape, dtype=torch.bool),
        logit_BK=torch.zeros(shape),
        label_only_BK=torch.zeros(shape, dtype=torch.bool),
    )
    settings, began = StepSettings(recipe="official", num_classes=CLASSES), 0.0
    for turn in range(30 + arguments.steps):
        if turn == 30:
            gate.wait(LIMIT_S)
            began = time.monotonic()
        step(network, batch, neighbors, settings=settings, global_batch_size=ROWS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    speeds.put(rows * arguments.steps / (time.monotonic() - began))


def _mean(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of figures of equal runs, number by number."""
    first = runs[0]
    return {
        key: _mean([run.get(key, {}) for run in runs]) if isinstance(value, dict)
        else statistics.mean(run.get(key, 0.0) for run in runs)
        for key, value in first.items()
    }  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
