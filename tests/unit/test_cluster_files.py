"""The ways to get a cluster: every file parses, is locked by a token, and names what exists."""

import importlib.util
import json
import os
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


def workdir() -> str:
    found = re.search(r"^WORKDIR (\S+)$", commands("Dockerfile"), re.MULTILINE)
    assert found is not None
    return found[1]


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
    for name, group in groups.items():
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        # All GPUs of a host in one pod: NCCL has neither NVLink nor shared memory between pods.
        gpus = {"bank": "0", "index": "1"}.get(name, "8")
        assert (group["rayStartParams"]["num-gpus"], limits.get("nvidia.com/gpu", "0")) == (gpus, gpus)


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-sweep.yaml"])
def test_every_kuberay_pod_has_shared_memory_for_the_object_store(name: str) -> None:
    spec = ray_cluster(name)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
        assert mounts["shm"] == "/dev/shm"
        assert volumes["shm"]["medium"] == "Memory"
        assert mounts.keys() == volumes.keys()
        # Objects that do not fit are spilled to a disk of the pod's, not to the container's layer.
        assert mounts.get("spill") == group["rayStartParams"].get("object-spilling-directory")


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-sweep.yaml"])
def test_kuberay_trainers_keep_services_off_and_have_time_to_save(name: str) -> None:
    groups = {group["groupName"]: group for group in ray_cluster(name)["workerGroupSpecs"]}
    assert groups["bank"]["labels"] == {placement.MARKET_TYPE: "on-demand"}
    trainers = [group for group in groups.values() if group["groupName"].startswith("trainer")]
    assert placement.SPOT in [group["labels"][placement.MARKET_TYPE] for group in trainers]
    for group in trainers:
        pod = group["template"]["spec"]
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        seconds = int(command[command.index("--seconds") + 1])
        assert TrainingConfig().stop_grace_s < seconds < pod["terminationGracePeriodSeconds"]
        assert (ROOT / Path(command[1]).relative_to(workdir())).is_file()
        assert "IPC_LOCK" in pod["containers"][0]["securityContext"]["capabilities"]["add"]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-sweep.yaml"])
