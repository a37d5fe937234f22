"""A bank actor killed in mid-epoch of a run that goes on; that ranks and bank otherwise go back is shown by faults/."""

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

import ray

from ldlva_dist import launch
from ldlva_dist.neighbors.service import find_service
from ldlva_dist.reporting.metrics_log import read_metrics
from tests._runs import long_run

STEPS, KILL_AFTER = 60, 25


@contextmanager
def _killer(run_uri: str) -> Iterator[list[int]]:
    """Kill the second bank actor once the run has logged a step; yields the steps it had logged by then."""
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            steps = [line["step"] for line in read_metrics(run_uri)]
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


def test_a_run_goes_on_without_a_restart_and_says_what_it_does_not_know(
    straight: launch.RunResult, faces: str, tmp_path: Path
) -> None:
    config = long_run(faces, tmp_path, "went-on")
    config = replace(config, bank=replace(config.bank, on_loss="continue"))
    with _killer(f"{tmp_path}/went-on") as killed:
        result = launch.fit(config)
    assert killed
    assert killed[0] < STEPS - 5, "the kill came too late to prove anything"
    mine, theirs = read_metrics(result.run_uri), read_metrics(straight.run_uri)
    assert [line["step"] for line in mine] == list(range(1, STEPS + 1))
    before = killed[0] - 1
    assert [line["loss"] for line in mine[:before]] == [line["loss"] for line in theirs[:before]]
    assert [line["staleness_mean"] for line in mine[killed[0] :]] != [
        line["staleness_mean"] for line in theirs[killed[0] :]
    ]


NODE_LOSS = """
import sys, time
import numpy as np, ray
from ray.cluster_utils import Cluster
from ldlva_dist.messages import BankUpdate
from ldlva_dist.neighbors.client import NeighborClient
from ldlva_dist.neighbors.outputs import BankSpec
from ldlva_dist.neighbors.service import shard_loads, start_service

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1, resources={"bank": 1})
ray.init(address=cluster.address, log_to_driver=False)
options = {"num_cpus": 0, "max_restarts": -1, "resources": {"bank": 0.1}}
spec = BankSpec(num_classes=7, feature_width=2, timeout_s=60)
loads = shard_loads(sys.argv[1], k=4, num_shards=2)
service = start_service("nodes", loads, spec, options, recall=dict)
client = NeighborClient(service, rank=0, world_size=1, token="a", k=4, timeout_s=60)
client.begin(0)
ids = np.arange(service.bounds[-1])
found, lost, deadline = client.find(ids), "", time.monotonic() + 60
# A process of a lost node can answer for seconds; what comes after the loss is seen is watched for two more reads.
while not ("1" in lost[5:] and lost.endswith("00")) and time.monotonic() < deadline:
    step, rows = len(lost), len(ids)
    lost += "01"[bool((client.collect(client.ask(step, found)).versions == -1).any())]
    client.write(BankUpdate(step=step, positions=np.arange(rows, dtype=np.int32), ids=ids,
        probs=np.ones((rows, 7), np.float32), features=np.ones((rows, 2), np.float32)))
    if step == 4:
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1, resources={"bank": 1})
print("lost:", lost, flush=True)
ray.shutdown()
cluster.shutdown()
"""


def test_shards_of_a_lost_node_start_again_on_another_and_the_run_goes_on(faces: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NODE_LOSS, faces], capture_output=True, text=True, timeout=240, env=_environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lost = next(line for line in done.stdout.splitlines() if line.startswith("lost: ")).removeprefix("lost: ")
    assert lost[:5] == "11000", "nothing is there for the reads of steps 0 and 1"
    assert "1" in lost[5:]
    assert lost.endswith("00"), "what is written after the loss is there again"


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
