"""A cluster loses its head: a job that is connected ends with one sentence, before Ray ends it with none."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ldlva_dist.config import to_json
from ldlva_dist.run.outcome import read_outcome
from ldlva_dist.runtime.head_watch import PATIENCE
from testing.tiny_runs import losses, tiny_run
from testing.training_jobs import ROOT, wait_until

LIMIT_S, RAYS_PATIENCE_S = 120, 15
CLUSTER = """
from ray.cluster_utils import Cluster
head = {"num_cpus": 2, "object_store_memory": 150 << 20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
print(cluster.address, flush=True)
input()
cluster.head_node.kill_gcs_server()
input()
cluster.shutdown()
"""


@pytest.fixture
def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {PATIENCE: str(RAYS_PATIENCE_S), "RAY_worker_niceness": "0"}


@pytest.fixture
def head(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process with a cluster; its head dies at a line on its standard input, the rest at the next one."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.communicate("\n\n", timeout=LIMIT_S)


def test_a_job_says_so_within_rays_own_patience_and_leaves_its_word(
    head: subprocess.Popen[str], environment: dict[str, str], faces: str, tmp_path: Path
) -> None:
    config = tiny_run(faces, tmp_path, "run")
    config = replace(config, training=replace(config.training, epochs=10_000.0, evaluate_every_epochs=10_000.0))
    (tmp_path / "run.json").write_text(to_json(config))
    assert head.stdout
    assert head.stdin
    address = head.stdout.readline().strip()
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--config", str(tmp_path / "run.json")]
    with (tmp_path / "said").open("wb") as output:
        job = subprocess.Popen(command, env=environment | {"RAY_ADDRESS": address}, stdout=output, stderr=output)
    try:
        wait_until(lambda: len(losses(config.uri)) > 2, job, "steps")
        head.stdin.write("\n")
        head.stdin.flush()
        assert job.wait(LIMIT_S) == 4
    finally:
        job.kill()
    said = (tmp_path / "said").read_text()
    sentence = f"Ray's head at {address} has not answered for 9 s, and the cluster is lost with it"
    assert said.count("error: ") == said.count(sentence) == 1, said
    assert "Traceback" not in said
    outcome = read_outcome(config.uri)
    assert (outcome.outcome, outcome.exit_code) == ("failed", 4)
    assert outcome.sentence.startswith(sentence)
    assert not list(Path(config.uri).glob(".lease-*")), "the folder is free for the next job"
