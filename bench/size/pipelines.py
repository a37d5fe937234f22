"""Claim: on a node of many GPUs every pipeline has the CPUs it asked for at once; none has 0.

One node claims 16 GPUs and 208 CPUs (Ray counts what it is told); 16 trainers have pipelines that ask for 12 CPUs each.
Seconds from the start of the trainers until each pipeline has its first batch, and the CPUs that Ray Data lets each
use. Goal: 12 each within 10 s. By Ray Data's own reckoning all have 0.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import tyro
from ray.data._internal.execution.execution_callback import ExecutionCallback

from bench.common import cluster, report
from ldlva_dist.stream import pipeline
from ldlva_dist.stream.plan import Plan
from testing.clusters.joining_nodes import another_node

GOAL_S, LIMIT_S = 10.0, 150


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Sizes of the node that is claimed."""

    trainers: int = 16
    data_cpus: int = 12


class Empty(pipeline.Supersteps):
    """A superstep without images to decode: only who may run when is measured."""

    def __call__(self, items: Any) -> Iterator[dict[str, Any]]:
        """One batch of zeros."""
        zeros = np.zeros(self.rows_per_step)
        yield dict.fromkeys(("step", "id", "image", "label", "va"), zeros)


class Trainer:
    """All trainers of the node in one process, as 16 real ones would not fit a small machine."""

    def start(self, trainers: int, data_cpus: int) -> tuple[list[float], list[float]]:
        """Seconds until each pipeline had its first batch, and the CPUs that each may use."""
        limits: dict[str, float] = {}

        class Note(ExecutionCallback):
            def on_execution_step(self, executor):  # no annotations: the class goes to a worker by value
                limits[executor._dataset_id] = executor._resource_manager.get_global_limits().cpu or 0.0

        pipeline._Breather = Note  # pyright: ignore[reportAttributeAccessIssue]
        images = pipeline.ImageSettings(
            size=16, channels=1, resize="antialias", flip=False, pad=0, erase_probability=0.0
        )
        began, opened, seconds = time.monotonic(), [], []
        for _ in range(trainers):
            supersteps: Any = Empty(
                plan=Plan((64,), 0, 32, 32),
                manifest=None,  # pyright: ignore[reportArgumentType]
                images=images,
                rank=0,
                world_size=1,
                first_step=0,
                stop_step=1,
            )
            opened.append(pipeline.batches(supersteps, num_cpus=data_cpus))  # kept open: its limit counts for the next
            next(opened[-1])
            seconds.append(time.monotonic() - began)
        return seconds, list(limits.values())


def main(arguments: Arguments) -> None:
    """Start, measure, print one JSON line."""
    trainers, data_cpus = arguments.trainers, arguments.data_cpus
    with cluster(num_cpus=1), another_node(trainers * (data_cpus + 1), num_gpus=trainers):
        began = time.monotonic()
        actor: Any = ray.remote(num_gpus=1)(Trainer).remote()
        _, limits = ray.get(actor.start.remote(trainers, data_cpus), timeout=LIMIT_S)
        seconds = time.monotonic() - began
    report(
        "pipelines",
        ok=limits == [float(data_cpus)] * trainers and seconds <= GOAL_S,
        seconds_to_all=seconds,
        fewest_cpus=min(limits, default=0.0),
        goal_seconds=GOAL_S,
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
