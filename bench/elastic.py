"""Claim: a run with MIN MAX workers goes on within 30 s where a node is lost, though it was killed without a word.

A small training (jobs/train.py, two ranks on two nodes, a bank, a checkpoint every 6 steps) loses the node of a rank
and goes on with one. Counted are the seconds from the loss to the first step that is trained anew, and to the first
that had not been trained before. A node may say goodbye, as one that is shut down, or be killed with all its processes
at once.
"""

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from _common import drawn_faces, report

sys.path.insert(0, str(Path(__file__).parents[1]))
from ldlva_dist.config import RunConfig
from tests._jobs import training_job, wait_until
from tests._runs import long_run, losses
from tests.ray.faults.cluster import RANK, FaultCluster, fault_cluster

EVERY_STEPS, EPOCHS, FROM_STEP = 6, 400.0, 12
GOAL_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How often."""

    repeats: int = 1
    seed: int = 0


def main(arguments: Arguments) -> None:
    """Lose nodes of both kinds, one run each, and print one JSON line."""
    random = np.random.default_rng(arguments.seed)
    goes_on: dict[str, list[float]] = {"shut down": [], "killed": []}
    made_up: dict[str, list[float]] = {"shut down": [], "killed": []}
    with tempfile.TemporaryDirectory() as folder:
        dataset = drawn_faces(folder, train=300, pixels=48)
        for repeat in range(arguments.repeats):
            for how in goes_on:
                config = _config(dataset, folder, f"{how.replace(' ', '-')}-{repeat}")
                with fault_cluster() as cluster:
                    first, new = lose(cluster, config, Path(folder), random, says_goodbye=how == "shut down")
                goes_on[how].append(first)
                made_up[how].append(new)
    worst = max(value for values in goes_on.values() for value in values)
    report("elastic", ok=worst <= GOAL_S, goes_on_s=goes_on, made_up_s=made_up, checkpoint_every_steps=EVERY_STEPS)


def lose(
    cluster: FaultCluster, config: RunConfig, folder: Path, random: np.random.Generator, *, says_goodbye: bool
) -> tuple[float, float]:
    """Seconds from the loss of a node until a step is trained, and until a new one is."""
    run = f"{config.storage_path}/{config.name}"
    enough = FROM_STEP + int(random.integers(EVERY_STEPS))
    with training_job(config, folder) as job:
        wait_until(lambda: len(losses(run)) >= enough, job, "steps of two workers")
        nodes = cluster.nodes_of(RANK)
        assert len(nodes) == 2, f"each node has a rank, got {nodes}"
        lost = time.monotonic()
        cluster.lose_node(nodes[int(random.integers(2))], says_goodbye=says_goodbye)
        before = len(losses(run))
        wait_until(lambda: len(losses(run)) != before, job, "a worker that goes on from a checkpoint")
        begun = len(losses(run))
        wait_until(lambda: len(losses(run)) > begun, job, "a step of the worker that is left")
        first = time.monotonic() - lost
        wait_until(lambda: len(losses(run)) > before, job, "a step that had not been trained")
        return first, time.monotonic() - lost


def _config(dataset: str, folder: str, name: str) -> RunConfig:
    """One worker a node: a second one finds no room there."""
    config = long_run(dataset, folder, name)
    training = replace(config.training, epochs=EPOCHS, evaluate_every_epochs=EPOCHS, checkpoint_every_steps=EVERY_STEPS)
    placement = replace(
        config.placement, num_workers=(1, 2), cpus_per_worker=0.6, data_cpus_per_worker=0.4, max_failures=3
    )
    return replace(config, training=training, placement=placement)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
