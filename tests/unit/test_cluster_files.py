"""The ways to get a cluster: every file parses, is locked by a token, and names what exists."""

import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ldlva_dist.config import TrainingConfig
from ldlva_dist.run.cli import parse_run
from ldlva_dist.runtime import placement

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def ray_cluster(name: str) -> dict[str, Any]:
    document = load(name)
    return document["spec"] if document["kind"] == "RayCluster" else document["spec"]["rayClusterSpec"]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"]["containers"][0] for group in groups]


def commands(name: str) -> str:
    """A file without its comments."""
    return "\n".join(line for line in (CLUSTER / name).read_text().splitlines() if not line.lstrip().startswith("#"))


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found, f"{package} is not in constraints.txt"
    return found[1]


@pytest.mark.parametrize(("name", "kind"), [("raycluster.yaml", "RayCluster"), ("rayjob-sweep.yaml", "RayJob")])
def test_kuberay_file_is_a_v1_resource_of_our_ray_version(name: str, kind: str) -> None:
    document = load(name)
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    assert ray_cluster(name)["rayVersion"] == pinned("ray")


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-sweep.yaml"])
def test_kuberay_cluster_takes_token_and_credentials_from_secrets(name: str) -> None:
    spec = ray_cluster(name)
    assert spec["authOptions"] == {"mode": "token", "secretName": "ldlva-ray-token"}
    for container in containers(spec):
        assert container["envFrom"] == [{"secretRef": {"name": "ldlva-s3"}}]
        assert not any("KEY" in variable["name"] or "TOKEN" in variable["name"] for variable in container["env"])


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-sweep.yaml"])
def test_kuberay_cluster_has_an_idle_head_cpu_banks_and_gpu_trainers(name: str) -> None:
    spec = ray_cluster(name)
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert {name: group["rayStartParams"]["num-gpus"] for name, group in groups.items()} == {
        "bank": "0",
        "trainer": "1",
    }
    limits = {name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in groups.items()}
    assert limits["trainer"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in limits["bank"]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-sweep.yaml"])
def test_every_kuberay_pod_has_shared_memory_for_the_object_store(name: str) -> None:
    spec = ray_cluster(name)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["containers"][0]["volumeMounts"] == [{"name": "shm", "mountPath": "/dev/shm"}]
        assert [(volume["name"], volume["emptyDir"]["medium"]) for volume in pod["volumes"]] == [("shm", "Memory")]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-sweep.yaml"])
def test_kuberay_trainers_keep_services_off_and_have_time_to_save(name: str) -> None:
    groups = {group["groupName"]: group for group in ray_cluster(name)["workerGroupSpecs"]}
    assert groups["trainer"]["labels"] == {placement.MARKET_TYPE: placement.SPOT}
    assert "labels" not in groups["bank"]
    assert groups["trainer"]["template"]["spec"]["terminationGracePeriodSeconds"] > TrainingConfig().stop_grace_s


def test_the_sweep_job_runs_a_script_that_exists_with_settings_that_it_takes() -> None:
    spec = load("rayjob-sweep.yaml")["spec"]
    interpreter, script, *arguments = shlex.split(spec["entrypoint"])
    workdir = re.search(r"^WORKDIR (\S+)$", commands("Dockerfile"), re.MULTILINE)
    assert workdir is not None
    assert interpreter == "python"
    assert (ROOT / Path(script).relative_to(workdir[1])).is_file()

    config = parse_run(arguments, description="")

    groups = {group["groupName"]: group for group in spec["rayClusterSpec"]["workerGroupSpecs"]}
    assert config.placement.use_gpu
    assert config.placement.cpus_per_shard > 0  # else the bank could land on the head
    assert groups["trainer"]["replicas"] % config.placement.max_workers == 0
    assert config.data.dataset.startswith("s3://")
    assert config.storage_path.startswith("s3://")


def test_launcher_file_is_what_ray_up_takes() -> None:
    # Ray's own schema, found without importing Ray.
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    assert ray.submodule_search_locations
    schema = Path(ray.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json"
    config = load("ray-launcher.yaml")
    jsonschema.validate(config, json.loads(schema.read_text()))

    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert types["trainer"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["bank"]["node_config"]
    for start in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in start[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_local_head_is_a_valid_script_with_a_token_on_the_loopback() -> None:
    subprocess.run(["bash", "-n", CLUSTER / "local.sh"], check=True)
    script = commands("local.sh")
    assert "RAY_AUTH_MODE=token" in script
    assert "umask 077" in script
    assert "--dashboard-host 127.0.0.1" in script
    assert "--block" in script
    assert "ray stop" not in script  # it would end every cluster on the machine


def test_image_installs_exact_versions_and_runs_as_a_user() -> None:
    lines = commands("Dockerfile").splitlines()
    assert next(line for line in lines if line.startswith("FROM")).startswith("FROM python:3.11")
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users
    assert users[-1] not in ("root", "0")
    text = commands("Dockerfile")
    assert "constraints.txt" in text
    assert "['gpu']" in text
    assert pinned("torch").startswith("2.")
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name


def test_deepspeed_is_installed_without_a_look_for_the_compiler_of_a_gpu() -> None:
    """Where torch sees a GPU and there is no nvcc, DeepSpeed's setup raises MissingCUDAException otherwise."""
    for name in ("cluster/Dockerfile", "Makefile"):
        text = (ROOT / name).read_text().replace("\\\n", " ")
        [line] = [line for line in text.splitlines() if "--no-build-isolation -c" in line or 'REQUIREMENTS"' in line]
        assert "DS_ACCELERATOR=cpu " in line, name
    assert not re.search(r"^(ENV|export).*DS_ACCELERATOR", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_image_has_what_the_launcher_runs_inside_its_container() -> None:
    assert {"openssh-client", "rsync"} <= set(commands("Dockerfile").split())


def test_all_kubernetes_files_use_one_image() -> None:
    images = {c["image"] for name in ("raycluster.yaml", "rayjob-sweep.yaml") for c in containers(ray_cluster(name))}
    assert images == {load("ray-launcher.yaml")["docker"]["image"]}


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_every_job_that_a_file_names_exists(path: Path) -> None:
    for job in re.findall(r"jobs/\w+\.py", path.read_text()):
        assert (ROOT / job).is_file(), job


def test_constraints_are_exact_versions_without_addresses() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