def test_kuberay_has_gpus_on_demand_where_index_actors_may_be_and_nobody_pays_for_them_unasked(name: str) -> None:
    """A GPU, the image with FAISS, and labels that Ray's options of an index actor take; trainers' they refuse."""
    spec = ray_cluster(name)
    assert spec["enableInTreeAutoscaling"], "else a group without pods stays so"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    index = groups["index"]
    pod = index["template"]["spec"]
    assert (index["replicas"], index["minReplicas"]) == (0, 0) < (index["maxReplicas"],) * 2
    assert pod["containers"][0]["image"] == groups["bank"]["template"]["spec"]["containers"][0]["image"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {toleration["key"] for toleration in pod["tolerations"]} == {"nvidia.com/gpu"}
    assert [name for name, group in groups.items() if takes_index_actors(group["labels"])] == ["bank", "index"]
    # By default pipelines get what the smallest node with a GPU has left for each of its GPUs.
    cpus = {
        name: float(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for name, group in groups.items()
    }
    assert cpus["index"] >= cpus["trainer"] / 8


def takes_index_actors(labels: dict[str, str]) -> bool:
    """Whether nodes with these labels are neither spot nor without FAISS."""
    return labels[placement.MARKET_TYPE] != placement.SPOT and labels.get(placement.FAISS) != placement.NO_FAISS


def test_the_job_by_the_clock_goes_on_with_one_run_on_the_cluster_that_stays() -> None:
    document = load("raycronjob-train.yaml")
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayCronJob")
    job = document["spec"]["jobTemplate"]
    assert job["clusterSelector"] == {"ray.io/cluster": load("raycluster.yaml")["metadata"]["name"]}
    assert job["backoffLimit"] == 0, "KubeRay refuses more where the cluster is another's"
    *shell, script = shlex.split(job["entrypoint"])
    assert shell == ["bash", "-c"], "what stands behind || would be the submitting pod's own"
    asks, trains = (shlex.split(part) for part in script.split("||"))
    for name in (asks[1], trains[2]):
        assert (ROOT / Path(name).relative_to(workdir())).is_file()
    config = parse_run(trains[3:], description="")
    assert asks[2:] == ["--run", config.uri], "a run that is finished starts no GPU every hour"
    assert config.name == "train-affectnet", "a name of each job's own would begin anew every hour"
    assert config.placement.use_gpu
    assert config.storage_path.startswith("s3://")
    assert len(document["spec"]["schedule"].split()) == 5


def test_the_sweep_job_runs_a_script_that_exists_with_settings_that_it_takes() -> None:
    spec = load("rayjob-sweep.yaml")["spec"]
    interpreter, script, *arguments = shlex.split(spec["entrypoint"])
    assert interpreter == "python"
    assert (ROOT / Path(script).relative_to(workdir())).is_file()

    config = parse_run(arguments, description="")

    groups = {group["groupName"]: group for group in spec["rayClusterSpec"]["workerGroupSpecs"]}
    assert config.placement.use_gpu
    assert config.placement.cpus_per_shard > 0  # else the bank could land on the head
    limits = groups["trainer"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus = groups["trainer"]["replicas"] * int(limits["nvidia.com/gpu"])
    assert gpus % config.placement.max_workers == 0
    assert int(limits["cpu"]) >= int(limits["nvidia.com/gpu"]) * (
        config.placement.cpus_per_worker + config.placement.data_cpus_per_worker
    )
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
    assert "InstanceMarketOptions" not in types["index"]["node_config"]
    assert types["index"]["min_workers"] == 0 < types["index"]["max_workers"]
    assert "--gpus all" in types["index"]["docker"]["worker_run_options"]
    workers = {name: each for name, each in types.items() if name != "head"}
    assert [name for name, each in workers.items() if takes_index_actors(each["labels"])] == ["bank", "index"]
    assert sum(each["max_workers"] for each in workers.values()) == config["max_workers"]
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
    assert text.count("-c constraints-gpu.txt") == text.count("-c constraints.txt") > 0
    assert pinned("torch").startswith("2.")
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name


def test_images_can_tell_how_busy_a_gpu_is() -> None:
    """Without nvidia-ml-py metrics.jsonl has no gpu_busy, and nobody is told."""
    libraries = (ROOT / "cluster" / "Dockerfile").read_text().partition("FROM libraries")[0]
    assert re.search(r"pip install .* torch numpy nvidia-ml-py \\$", libraries, re.MULTILINE)
    assert re.search(r"^nvidia-ml-py==13\.", (ROOT / "constraints-gpu.txt").read_text(), re.MULTILINE)


def test_deepspeed_is_installed_without_a_look_for_the_compiler_of_a_gpu() -> None:
    """Where torch sees a GPU and there is no nvcc, DeepSpeed's setup raises MissingCUDAException otherwise."""
    for name in ("cluster/Dockerfile", "Makefile"):
        text = (ROOT / name).read_text().replace("\\\n", " ")
        [line] = [line for line in text.splitlines() if "--no-build-isolation -c" in line or 'REQUIREMENTS"' in line]
        assert "DS_ACCELERATOR=cpu " in line, name
    assert not re.search(r"^(ENV|export).*DS_ACCELERATOR", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("gpus", [0, 2])
def test_setup_pins_what_torch_brings_for_gpus_where_the_driver_shows_some(gpus: int, tmp_path: Path) -> None:
    for number in range(gpus):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    told = subprocess.run(
        ["make", "--dry-run", "--always-make", ".venv/.setup-done", f"DRIVER_GPUS={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installs = [line for line in told.splitlines() if " install -qq " in line]
    assert len(installs) == 4
    for line in installs:
        assert "-c constraints.txt" in line
        assert ("-c constraints-gpu.txt" in line) == (gpus > 0)


def test_image_has_what_the_launcher_runs_inside_its_container() -> None:
    assert {"openssh-client", "rsync"} <= set(commands("Dockerfile").split())


def test_trainers_have_the_image_without_faiss_and_say_so_and_bank_and_index_have_the_other() -> None:
    """Both are targets of the Dockerfile, and the launcher's are the same."""
    launcher = load("ray-launcher.yaml")
    trainer = launcher["docker"]["image"]
    types = launcher["available_node_types"]
    [index] = {each["docker"]["worker_image"] for name, each in types.items() if name in ("bank", "index")}
    assert types["trainer"]["labels"][placement.FAISS] == placement.NO_FAISS
    for name in ("raycluster.yaml", "rayjob-sweep.yaml"):
        spec = ray_cluster(name)
        assert spec["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] == trainer
        for group in spec["workerGroupSpecs"]:
            image = group["template"]["spec"]["containers"][0]["image"]
            assert image == (index if group["groupName"] in ("bank", "index") else trainer)
            assert (group["labels"].get(placement.FAISS) == placement.NO_FAISS) == (image == trainer)
    targets = re.split(r"^FROM .* AS ", commands("Dockerfile"), flags=re.MULTILINE)
    found = {target.split()[0]: "faiss-gpu" in target for target in targets[1:]}
    assert found == {"libraries": False, "trainer": False, "index": True}
    for image, target in ((trainer, "trainer"), (index, "index")):
        assert f"--target {target} -t {image} ." in (CLUSTER / "Dockerfile").read_text()


SCHEMAS = {
    "raycluster.yaml": "rayclusters",
    "raycronjob-train.yaml": "raycronjobs",
    "rayjob-sweep.yaml": "rayjobs",
    "rayservice.yaml": "rayservices",
}


def crd_schema(plural: str) -> dict[str, Any]:
    """KubeRay's schema of a kind, from its file in LDLVA_KUBERAY_CRDS or in kuberay-crds beside the checkout."""
    folder = Path(os.environ.get("LDLVA_KUBERAY_CRDS") or ROOT.parent / "kuberay-crds")
    path = folder / f"ray.io_{plural}.yaml"
    if not path.is_file():
        pytest.skip(f"there is no {path}: LDLVA_KUBERAY_CRDS names a folder with KubeRay's ray.io_*.yaml")
    crd = yaml.load(path.read_text(), yaml.CSafeLoader)
    (schema,) = [each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"] if each["name"] == "v1"]
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    forbid_unknown(schema)
    return schema


def forbid_unknown(schema: Any) -> None:
    """The API server drops fields that it does not know without a word; here they are errors."""
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        forbid_unknown(inner)
    if not isinstance(schema, dict):
        return
    keeps = schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and "properties" in schema and not keeps:
        schema.setdefault("additionalProperties", False)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]


def schema_errors(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


@pytest.mark.parametrize("name", SCHEMAS)
def test_kuberays_own_schema_takes_the_file(name: str) -> None:
    schema = crd_schema(SCHEMAS[name])
    assert schema_errors(load(name), schema) == []
    broken = load(name)
    broken["spec"]["noSuchField"] = 1
    assert len(schema_errors(broken, schema)) == 1, "the schema refuses what it does not know"


def test_kuberays_own_schema_takes_gcs_fault_tolerance_as_the_comment_has_it() -> None:
    schema, lines = crd_schema("rayclusters"), (CLUSTER / "raycluster.yaml").read_text().splitlines()
    first = lines.index("  # gcsFaultToleranceOptions:")
    block = [line for line in lines[first : first + 6] if line.startswith("  # ")]
    lines[first : first + len(block)] = [line.replace("# ", "", 1) for line in block]
    document = yaml.safe_load("\n".join(lines))
    assert document["spec"]["gcsFaultToleranceOptions"]["redisAddress"]
    assert schema_errors(document, schema) == []


def test_pod_rules_choose_the_pods_of_the_clusters() -> None:
    policy, budget = yaml.safe_load_all((CLUSTER / "pod-rules.yaml").read_text())
    assert (policy["kind"], budget["kind"]) == ("NetworkPolicy", "PodDisruptionBudget")
    inside, outside = policy["spec"]["ingress"]
    assert policy["spec"]["podSelector"] == inside["from"][0]["podSelector"]
    assert "ports" not in inside
    assert {port["port"] for port in outside["ports"]} == {8265, 8000}
    [chosen] = budget["spec"]["selector"]["matchExpressions"]
    assert (chosen["key"], chosen["operator"]) == ("ray.io/group", "In")
    groups = {group["groupName"] for group in ray_cluster("raycluster.yaml")["workerGroupSpecs"]}
    assert set(chosen["values"]) == {"bank", "index"} <= groups


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_every_job_that_a_file_names_exists(path: Path) -> None:
    for job in re.findall(r"jobs/\w+\.py", path.read_text()):
        assert (ROOT / job).is_file(), job


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-gpu.txt"])
def test_constraints_are_exact_versions_without_addresses(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
