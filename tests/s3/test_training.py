"""A whole job on an object store, through a network that breaks: pack, index, train, be killed, go on, evaluate."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldlva_dist import storage
from ldlva_dist.analysis.scoring import score
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.graph import build_graph
from ldlva_dist.packing.passes.pack import pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.run import launch
from testing.s3_store import FaultProxy
from testing.tiny_runs import table, tiny_run
from testing.training_jobs import kill_job, training_job, wait_until

DATASET, RUNS = "s3://faces/training/set", "s3://faces/training/runs"
SLOW_DOWN = {"kind": "status", "status": 503, "code": "SlowDown"}
BROKEN = [
    {"kind": "truncate", "share": 0.5, "path": "train-", "times": 6},
    {"kind": "reset", "share": 0.3, "path": "train-", "times": 5},
    SLOW_DOWN | {"path": "train-", "times": 5},
    SLOW_DOWN | {"path": "step-", "times": 5},
    SLOW_DOWN | {"method": "PUT", "times": 4},
]


def _config(storage_path: str | Path, name: str) -> RunConfig:
    config = tiny_run(DATASET, storage_path, name)
    return replace(config, model=replace(config.model, freeze_batchnorm=False), bank=replace(config.bank, num_shards=1))


def test_a_job_on_a_broken_network_equals_one_on_a_disk_bit_by_bit(
    cluster: None, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its first checkpoint, and started again."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    proxy.set(*BROKEN)
    source = FacesSource(train=300, test=60, pixels=48, flip_share=0.3, seed=0)
    pack(source, DATASET, PackSettings(name="faces", class_names=REFERENCE_CLASSES))
    build_graph(Dataset.open(DATASET), 8)
    straight = launch.fit(_config(tmp_path, "straight"))

    config = _config(RUNS, "killed")
    proxy.set(*BROKEN)
    first = f"{RUNS}/killed/step-00000010/state.json"
    with training_job(config, tmp_path) as job:
        wait_until(lambda: storage.exists(first), job, "the first checkpoint")
        kill_job(job)
    assert not storage.exists(f"{RUNS}/killed/step-00000020"), "the kill came too late to prove anything"
    proxy.set(*BROKEN)
    result = launch.fit(config)

    assert result.checkpoint.uri == f"{RUNS}/killed/step-00000020"
    kept = {"step", "loss", "holdout_accuracy"}
    lines = [
        [{n: v for n, v in line.items() if n in kept} for line in read_metrics(run)]
        for run in (result.run_uri, straight.run_uri)
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 20
    np.testing.assert_array_equal(table(result.checkpoint.uri), table(straight.checkpoint.uri))
    there, here = (score(run.checkpoint, Dataset.open(DATASET), num_tasks=1) for run in (result, straight))
    assert there["samples"] == 60
    assert there | {"checkpoint": None} == here | {"checkpoint": None}
    proxy.set()
