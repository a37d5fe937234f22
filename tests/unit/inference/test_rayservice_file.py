"""cluster/rayservice.yaml: a RayService of our Ray version whose Serve part is what Serve and our endpoint take."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ldlva_dist.inference import service
from ldlva_dist.inference.endpoint import ServeSettings
from ldlva_dist.inference.service import app

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "rayservice.yaml").read_text())


@pytest.fixture(scope="module")
def application(document: dict[str, Any]) -> dict[str, Any]:
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(document["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(config)
    return config["applications"][0]


def test_it_is_a_ray_service_of_our_ray_version_and_image(document: dict[str, Any]) -> None:
    other = yaml.safe_load((CLUSTER / "raycluster.yaml").read_text())["spec"]
    spec = document["spec"]["rayClusterConfig"]
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayService")
    assert spec["rayVersion"] == other["rayVersion"]
    assert spec["authOptions"] == other["authOptions"]
    head = other["headGroupSpec"]["template"]["spec"]["containers"][0]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        container = group["template"]["spec"]["containers"][0]
        assert (container["image"], container["envFrom"]) == (head["image"], head["envFrom"])
        assert container["volumeMounts"] == [{"name": "shm", "mountPath": "/dev/shm"}]


def test_its_application_is_ours_with_settings_that_it_takes(application: dict[str, Any]) -> None:
    module, _, name = application["import_path"].partition(":")
    assert importlib.util.find_spec(module) is not None
    assert getattr(service, name) is app
    settings = ServeSettings(**application["args"])
    deployment = app(application["args"])._bound_deployment
    assert deployment.num_replicas == settings.replicas == 2
    assert deployment.ray_actor_options["num_cpus"] == settings.cpus_per_replica


def test_its_workers_hold_all_replicas(document: dict[str, Any], application: dict[str, Any]) -> None:
    (group,) = document["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    cpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    settings = ServeSettings(**application["args"])
    assert group["replicas"] * (cpus // settings.cpus_per_replica) >= settings.replicas


def test_the_image_has_what_serving_needs() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert re.search(r"\*p\['optional-dependencies'\]\['serve'\]", text)
