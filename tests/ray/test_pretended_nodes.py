"""A node that claims CPUs and GPUs which are not there: Ray counts what it is told."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray._private.node import Node
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.util.placement_group import placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ldlva_dist.config import PlacementConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.doctor import workers
from ldlva_dist.errors import SettingError
from ldlva_dist.index import service as index_service
from ldlva_dist.run import launch
from ldlva_dist.run.outcome import read_outcome
from ldlva_dist.runtime import placement
from ldlva_dist.runtime.interfaces import nodes_without_interface
from ldlva_dist.stream import pipeline
from ldlva_dist.stream.plan import Plan
from testing.clusters.joining_nodes import another_node
from testing.tiny_runs import tiny_run

TRAINERS, DATA_CPUS = 16, 12
ONE_GPU = PlacementConfig(gpus_per_index=1.0)


@pytest.fixture(scope="module")
def large_node(cluster: None) -> Iterator[Node]:
    """A spot node for sixteen trainers and their pipelines."""
    spot = {"ray.io/market-type": "spot"}
    with another_node(TRAINERS * (DATA_CPUS + 1), num_gpus=TRAINERS, labels=spot) as node:
        yield node


class Where(pipeline.Supersteps):
    """A superstep whose samples say on which node it was made."""

    def __call__(self, items: Any) -> Iterator[dict[str, Any]]:
        here = np.full(self.rows_per_step, _number(ray.get_runtime_context().get_node_id()))
        none = np.zeros(self.rows_per_step)
        yield {"step": none, "id": here, "image": none, "label": none, "va": none}


class Trainers:
    """All trainers of a node in one process: each opens its pipeline, takes a batch, and keeps it open."""

    def decode(self) -> dict[str, Any]:
        """Seconds until all had their first batch; for each whether it is of this node, and Ray Data's limit."""
        limits, breathe = {}, pipeline._Breather.on_execution_step

        def note(breather: pipeline._Breather, executor: StreamingExecutor) -> None:
            limit = executor._resource_manager.get_global_limits()
            limits[executor._dataset_id] = limit.cpu, limit.object_store_memory > 0
            breathe(breather, executor)

        pipeline._Breather.on_execution_step = note
        images = pipeline.ImageSettings(
            size=16, channels=1, resize="antialias", flip=False, pad=0, erase_probability=0.0
        )
        plan, here = Plan((64,), 0, 32, 32), _number(ray.get_runtime_context().get_node_id())
        began, opened, local = time.monotonic(), [], []
        for _ in range(TRAINERS):
            supersteps: Any = Where(
                plan=plan, manifest=None, images=images, rank=0, world_size=1, first_step=0, stop_step=1
            )
            opened.append(pipeline.batches(supersteps, num_cpus=DATA_CPUS))
            local.append(bool((next(opened[-1]).ids == here).all()))
        return {"seconds": time.monotonic() - began, "local": local, "limits": list(limits.values())}


def test_pipelines_of_one_node_have_the_cpus_they_asked_for_and_decode_there(large_node: Node) -> None:
    """By Ray Data's own reckoning they would have none: what is left of the node, divided by sixteen, and whole."""
    trainers: Any = ray.remote(num_gpus=1)(Trainers).remote()
    seen = ray.get(trainers.decode.remote(), timeout=120)
    ray.kill(trainers)
    assert seen["limits"] == [(DATA_CPUS, True)] * TRAINERS
    assert seen["local"] == [True] * TRAINERS


