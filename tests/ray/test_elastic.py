"""A run with MIN MAX workers loses a node, goes on, gains one, and ends as a run of a fixed size does."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import ray
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision

from ldlva_dist.checkpoint.saved_files import SavedFiles, checkpoint_steps, checkpoint_uri
from ldlva_dist.config import PlacementConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import ClusterError
from ldlva_dist.records.ids_log import read_ids
from ldlva_dist.run import launch
from ldlva_dist.run.elastic import FollowCluster, WorkerWait
from ldlva_dist.runtime import placement
from ldlva_dist.training.inputs import make_plan
from ldlva_dist.waits.patience import Patience
from testing.clusters.joining_nodes import another_node, lose, training_workers
from testing.clusters.shared_cluster import taken
from testing.exactly_once import assert_exactly_once
from testing.tiny_runs import losses, table, tiny_run
from testing.training_jobs import LIMIT_S, training_job, wait_until

EVERY = 6
ONE_A_NODE = PlacementConfig(
    num_workers=(1, 2),
    cpus_per_worker=1.9,
    data_cpus_per_worker=1.0,
    elastic_resize_monitor_interval_s=1.0,
    max_failures=1,
)
"""The first node, of four CPUs, has room for two workers, but not for their pipelines; a node of three has not."""


def test_a_run_that_loses_a_node_and_gains_one_is_a_run_of_a_fixed_size(
    alone: launch.RunResult, faces: str, tmp_path: Path
) -> None:
    """A worker that is stopped for a while holds the run at its step, as all ranks wait for it.

    Half a CPU less on the first node, and Ray does not put both workers there.
    """
    config = tiny_run(faces, tmp_path, "elastic")
    training = replace(config.training, evaluate_every_epochs=2.0, checkpoint_every_steps=EVERY, log_ids=True)
    config = replace(config, training=training, placement=ONE_A_NODE)
    run, said = str(tmp_path / "elastic"), tmp_path / "elastic.log"

    with taken(0.5), another_node(3) as node, ExitStack() as later, training_job(config, tmp_path) as job:
        wait_until(lambda: len(losses(run)) >= EVERY + 2, job, "steps of two workers")
        (kept,) = training_workers()
        kept.suspend()
        assert len(training_workers(on=node)) == 1
        lose(node)
        kept.resume()

        # The worker that was held may end its step before it is ended itself.
        wait_until(lambda: "starting 1 workers" in said.read_text(), job, "a group of one worker")
        before = len(losses(run))
        wait_until(lambda: len(losses(run)) != before, job, "one worker that goes on")
        (kept,) = training_workers()
        kept.suspend()
        later.enter_context(another_node(3))
        wait_until(lambda: "the cluster holds 2 workers now" in said.read_text(), job, "word of the new node")
        kept.resume()
        assert job.wait(timeout=LIMIT_S) == 0

    assert [line for line in said.read_text().splitlines() if line.startswith("starting")] == [
        f"starting {number} workers" for number in (2, 1, 2)
    ]
    saved = {step: SavedFiles.open(checkpoint_uri(run, step)).facts["world_size"] for step in checkpoint_steps(run)}
    handed_over = [step for step, workers in saved.items() if workers == 1]
    assert saved[EVERY] == saved[20] == 2
    assert any(step % EVERY for step in handed_over), "the one worker saved when it was asked to make room"
    plan = make_plan(config, tuple(shard.rows for shard in Dataset.open(faces).info.shards_of("train")))
    assert_exactly_once(read_ids(run), plan, 20)
    np.testing.assert_allclose(losses(run), losses(alone.run_uri), atol=1e-5, rtol=0)
    np.testing.assert_allclose(table(checkpoint_uri(run, 20)), table(alone.checkpoint.uri), atol=1e-5, rtol=0)


def test_workers_leave_room_for_pipelines_and_services_and_are_not_waited_for_without_a_limit(cluster: None) -> None:
    """Ray's own policy would leave none to services; a worker's CPUs are its pipeline's, too."""
    settings = PlacementConfig(num_workers=(1, 4), cpus_per_worker=1.0, data_cpus_per_worker=1.0)
    assert _decide(settings, lambda: placement.count_workers(settings, 0, 0)) == ResizeDecision(2, {"CPU": 2.0})
    assert _decide(settings, lambda: placement.count_workers(replace(settings, cpus_per_shard=1.5), 2, 0)) == (
        NoopDecision()
    ), "two bank shards leave one CPU"
    with pytest.raises(ClusterError, match=r"no workers for 1e-09 s .* at least 1, the nodes that are there hold 0"):
        _decide(settings, lambda: 0, limit_s=1e-9)


def test_a_wait_for_workers_says_what_is_there_and_what_is_wanted(
    cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, *[7.0] * 9])
    wait = WorkerWait(PlacementConfig(num_workers=3), lambda: 2, control=None)
    wait.check()
    assert capsys.readouterr().err == ""
    wait._patience = Patience(60.0, lambda: next(now))
    with taken(3.0):
        wait.check()
    said = capsys.readouterr().err
    assert said.startswith("waiting for workers: 3 are wanted, the nodes that are there hold 2 where nothing else runs")
    assert said.endswith("CPUs and 0 GPUs are free; 53 s more at most\n")


def test_a_run_of_a_fixed_size_does_not_wait_for_its_workers_without_a_limit(
    cluster: None, faces: str, tmp_path: Path
) -> None:
    """Somebody else holds all the CPUs, from after the look at what the cluster has."""
    config = tiny_run(faces, tmp_path, "waits")
    config = replace(config, placement=replace(config.placement, wait_for_workers_s=1.0))
    with taken(ray.cluster_resources()["CPU"]), pytest.raises(ClusterError) as error:
        launch.fit(config)
    assert "no workers for 1 s (placement.wait_for_workers_s): placement.num_workers asks for at least 1" in str(
        error.value
    )
    assert checkpoint_steps(str(tmp_path / "waits")) == []


def _decide(settings: PlacementConfig, count: Callable[[], int], limit_s: float = 60.0) -> object:
    """What the policy does before the first worker is there."""
    scaling: ScalingConfig = placement.scaling(settings)
    wait = WorkerWait(replace(settings, wait_for_workers_s=limit_s), count, control=None)
    policy = FollowCluster(scaling, wait, count)
    policy.after_controller_start(cast(Any, SimpleNamespace(run_id="elastic")))
    try:
        policy.make_decision_for_non_running_worker_group()
        return policy.make_decision_for_non_running_worker_group()
    finally:
        policy.before_controller_abort()
