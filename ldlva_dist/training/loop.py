"""The loop of every training worker: look up, step, write, decide, measure, save."""

from functools import partial
from typing import Any

import ray
import torch.distributed as dist

from ldlva_dist.config import RunConfig
from ldlva_dist.training.build import build_worker
from ldlva_dist.training.inputs import Resources
from ldlva_dist.training.late_ranks import named_waits
from ldlva_dist.training.worker import Worker
from ldlva_dist.waits.patience import tell_by

FIND_LATE_S = 30.0


def train_worker(config: RunConfig, resources: Resources) -> None:
    """Train from the last checkpoint, or the beginning, to the last step; a rank that others wait for is named."""
    tell_by(resources.control.tell_wait.remote)
    try:
        with named_waits(partial(_find_late, resources.control)):
            train(build_worker(config, resources))
    finally:
        if dist.get_rank() == 0:
            resources.control.leave.remote()


def train(worker: Worker) -> None:
    """Do every step that is left, or stop where the ranks agree to."""
    for inputs in worker.lookups():
        outputs, under_way = worker.step(inputs)
        worker.write(inputs, outputs)
        verdict = worker.decide(inputs, outputs, under_way)
        due = worker.due(verdict)
        if due.log:
            metrics = worker.measure(due)
            if due.checkpoint:
                worker.save(metrics, at_once=verdict.at_once)
            if verdict.leave:
                worker.leave()
            worker.meters.restart_clock()  # evaluations and saves are no training
        if verdict.stop:
            break
    worker.close()


def _find_late(control: Any, place: str, rank: int) -> list[int]:
    """Ask the launching process which ranks are not waiting at a place as this one is."""
    return ray.get(control.find_late.remote(place, rank, dist.get_world_size()), timeout=FIND_LATE_S)