def test_services_stay_off_spot_nodes_and_index_actors_without_a_gpu_see_none(
    large_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spot node has more room than the other one, and Ray hides GPUs only from those that ask for some."""
    settings = PlacementConfig(cpus_per_shard=0.1, cpus_per_index=0.1)
    first, Seen = ray.get_runtime_context().get_node_id(), ray.remote(Service)
    services = [Seen.options(**placement.bank_actor(settings, 1)).remote() for _ in range(2)]
    services += [Seen.options(**placement.index_actor(settings)).remote() for _ in range(2)]
    nodes, visible = zip(*ray.get([service.look.remote() for service in services], timeout=120), strict=True)
    for service in services:
        ray.kill(service)
    assert set(nodes) == {first}
    assert visible[2:] == ("", "")
    trial = placement.trial()
    trial_group = trial.to_placement_group()
    assert trial_group.wait(30)
    assert set(placement_group_table(trial_group)["bundles_to_node_id"].values()) == {first}
    remove_placement_group(trial_group)


class Service:
    """An actor of a run."""

    def look(self) -> tuple[str, str | None]:
        """The node it is on, and the GPUs that libraries would see."""
        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES")


def _number(node_id: str) -> int:
    return int(node_id[:12], 16)


def test_every_node_says_on_which_interface_its_collectives_are(large_node: Node) -> None:
    """Asked as doctor asks; nodes bear the address by which they joined."""
    assert nodes_without_interface(limit_s=60) == {}


def test_pipelines_have_by_default_what_the_node_leaves_for_each_gpu(large_node: Node) -> None:
    """Sixteen GPUs and 208 CPUs beside a node of four without any, which has room for two services and a trial."""
    settings = PlacementConfig(use_gpu=True, num_workers=TRAINERS, cpus_per_worker=2.0)
    assert placement.settle_data_cpus(settings, 2, 0).data_cpus == DATA_CPUS + 1 - 2
    assert placement.settle_data_cpus(settings, 4, 0).data_cpus == DATA_CPUS + 1 - 2 - 1, (
        "shards that find no other node"
    )
    assert placement.settle_data_cpus(replace(settings, data_cpus_per_worker=3.0), 2, 0).data_cpus == 3.0
    assert placement.settle_data_cpus(replace(settings, use_gpu=False), 2, 0).data_cpus == 1.0
    assert placement.settle_data_cpus(replace(settings, cpus_per_worker=100.0), 2, 0).data_cpus == 1.0, "one at least"


def test_a_run_whose_torch_sees_no_gpu_says_so_before_nccl_does(large_node: Node, faces: str, tmp_path: Path) -> None:
    """Ray gives the worker a GPU that is not there."""
    config = tiny_run(faces, tmp_path, "blind")
    place = replace(config.placement, use_gpu=True, cpus_per_shard=0.1, max_failures=3)
    with pytest.raises(
        SettingError, match=r"placement\.use_gpu needs a torch that sees a GPU in every worker, got: on "
    ):
        launch.fit(replace(config, placement=place))
    assert read_outcome(str(tmp_path / "blind")).exit_code == 2


def test_the_doctor_says_what_a_worker_sees_of_the_gpu_that_ray_gave_it(large_node: Node) -> None:
    """Asked as doctor asks; here torch and FAISS are built for CPUs, and the GPU is none."""
    seen = ray.get(workers._worker_on(large_node.node_id), timeout=120)
    found = {finding.check: finding for finding in workers._judge("here", seen)}
    assert found["torch and driver in a worker"].level == "problem"
    assert "is built for CPUs" in found["torch and driver in a worker"].found
    assert found["NCCL in a worker"].level == "problem"


def test_the_doctor_tries_faiss_in_an_actor_of_its_own_where_an_index_actor_would_be(large_node: Node) -> None:
    """Off the spot node with its sixteen GPUs; faiss-cpu sees none of them anywhere."""
    with another_node(2, num_gpus=1) as steady:

        def process(_: Any) -> dict[str, Any]:  # inside, as this file would bring torch along
            gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
            return {"node": ray.get_runtime_context().get_node_id(), "gpus": gpus, "torch": "torch" in sys.modules}

        actor = workers._index_actor()
        seen = ray.get(actor.__ray_call__.remote(process), timeout=120)
        ray.kill(actor)
        assert seen == {"node": steady.node_id, "gpus": "0", "torch": False}
        found = workers._look_at_index_actor(60)
    assert (found.check, found.level) == ("FAISS in an index actor", "warning")
    assert "sees no GPU" in found.found
    assert "had a place within 3 s" in workers._look_at_index_actor(3).found, "all others are spot"


def test_a_graph_is_built_by_as_many_actors_as_there_are_shares_of_steady_gpus(
    large_node: Node, faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More CPUs are there, and GPUs of a spot node, where an index actor may not be; the wait is the placement's."""
    monkeypatch.setattr(index_service, "SMALL_SAMPLES", 0)
    monkeypatch.setattr(index_service, "INDEX_START_TIMEOUT_S", 0.0)
    dataset = Dataset.open(shutil.copytree(faces, tmp_path / "faces").as_posix())
    settings = PlacementConfig(gpus_per_index=0.5, cpus_per_index=0.5, wait_for_workers_s=120.0)
    with another_node(8, num_gpus=2):
        place = partial(placement.index_place, settings)
        graph, num_actors = index_service.build_graph_by_size(dataset, 5, "kdtree", on_gpu=True, place=place)
        assert (graph.num_neighbors, num_actors) == (5, 4)
        assert placement.index_place(replace(settings, gpus_per_index=0.6)).num_actors == 2, "of one GPU each"
        assert placement.index_place(replace(settings, gpus_per_index=2.0)).num_actors == 1
        assert placement.index_place(replace(settings, cpus_per_index=4.0)).num_actors == 2, "CPUs of the GPUs' node"
        with pytest.raises(SettingError, match=r"--num-shards and .* need 20 CPUs and 20 GPUs, got a cluster with "):
            index_service.build_graph_by_size(
                dataset, 5, num_shards=20, on_gpu=True, place=lambda: placement.index_place(ONE_GPU)
            )
    assert placement.index_place(replace(settings, gpus_per_index=0.0)).num_actors == 4 / 0.5, "no GPU asked for"


def test_index_actors_stay_off_nodes_whose_label_says_that_there_is_no_faiss(large_node: Node) -> None:
    """Both nodes are steady, and have a GPU; Ray would spread two actors over them."""
    settings = PlacementConfig(gpus_per_index=0.5, cpus_per_index=0.5)
    kind: Any = ray.remote(Service)
    bare = {placement.FAISS: placement.NO_FAISS}
    with another_node(2, num_gpus=1, labels=bare), another_node(2, num_gpus=1) as with_faiss:
        actors = [kind.options(**placement.index_actor(settings)).remote() for _ in range(2)]
        seen = ray.get([actor.look.remote() for actor in actors], timeout=120)
        for actor in actors:
            ray.kill(actor)
        assert [node for node, _ in seen] == [with_faiss.node_id] * 2
        assert placement.index_place(settings).num_actors == 2


def test_a_trainer_and_an_index_actor_share_a_gpu(large_node: Node) -> None:
    settings = PlacementConfig(use_gpu=True, num_workers=18, gpus_per_worker=0.9, gpus_per_index=0.1)
    trainer = placement.scaling(settings).resources_per_worker
    assert trainer is not None
    kind: Any = ray.remote(Service)
    with another_node(4, num_gpus=1) as steady:
        here = NodeAffinitySchedulingStrategy(steady.node_id, soft=False)
        actors = [
            kind.options(num_cpus=trainer["CPU"], num_gpus=trainer["GPU"], scheduling_strategy=here).remote(),
            kind.options(**placement.index_actor(settings)).remote(),
        ]
        assert ray.get([actor.look.remote() for actor in actors], timeout=120) == [(steady.node_id, "0")] * 2
        for actor in actors:
            ray.kill(actor)
    assert placement.count_workers(settings, 0, 1) == TRAINERS, "no two trainers share one of the sixteen"
    assert placement.count_workers(replace(settings, gpus_per_worker=1.0), 0, 1) == TRAINERS - 1
