"""A training whose rank 0 counts what it says to others in some steps, and writes that down; traffic.py starts it."""

import json
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import tyro

from bench.size.step_model import Exchange
from ldlva_dist import storage
from ldlva_dist.config import RunConfig
from ldlva_dist.run import launch
from ldlva_dist.run.cli import read_config
from ldlva_dist.runtime.connect import connect

TURNS = 50
CAUSES = {"begin": "route", "send_ids": "route", "_answer": "table", "apply": "votes"}
"""Functions of row_routes.py and uncertainty_table.py, and what they say; every other collective is a gradient's."""
COLLECTIVES = (
    "isend",
    "all_reduce",
    "all_to_all_single",
    "all_gather_into_tensor",
    "all_gather",
    "reduce_scatter_tensor",
    "reduce",
    "broadcast",
    "barrier",
)
TAKES_RESULT_FIRST = "all_to_all_single", "all_gather_into_tensor", "all_gather", "reduce_scatter_tensor"

Tally = dict[tuple[str, str, int], list[float]]
"""Calls and bytes by cause, kind and the size's power of two."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which run, and where its figures go."""

    job: str
    """Settings of the run."""
    result: str
    """Address of a JSON file."""
    warmup: int
    """First steps, which do not count."""
    steps: int
    """Counted and timed after them."""


def main(arguments: Arguments) -> None:
    """Make the run."""
    connect()
    launch.train_worker = partial(counted_worker, arguments)
    launch.fit(read_config(arguments.job))


def counted_worker(arguments: Arguments, config: RunConfig, resources: Any) -> None:
    """``train_worker`` that counts collectives in some steps after the first ones; rank 0 writes them down."""
    from ldlva_dist.training.loop import train_worker
    from ldlva_dist.training.worker import Worker

    warmup, steps = arguments.warmup, arguments.steps
    tally: Tally = defaultdict(lambda: [0, 0])
    for kind in COLLECTIVES:
        setattr(dist, kind, _counted(kind, getattr(dist, kind), tally))
    bare_step, done, before = Worker.step, [0], dict[str, int]()
    begun: list[float] = []

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        torch.set_num_threads(1)  # what a rank is given so as to be alone on a host may be more than the machine has
        if done[0] == warmup:
            tally.clear()
            before.update(card_counters())
        if warmup <= done[0] <= warmup + steps:
            begun.append(time.monotonic())
        if done[0] == warmup + steps and dist.get_rank() == 0:
            exchanges = [
                vars(Exchange(cause=cause, kind=kind, calls=calls / steps, num_bytes=num_bytes / steps))
                for (cause, kind, _), (calls, num_bytes) in sorted(tally.items())
            ]
            figures: dict[str, Any] = {
                "exchanges": exchanges,
                "step_s": statistics.median(end - start for start, end in pairwise(begun)),
                "mean_step_s": (begun[-1] - begun[0]) / steps,
                **{name: (number - before[name]) / steps for name, number in card_counters().items()},
            }
            if dist.get_world_size() == 1:
                figures["actor_call_s"] = actor_call_s()
            storage.write_bytes(arguments.result, json.dumps(figures).encode())
        done[0] += 1
        return bare_step(self, *args, **kwargs)

    Worker.step = step
    train_worker(config, resources)


def card_counters() -> dict[str, int]:
    """Bytes and packets that this host's network cards, loopback aside, have sent and received."""
    sums: dict[str, int] = {"bytes_received": 0, "packets_received": 0, "bytes_sent": 0, "packets_sent": 0}
    for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]:
        name, numbers = line.split(":")
        if name.strip() != "lo":
            for key, place in zip(sums, (0, 1, 8, 9), strict=True):
                sums[key] += int(numbers.split()[place])
    return sums


def _counted(kind: str, bare: Any, tally: Tally) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        given = tensors[-1] if kind in TAKES_RESULT_FIRST else tensors[0] if tensors else torch.empty(0)
        num_bytes = given.numel() * given.element_size()
        count = tally[_cause(), kind, num_bytes.bit_length()]
        count[0] += 1
        count[1] += num_bytes
        return bare(*args, **kwargs)

    return counted


def _cause() -> str:
    """What a collective is for, by who called for it."""
    frame = sys._getframe(2)
    while frame:
        is_of_table = frame.f_code.co_filename.endswith(("row_routes.py", "uncertainty_table.py"))
        if is_of_table and (cause := CAUSES.get(frame.f_code.co_name)):
            return cause
        if frame.f_code.co_filename.endswith("rank_votes.py"):
            return "votes"
        if frame.f_code.co_filename.endswith("rank_bank.py"):  # bank.place=workers
            return "bank"
        if frame.f_code.co_filename.endswith("optimizer_step.py") and "self" in frame.f_locals:
            return "centers"
        frame = frame.f_back
    return "gradients"


def actor_call_s() -> float:
    """Seconds of a call to an actor that this process of a cluster starts, and its answer."""
    import ray

    class Echo:
        def say(self, what: bytes) -> bytes:
            return what

    actor: Any = ray.remote(Echo).options(num_cpus=0).remote()
    ray.get(actor.say.remote(b""))
    began = time.monotonic()
    for _ in range(TURNS):
        ray.get(actor.say.remote(bytes(1 << 14)))
    return (time.monotonic() - began) / TURNS


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
