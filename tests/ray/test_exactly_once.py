"""A run that is killed again and again, and goes on with other numbers of workers, is the run of one worker.

Every position is trained once, every step has the loss, and the table ends as it does on one rank without a break.
"""

import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ldlva_dist import launch
from ldlva_dist.data.manifest import read_info
from ldlva_dist.reporting.ids_log import read_ids
from ldlva_dist.training.inputs import make_plan
from tests._exactly_once import assert_exactly_once
from tests._jobs import LIMIT_S, kill_a_training_worker, kill_job, training_job, wait_until
from tests._runs import losses, table, tiny_run

EPOCHS = 5.0
Attack = Callable[[subprocess.Popen[bytes]], None]


def test_kills_and_changes_of_the_number_of_workers_leave_no_trace(cluster: None, faces: str, tmp_path: Path) -> None:
    """2 workers, of which one is killed, then the whole job; 3 workers to the end."""
    config, random = tiny_run(faces, tmp_path, "straight"), np.random.default_rng(2026)
    straight = launch.fit(replace(config, training=replace(config.training, epochs=EPOCHS)))
    plan = make_plan(config, tuple(shard.rows for shard in read_info(faces).shards_of("train")))
    total = plan.steps_for(EPOCHS)
    training = replace(
        config.training, epochs=EPOCHS, evaluate_every_epochs=EPOCHS, checkpoint_every_steps=4, log_ids=True
    )
    config = replace(config, name="killed", training=training, bank=replace(config.bank, num_shards=1))
    kills = (np.array([5, 20]) + random.integers(0, 10, size=2)).tolist()
    worlds: list[tuple[int, list[Attack]]] = [(2, [kill_a_training_worker, kill_job]), (3, [])]
    run = str(tmp_path / "killed")
    for world_size, attacks in worlds:
        placement = replace(config.placement, num_workers=world_size, max_failures=1)
        with training_job(replace(config, placement=placement), tmp_path) as job:
            for attack in attacks:
                step = kills.pop(0)
                wait_until(lambda step=step: len(losses(run)) >= step, job, f"step {step}")
                attack(job)
            assert job.wait(timeout=LIMIT_S) == (-signal.SIGKILL if attacks else 0)

    assert_exactly_once(read_ids(run), plan, total)
    np.testing.assert_allclose(losses(run), losses(straight.run_uri), atol=1e-4, rtol=0)
    last = f"{run}/{straight.checkpoint_uri.rsplit('/', 1)[-1]}"
    np.testing.assert_allclose(table(last), table(straight.checkpoint_uri), atol=1e-5, rtol=0)
