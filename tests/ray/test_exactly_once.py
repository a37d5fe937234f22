"""A run that is killed again and again, and goes on with other numbers of workers, is the run of one worker.

Every position is trained once, every step has the loss, and the table ends as it does on one rank without a break.
"""

import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ldlva_dist import launch
from ldlva_dist.data.manifest import read_info
from ldlva_dist.data.plan import Plan
from ldlva_dist.reporting.ids_log import read_ids
from ldlva_dist.training.inputs import make_plan
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

    _assert_exactly_once(read_ids(run), plan, total)
    np.testing.assert_allclose(losses(run), losses(straight.run_uri), atol=1e-4, rtol=0)
    last = f"{run}/{straight.checkpoint_uri.rsplit('/', 1)[-1]}"
    np.testing.assert_allclose(table(last), table(straight.checkpoint_uri), atol=1e-5, rtol=0)


def _assert_exactly_once(log: pa.Table, plan: Plan, total: int) -> None:
    """The log is the plan: every step, every position in it, once; and so every row once in each whole epoch."""
    assert log.num_rows == total * plan.batch_size
    np.testing.assert_array_equal(log["step"], np.repeat(np.arange(total), plan.batch_size))
    np.testing.assert_array_equal(log["position"], np.tile(np.arange(plan.batch_size), total))
    lanes = log["id"].to_numpy().reshape(total, plan.num_lanes, plan.rows_per_step).swapaxes(0, 1)
    by_epoch: dict[int, list[int]] = {}
    for lane in range(plan.num_lanes):
        ids, epochs = [], []
        for superstep in range(-(-total // plan.steps_per_superstep)):
            runs, order = plan.window(lane, superstep)
            ids += np.concatenate([run.first_id + np.arange(run.rows) for run in runs])[order].tolist()
            epochs += np.repeat([run.epoch for run in runs], [run.rows for run in runs])[order].tolist()
        trained = lanes[lane].ravel().tolist()
        assert trained == ids[: len(trained)]
        for epoch, sample in zip(epochs, trained, strict=False):
            by_epoch.setdefault(epoch, []).append(sample)
    assert len(by_epoch) >= 4
    for epoch in range(4):
        assert sorted(by_epoch[epoch]) == list(range(plan.num_rows)), "no row is left out or comes twice"
