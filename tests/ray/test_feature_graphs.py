"""Neighbours found anew in feature space: the right ones, from one step on, on any shards, after a resume too."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.records import STATIC, BankSpec
from ldlva_dist.bank.service import NeighborService, start_service
from ldlva_dist.bank.static_rows import ShardRows
from ldlva_dist.config import IndexConfig, RunConfig, to_json
from ldlva_dist.errors import NeighborServiceError
from ldlva_dist.index.client import IndexClient
from ldlva_dist.index.service import IndexService, start_index
from ldlva_dist.messages import BankUpdate
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.run import launch
from ldlva_dist.run.paths import with_absolute_paths
from ldlva_dist.training.neighbors.feature_graphs import GraphBuilder
from testing.peak_store import PeakStore
from testing.tiny_runs import losses, table, tiny_run

N, C, V, K, SHARDS = 60, 3, 5, 4, 3
FREE = {"num_cpus": 0}
pytestmark = pytest.mark.usefixtures("cluster")


def _rows(start: int, stop: int, n: int) -> ShardRows:
    ids = np.arange(start, stop)
    graph = (ids[:, None] + 1 + np.arange(K)) % n
    return ShardRows(start=start, static=np.zeros(len(ids), STATIC), graph=graph.astype(np.int32))


@pytest.fixture
def start_bank() -> Iterator[Callable[..., NeighborService]]:
    started: list[NeighborService] = []

    def start(bounds: list[int], width: int) -> NeighborService:
        loads = [lambda a=a, b=b: _rows(a, b, bounds[-1]) for a, b in pairwise(bounds)]
        spec = BankSpec(
            num_classes=C, feature_width=width, features_dtype="float16" if width > V else "float32", timeout_s=5.0
        )
        started.append(start_service("features", loads, spec, FREE))
        return started[-1]

    yield start
    for service in started:
        service.stop()


@pytest.fixture
def service(start_bank: Callable[..., NeighborService]) -> NeighborService:
    return start_bank([0, 11, 12, N], V)


@pytest.fixture
def index() -> Iterator[IndexService]:
    started = start_index(2, actor_options=FREE)
    yield started
    started.stop()


def _train(client: NeighborClient, features: np.ndarray, order: np.ndarray) -> None:
    """Write the features of ``order`` in batches of 12, from step 0."""
    for step, ids in enumerate(order.reshape(-1, 12)):
        lookup = client.find(step, ids).ask().collect()
        probs, positions = np.full((12, C), 1 / C, np.float32), np.arange(12, dtype=np.int32)
        lookup.write(BankUpdate(step=step, positions=positions, ids=ids, probs=probs, features=features[ids]))


def _nearest(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    norms = np.square(features).sum(axis=1)
    squared = norms[:, None] + norms - 2 * features @ features.T
    np.fill_diagonal(squared, np.inf)
    return np.argsort(squared, axis=1, kind="stable")[:, :K]


def test_a_graph_is_of_the_newest_features_the_pending_ones_too(
    service: NeighborService, index: IndexService, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    old, new = random.normal(size=(2, N, V)).astype(np.float32)
    order = random.permutation(N)
    client = NeighborClient(service, rank=0, world_size=1, token="a", k=K, timeout_s=5.0)
    client.begin(0)
    _train(client, np.where(np.isin(np.arange(N), order[-12:])[:, None], new, old), order)
    newest = old.copy()
    newest[order[-12:]] = new[order[-12:]]  # written in the last step, visible to no read yet

    step = N // 12
    builder = GraphBuilder(client, index.client(30.0), K)
    builder.build(1, client.keep_features(step, 1))
    assert "graph 1 in feature space: recall 1.0000, everything compared\n" in capsys.readouterr().out
    lookup = client.find(step, np.arange(N), graph=1).ask().collect()
    found = lookup.neighbors
    np.testing.assert_array_equal(found.ids, _nearest(newest))
    assert found.graph == 1
    assert not np.array_equal(found.ids, _nearest(old))

    # The data set's graph is still there for a rank that is behind.
    lookup.write(
        BankUpdate(
            step=step,
            positions=np.zeros(0, np.int32),
            ids=np.zeros(0, np.int64),
            probs=np.zeros((0, C), np.float32),
            features=np.zeros((0, V), np.float32),
        )
    )
    before = client.find(step + 1, np.arange(3)).ask().collect().neighbors
    np.testing.assert_array_equal(before.ids, (np.arange(3)[:, None] + 1 + np.arange(K)) % N)


def test_a_rebuild_keeps_no_more_than_a_piece_in_the_object_store_and_its_graph_is_the_naive_one(
    start_bank: Callable[..., NeighborService], index: IndexService
) -> None:
    n, width, piece_bytes = 3000, 512, 1 << 20
    features = np.random.default_rng(5).normal(size=(n, width)).astype(np.float16)
    client = NeighborClient(start_bank([0, 1100, n], width), rank=0, world_size=1, token="a", k=K, timeout_s=60.0)
    client.begin(0)
    client.fill(np.arange(n), np.full((n, C), 1 / C, np.float32), features)
    asking = IndexClient(index.shards, min_recall=1.0, timeout_s=60.0, piece_bytes=piece_bytes)
    with PeakStore() as peak:
        GraphBuilder(client, asking, K).build(1, client.keep_features(0, 1))
    found = client.find(0, np.arange(n), graph=1).ask().collect().neighbors.ids
    np.testing.assert_array_equal(found, _nearest(features))
    assert features.nbytes > 2.9 * piece_bytes
    assert 0.4 * piece_bytes < peak.bytes_more <= 1.1 * piece_bytes


def test_a_graph_that_does_not_come_ends_the_wait_with_what_to_change(service: NeighborService) -> None:
    client = NeighborClient(service, rank=0, world_size=1, token="a", k=K, timeout_s=5.0)
    client.begin(0)
    with pytest.raises(NeighborServiceError, match=r"waited 5 s for graph 1: .* index\.rebuild_every_epochs"):
        client.find(0, np.arange(3), graph=1).ask().collect()


def _in_feature_space(faces: str, folder: Path, name: str) -> RunConfig:
    """Graph 1 is begun after 4 of 20 steps and serves from step 6 on, graph 2 after 8 and 10, and so on."""
    config = tiny_run(faces, folder, name)
    return replace(
        config,
        index=IndexConfig(space="feature", rebuild_every_epochs=0.4),
        placement=replace(config.placement, cpus_per_index=0.1),
        training=replace(config.training, checkpoint_every_steps=9),
    )


@pytest.fixture(scope="module")
def run(cluster: None, faces: str, tmp_path_factory: pytest.TempPathFactory) -> launch.RunResult:
    return launch.fit(_in_feature_space(faces, tmp_path_factory.mktemp("runs"), "run"))


def test_the_graph_in_use_is_logged_and_kept(run: launch.RunResult) -> None:
    assert [line["graph"] for line in read_metrics(run.run_uri)] == [0] * 6 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 2
    folder = Path(run.run_uri, "step-00000009", "bank")
    kept = [load(path.read_bytes()) for path in sorted(folder.iterdir())]
    assert [sorted(name for name in part if name.startswith("graph")) for part in kept] == [["graph_1", "graph_2"]] * 2
    rows = np.concatenate([part["graph_2"] for part in kept])
    assert rows.shape == (sum(len(part["versions"]) for part in kept), 4)
    assert not (rows == np.arange(len(rows))[:, None]).any()


def test_a_run_that_stopped_while_a_graph_was_built_goes_on_as_if_it_had_not_and_shards_change_nothing(
    run: launch.RunResult, faces: str, tmp_path: Path
) -> None:
    """The second half of the run again, on other shards of bank and index than the first."""
    shutil.copytree(run.run_uri, tmp_path / "run", ignore=shutil.ignore_patterns("step-0000001*", "step-0000002*"))
    assert [name for name in os.listdir(tmp_path / "run") if name.startswith("step-")] == ["step-00000009"]
    config = _in_feature_space(faces, tmp_path, "run")
    config = replace(config, bank=replace(config.bank, num_shards=3), index=replace(config.index, num_shards=2))
    config = with_absolute_paths(config)
    Path(tmp_path, "run", "config.json").write_text(to_json(config))  # a run knows where it lies
    again = launch.fit(config)
    assert losses(again.run_uri) == losses(run.run_uri)
    np.testing.assert_array_equal(table(again.checkpoint.uri), table(run.checkpoint.uri))
