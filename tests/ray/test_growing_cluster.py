"""A cluster that begins without workers: a run asks for nodes, waits, says so, and knows what there can never be."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ldlva_dist.config import PlacementConfig, to_json
from ldlva_dist.run.outcome import read_outcome
from testing.clusters.autoscaling import autoscaling_cluster
from testing.tiny_runs import losses, tiny_run

ROOT = Path(__file__).parents[2]
LIMIT_S = 300
IDLE_S, SHRUNK_LIMIT_S = 10, 90
"""A request that somebody left behind would keep nodes for 180 s."""
GPUS = """
import time
from ldlva_dist.config import PlacementConfig
from ldlva_dist.runtime import growth, placement
placement.connect()
import ray
settings = PlacementConfig(num_workers={workers}, use_gpu=True, data_cpus_per_worker=10.0)
placement.check_fits(settings, 2, 0)
began = time.monotonic()
try:
    bundles = placement.run_bundles(settings, {workers}, 2, 0)
    growth.wait_for_nodes(growth.NodeRequest("gpus"), bundles, {limit_s})
    print("there are", ray.cluster_resources()["GPU"])
except Exception as error:
    print(type(error).__name__, error, f"after {{time.monotonic() - began:.0f}} s")
"""

MODELS = """
from ldlva_dist.runtime import placement
placement.connect()
import ray
before = ray.cluster_resources().get("GPU", 0)
try:
    actors, each = placement.model_actors({actors}, cpus=1.0, gpus=1.0)
    print(f"{{before:g}} GPUs at first, {{actors}} actors with {{each}}, {{ray.cluster_resources()['GPU']:g}} GPUs")
except Exception as error:
    print(type(error).__name__, error)
"""

UNTIL_EMPTY = """
import time
from ldlva_dist.runtime import placement
placement.connect()
import ray
until = time.monotonic() + {limit_s}
while (cpus := ray.cluster_resources().get("CPU", 0)) and time.monotonic() < until:
    time.sleep(0.5)
print(f"{{cpus:g}} CPUs are left")
"""


@pytest.fixture(scope="module")
def growing() -> Iterator[dict[str, str]]:
    """Environment of a process that joins a head whose autoscaler may start two nodes of CPUs and two of eight GPUs."""
    types = {
        "cpus": {"resources": {"CPU": 2}, "min_workers": 0, "max_workers": 2},
        "gpus": {"resources": {"CPU": 96, "GPU": 8}, "min_workers": 0, "max_workers": 2},
    }
    with autoscaling_cluster(types, idle_s=IDLE_S) as joining:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        yield kept | joining


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )


def test_a_run_on_a_cluster_without_workers_gets_its_nodes_trains_and_gives_them_back(
    growing: dict[str, str], faces: str, tmp_path: Path
) -> None:
    config = tiny_run(faces, tmp_path, "first")
    config = replace(
        config,
        training=replace(config.training, epochs=0.5),
        placement=PlacementConfig(num_workers=2, cpus_per_worker=1.0, data_cpus_per_worker=0.5, cpus_per_shard=0.25),
    )
    (tmp_path / "first.json").write_text(to_json(config))
    done = run(growing, "jobs/train.py", "--config", str(tmp_path / "first.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(losses(config.uri)) == 5
    assert read_outcome(config.uri).outcome == "finished"
    # Nodes may come within the seconds in which nothing is said, or one after the other.
    there = r"waiting for nodes: there are \d CPUs and 0 GPUs, one run needs 3.5 CPUs and 0 GPUs; \d+ s more at most"
    said = [line for line in done.stderr.splitlines() if line.startswith("waiting for nodes")]
    assert all(re.fullmatch(there, line) for line in said), said
    done = run(growing, "-c", UNTIL_EMPTY.format(limit_s=SHRUNK_LIMIT_S))
    assert "0 CPUs are left" in done.stdout, done.stdout + done.stderr


def test_what_the_autoscaler_may_never_start_is_a_setting_error(growing: dict[str, str]) -> None:
    done = run(growing, "-c", GPUS.format(workers=17, limit_s=LIMIT_S))
    assert "SettingError placement needs" in done.stdout, done.stdout + done.stderr
    assert "17 GPUs for one run, the autoscaler of this cluster may not start as many nodes" in done.stdout


def test_actors_with_a_model_get_the_nodes_that_they_lack(growing: dict[str, str]) -> None:
    """Predictions and annotations have no settings of a placement."""
    done = run(growing, "-c", MODELS.format(actors=17))
    assert re.search(
        r"SettingError --num-actors, .* need 17 CPUs and 17 GPUs, the autoscaler of this cluster may not", done.stdout
    ), done.stdout + done.stderr
    done = run(growing, "-c", MODELS.format(actors=2))
    assert "0 GPUs at first, 2 actors with {'num_cpus': 1.0, 'num_gpus': 1.0}, 8 GPUs" in done.stdout, (
        done.stdout + done.stderr
    )


def test_nodes_of_eight_gpus_are_asked_for_and_waited_for(growing: dict[str, str]) -> None:
    done = run(growing, "-c", GPUS.format(workers=16, limit_s=LIMIT_S))
    assert "there are 16.0" in done.stdout, done.stdout + done.stderr
