import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.graph import build_graph
from ldlva_dist.packing.passes.pack import pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES
from ldlva_dist.run import launch
from testing.clusters.job_scripts import Scripts
from testing.clusters.shared_cluster import shared_cluster
from testing.tiny_runs import tiny_run

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own spelling)
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # no node is ever taken away here; 2 s of CPU a run


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One local cluster for all tests of this folder; never anybody else's, and gone when other folders begin.

    Its workers know an MLflow database, as those of a user's cluster know a server.
    """
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    with shared_cluster():
        yield


@pytest.fixture(scope="package")
def faces(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A packed data set of drawn faces (about 270 train, 30 holdout, 60 test) with its graph."""
    output = str(tmp_path_factory.mktemp("data") / "faces")
    source = FacesSource(train=300, test=60, pixels=48, flip_share=0.3, seed=0)
    pack(source, output, PackSettings(name="faces", class_names=REFERENCE_CLASSES))
    build_graph(Dataset.open(output), 16)
    return output


@pytest.fixture(scope="package")
def alone(cluster: None, faces: str, tmp_path_factory: pytest.TempPathFactory) -> launch.RunResult:
    """The tiny run that others are compared with: one rank, two shards, no break."""
    return launch.fit(tiny_run(faces, tmp_path_factory.mktemp("runs"), "alone"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).parents[2]


@pytest.fixture
def scripts(cluster: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Scripts:
    return Scripts(capsys, monkeypatch)
