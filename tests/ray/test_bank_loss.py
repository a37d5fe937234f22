"""A bank actor killed in mid-epoch of a whole run: by default ranks and bank go back together; or the run goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file

from ldlva_dist import launch
from ldlva_dist.config import (
    BankConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    NeighborConfig,
    OptimConfig,
    PlacementConfig,
    RunConfig,
    TrainingConfig,
)
from ldlva_dist.neighbors.service import find_service

STEPS, KILL_AFTER = 60, 25


def _config(faces: str, runs: Path, name: str, **bank) -> RunConfig:
    """Sixty steps in six epochs, with a checkpoint after every second epoch."""
    return RunConfig(
        name=name,
        storage_path=str(runs),
        data=DataConfig(dataset=faces, batch_size=27, chunk_rows=16, image_size=48),
        model=ModelConfig(name="resnet10", width=4, stem="small", calibration_hidden=(16, 8), freeze_batchnorm=True),
        loss=LossConfig(recipe="official", gamma=0.05),
        neighbors=NeighborConfig(num_neighbors=4, timeout_s=60),
        bank=BankConfig(num_shards=3, features_dtype="int8", **bank),
        optim=OptimConfig(name="sgd", lr=0.01),
        training=TrainingConfig(epochs=6.0, evaluate_every_epochs=2.0, log_every_steps=1),
        placement=PlacementConfig(num_workers=2, cpus_per_worker=0.5, data_cpus_per_worker=0.5, max_failures=1),
    )


@contextmanager
def _killer(run_uri: str) -> Iterator[list[int]]:
    """Kill the second bank actor once the run has logged a step; yields the steps it had logged by then."""
    killed: list[int] = []

    def kill() -> None:
        log, end = Path(run_uri, "metrics.jsonl"), time.monotonic() + 300
        while time.monotonic() < end:
            steps = [line["step"] for line in _lines(run_uri)] if log.exists() else []
            if steps and steps[-1] >= KILL_AFTER:
                facts = ray.get(find_service(run_uri).shards[1].facts.remote(), timeout=20)
                os.kill(facts.pid, signal.SIGKILL)
                killed.append(steps[-1])
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    yield killed
    thread.join(timeout=300)


def _lines(run_uri: str) -> list[dict]:
    text = Path(run_uri, "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _table(checkpoint_uri: str) -> np.ndarray:
    parts = [load_file(path) for path in sorted(Path(checkpoint_uri, "table").iterdir())]
    return np.concatenate([part["logits"] for part in sorted(parts, key=lambda part: part["first_id"].item())])


@pytest.fixture(scope="module")
def straight(cluster: None, faces: str, tmp_path_factory: pytest.TempPathFactory) -> launch.RunResult:
    """The run that nothing happens to."""
    return launch.fit(_config(faces, tmp_path_factory.mktemp("runs"), "straight"))


def test_ranks_and_bank_go_back_together_and_the_run_ends_as_if_nothing_had_happened(
    straight: launch.RunResult, faces: str, tmp_path: Path
) -> None:
    config = _config(faces, tmp_path, "killed")
    with _killer(f"{tmp_path}/killed") as killed:
        result = launch.fit(config)
    assert killed
    assert killed[0] < STEPS - 5, "the kill came too late to prove anything"
    assert [line["loss"] for line in _lines(result.run_uri)] == [line["loss"] for line in _lines(straight.run_uri)]
    np.testing.assert_array_equal(_table(result.checkpoint_uri), _table(straight.checkpoint_uri))


def test_a_run_goes_on_without_a_restart_and_says_what_it_does_not_know(
    straight: launch.RunResult, faces: str, tmp_path: Path
) -> None:
    config = _config(faces, tmp_path, "went-on", on_loss="continue")
    config = replace(config, placement=replace(config.placement, max_failures=0))
    with _killer(f"{tmp_path}/went-on") as killed:
        result = launch.fit(config)
    assert killed
    assert killed[0] < STEPS - 5, "the kill came too late to prove anything"
    mine, theirs = _lines(result.run_uri), _lines(straight.run_uri)
    assert [line["step"] for line in mine] == list(range(1, STEPS + 1))
    before = killed[0] - 1
    assert [line["loss"] for line in mine[:before]] == [line["loss"] for line in theirs[:before]]
    assert [line["staleness_mean"] for line in mine[killed[0] :]] != [
        line["staleness_mean"] for line in theirs[killed[0] :]
    ]


NODE_LOSS = """
import sys
import numpy as np, psutil, ray
from ray.cluster_utils import Cluster
from ldlva_dist.messages import BankUpdate
from ldlva_dist.neighbors.client import NeighborClient
from ldlva_dist.neighbors.outputs import BankSpec
from ldlva_dist.neighbors.service import shard_loads, start_service

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": "SPREAD"}
spec = BankSpec(num_classes=7, feature_width=2, timeout_s=60)
loads = shard_loads(sys.argv[1], k=4, num_shards=2)
service = start_service("nodes", loads, spec, options, recall=lambda start, stop: [])
pids = [ray.get(shard.facts.remote(), timeout=60).pid for shard in service.shards]
raylet = node.all_processes["raylet"][0].process.pid
there = [i for i, pid in enumerate(pids) if psutil.Process(pid).ppid() == raylet]
client = NeighborClient(service, rank=0, world_size=1, token="a", k=4, timeout_s=60)
client.begin(0)
ids = np.arange(service.bounds[-1])
found, versions = client.find(ids), []
for step in range(12):
    versions.append(client.collect(client.ask(step, found)))
    rows = len(ids)
    client.write(BankUpdate(step=step, positions=np.arange(rows, dtype=np.int32), ids=ids,
        probs=np.ones((rows, 7), np.float32), features=np.ones((rows, 2), np.float32)))
    if step == 4:
        cluster.remove_node(node, allow_graceful=False)
lost = [bool((seen.versions == -1).any()) for seen in versions]
print("shards there:", len(there), "lost:", "".join("01"[each] for each in lost), flush=True)
ray.shutdown()
cluster.shutdown()
"""


def test_shards_of_a_lost_node_start_again_on_another_and_the_run_goes_on(faces: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NODE_LOSS, faces], capture_output=True, text=True, timeout=240, env=_environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("shards there: "))
    shards, lost = line.removeprefix("shards there: ").split(" lost: ")
    assert shards == "1"
    assert lost[:5] == "11000", "nothing is there for the reads of steps 0 and 1"
    assert "1" in lost[5:9]
    assert lost.endswith("00"), "what is written after the loss is there again"


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
