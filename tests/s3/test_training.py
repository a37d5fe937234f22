"""A whole job on an object store, through a network that breaks: pack, index, train, be killed, go on, evaluate."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from safetensors.numpy import load

from bench._swift import FaultProxy, Swift
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
    UncertaintyConfig,
)
from ldlva_dist.data import storage
from ldlva_dist.data.faces import FacesSource
from ldlva_dist.data.packing.engine import pack
from ldlva_dist.data.packing.settings import PackSettings
from ldlva_dist.data.rows import REFERENCE_CLASSES
from ldlva_dist.neighbors.graph import build_graph
from ldlva_dist.reporting.metrics_log import read_metrics
from ldlva_dist.scoring import score

DATASET, RUNS = "s3://faces/set", "s3://faces/runs"
SLOW_DOWN = {"kind": "status", "status": 503, "code": "SlowDown"}
BROKEN = [
    {"kind": "truncate", "share": 0.5, "path": "train-", "times": 10},
    {"kind": "reset", "share": 0.3, "path": "train-", "times": 5},
    SLOW_DOWN | {"path": "train-", "times": 10},
    SLOW_DOWN | {"path": "step-", "times": 5},
    SLOW_DOWN | {"method": "PUT", "times": 10},
]


@pytest.fixture(scope="module")
def cluster(swift: Swift, proxy: FaultProxy) -> Iterator[None]:
    """A local cluster whose workers know the store through the proxy."""
    ray.shutdown()  # of the cluster that tests/ray shares: its workers do not know the store, and its tests are over
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own spelling)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def _config(storage_path: str, name: str) -> RunConfig:
    return RunConfig(
        name=name,
        storage_path=storage_path,
        data=DataConfig(dataset=DATASET, batch_size=27, chunk_rows=16, image_size=48),
        model=ModelConfig(name="resnet10", width=4, stem="small", calibration_hidden=(16, 8)),
        loss=LossConfig(recipe="official", gamma=0.05),
        neighbors=NeighborConfig(num_neighbors=4, timeout_s=60),
        bank=BankConfig(probs_dtype="float32", features_dtype="float32"),
        uncertainty=UncertaintyConfig(lr=0.3125, momentum=0.9),
        optim=OptimConfig(name="sgd", lr=0.01),
        training=TrainingConfig(epochs=2.0, evaluate_every_epochs=1.0, log_every_steps=1, num_to_keep=9),
        placement=PlacementConfig(cpus_per_worker=0.5, data_cpus_per_worker=0.5, max_failures=0),
    )


def test_a_job_on_a_broken_network_equals_one_on_a_disk_bit_by_bit(
    cluster: None, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Killed after its first checkpoint, and started again."""
    proxy.set(*BROKEN)
    source = FacesSource(train=300, test=60, pixels=48, flip_share=0.3, seed=0)
    pack(source, DATASET, PackSettings(name="faces", class_names=REFERENCE_CLASSES))
    build_graph(DATASET, 8)
    straight = launch.fit(_config(str(tmp_path), "straight"))

    config = _config(RUNS, "killed")
    (tmp_path / "config.json").write_text(launch.to_json(config))
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "jobs" / "train.py"), "--config", str(tmp_path / "config.json")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    proxy.set(*BROKEN)
    job = subprocess.Popen(command, start_new_session=True, env=environment)
    _wait_for(f"{RUNS}/killed/step-00000010/state.json", job)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait(timeout=60)
    assert not storage.exists(f"{RUNS}/killed/step-00000020"), "the kill came too late to prove anything"
    proxy.set(*BROKEN)
    result = launch.fit(config)

    assert result.checkpoint_uri == f"{RUNS}/killed/step-00000020"
    kept = {"step", "loss", "holdout_accuracy"}
    lines = [
        [{n: v for n, v in line.items() if n in kept} for line in read_metrics(run)]
        for run in (result.run_uri, straight.run_uri)
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 20
    np.testing.assert_array_equal(_table(result.checkpoint_uri), _table(straight.checkpoint_uri))
    there, here = (score(uri, DATASET, num_tasks=1) for uri in (result.checkpoint_uri, straight.checkpoint_uri))
    assert there["samples"] == 60
    assert there | {"checkpoint": None} == here | {"checkpoint": None}


def _table(checkpoint_uri: str) -> np.ndarray:
    names = storage.list_folder(storage.join(checkpoint_uri, "table"))
    parts = [load(storage.read_bytes(storage.join(checkpoint_uri, "table", name))) for name in names]
    return np.concatenate([part["logits"] for part in sorted(parts, key=lambda part: part["first_id"].item())])


def _wait_for(uri: str, job: subprocess.Popen[bytes], limit_s: float = 180) -> None:
    end = time.monotonic() + limit_s
    while not storage.exists(uri):
        assert job.poll() is None, f"the job ended before {uri} was there"
        assert time.monotonic() < end, f"{uri} was not there after {limit_s} s"
        time.sleep(0.1)
