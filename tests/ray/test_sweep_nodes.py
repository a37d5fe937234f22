"""How many trials a sweep runs at a time, while nodes come and go."""

import os
import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.tune.search import BasicVariantGenerator

from ldlva_dist.config import PlacementConfig, RunConfig, SweepConfig
from ldlva_dist.errors import DataError
from ldlva_dist.run.sweep import _search
from ldlva_dist.run.sweep_callbacks import FollowNodes
from ldlva_dist.runtime.growth import NodeRequest
from testing.clusters.joining_nodes import another_node
from testing.clusters.shared_cluster import taken
from testing.tiny_runs import tiny_run
from testing.training_jobs import LIMIT_S, training_job, wait_until

TRIES = 3
PLACE = PlacementConfig(num_workers=1, cpus_per_worker=1.0, data_cpus_per_worker=0.9)
"""Two trials on the first node, of four CPUs."""


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_trials_follow_the_nodes(cluster: None, search: Any) -> None:
    config = RunConfig(placement=PLACE, sweep=SweepConfig(num_samples=8, search=search))
    follower = FollowNodes(config, _search(config), NodeRequest("sweep"))
    assert follower.search_alg.max_concurrent == 2
    with another_node(4):
        follower.look([])
        assert follower.search_alg.max_concurrent == 4, "a node joined"
        capped = replace(config, sweep=replace(config.sweep, max_concurrent_trials=3))
        assert FollowNodes(capped, _search(capped), NodeRequest("sweep")).search_alg.max_concurrent == 3
        ended: list[Any] = [SimpleNamespace(is_finished=lambda: True)] * 7
        follower.look(ended)
        assert follower.search_alg.max_concurrent == 1, "one is left"
    follower.look([])
    assert follower.search_alg.max_concurrent == 2, "the node left"


def test_a_trial_whose_process_is_lost_is_tried_again_and_one_that_fails_is_not(cluster: None, tmp_path: Path) -> None:
    config = RunConfig(placement=replace(PLACE, max_failures=TRIES), sweep=SweepConfig(num_samples=2))
    search = BasicVariantGenerator(max_concurrent=2)
    follower = FollowNodes(config, search, NodeRequest("sweep"))
    results = tune.Tuner(
        tune.with_resources(partial(_end_as_told, folder=tmp_path), {"CPU": 0.1}),
        param_space={"end": tune.grid_search(["lost", "fails"])},
        tune_config=tune.TuneConfig(search_alg=search),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), callbacks=[follower], verbose=0),
    ).fit()
    by_end = {result.config["end"]: result for result in results if result.config}
    assert len((tmp_path / "lost").read_text()) == TRIES
    assert by_end["lost"].error is None
    assert by_end["lost"].metrics
    assert by_end["lost"].metrics["done_by"] == TRIES
    assert (tmp_path / "fails").read_text() == "."
    assert "no such face" in str(by_end["fails"].error)


def test_a_trial_that_waits_for_cpus_says_so_where_the_sweep_was_begun(faces: str, tmp_path: Path) -> None:
    config = tiny_run(faces, tmp_path, "waits")
    config = replace(
        config, training=replace(config.training, epochs=1.0), sweep=SweepConfig(num_samples=1, grace_epochs=1.0)
    )
    waits = re.compile(r"^trial [0-9a-f]{8}: waiting for workers: 1 are wanted", re.MULTILINE)
    log = tmp_path / "waits.log"
    with training_job(config, tmp_path, "sweep.py") as job:
        with taken(3.5):
            wait_until(lambda: waits.search(log.read_text()) is not None, job, f"word of the wait: {log}")
        assert job.wait(LIMIT_S) == 0, log.read_text()


def _end_as_told(params: dict[str, str], folder: Path) -> None:
    """Fail, or be killed but for the last try; every try leaves a mark."""
    with (folder / params["end"]).open("a") as marks:
        marks.write(".")
    tries = len((folder / params["end"]).read_text())
    if params["end"] == "fails":
        raise DataError("no such face")
    if tries < TRIES:
        os.kill(os.getpid(), signal.SIGKILL)
    tune.report({"done_by": tries})
