"""What only several looks together tell: GPUs that one sees and another does not, a local folder on many nodes."""

from collections.abc import Mapping
from typing import Any

from ldlva_dist.doctor.finding import Finding


def compare_facts(facts: Mapping[str, Any]) -> list[Finding]:
    """Findings of facts (devices.py, cluster.py, store.py); what a look did not give is not compared."""
    return [*_gpus(facts), *_cuda(facts), *_storage(facts)]


def _gpus(facts: Mapping[str, Any]) -> list[Finding]:
    gpus, found = facts.get("driver_gpus", 0), []
    if not gpus:
        return []
    if facts.get("torch_gpus", gpus) < gpus:
        if facts.get("torch_cuda") is None:
            what, cure = "is built for CPUs", "install a torch that is built for CUDA, in place of this one"
        else:
            what, cure = "sees fewer", "unset CUDA_VISIBLE_DEVICES, or update the NVIDIA driver"
        found.append(_problem("torch", f"{gpus} GPUs are there, torch {what} ({facts['torch_gpus']})", cure))
    if facts.get("faiss_gpus", gpus) < gpus:
        if facts.get("faiss_package") == "faiss-gpu":
            said = f"{gpus} GPUs are there, faiss-gpu sees {facts['faiss_gpus']}"
            found.append(_problem("FAISS", said, "unset CUDA_VISIBLE_DEVICES, or update the NVIDIA driver"))
        else:
            said, cure = (
                f"{gpus} GPUs are there, FAISS will search on CPUs",
                "pip uninstall faiss-cpu; pip install '.[gpu]'",
            )
            found.append(Finding(area="devices", check="FAISS", level="warning", found=said, cure=cure))
    if facts.get("ray_is_local") and facts.get("ray_gpus", gpus) < gpus:
        said = f"{gpus} GPUs are there, Ray counts {facts['ray_gpus']:g}"
        found.append(_problem("Ray", said, f"unset CUDA_VISIBLE_DEVICES, or ray start --num-gpus {gpus}"))
    return found


def _cuda(facts: Mapping[str, Any]) -> list[Finding]:
    driver, found = facts.get("driver_cuda"), []
    if driver is None:
        return []
    for name in ("torch", "faiss"):
        wanted = facts.get(f"{name}_cuda")
        if wanted and _major(wanted) > _major(driver):
            said = f"{name} needs CUDA {wanted}, the driver serves {driver} at most"
            cure = f"update the NVIDIA driver, or install a {name} that is built for CUDA {_major(driver)}"
            found.append(_problem(f"CUDA of {name}", said, cure))
    torch, faiss = facts.get("torch_cuda"), facts.get("faiss_cuda")
    if torch and faiss and _major(torch) != _major(faiss):
        said = f"torch {torch}, FAISS {faiss}: fine, as they never share a process here"
        found.append(Finding(area="devices", check="CUDA of torch and FAISS", level="ok", found=said))
    return found


def _storage(facts: Mapping[str, Any]) -> list[Finding]:
    if not facts.get("local") or facts.get("ray_nodes", 1) < 2:
        return []
    said = f"{facts['uri']} is a folder, the cluster has {facts['ray_nodes']} nodes"
    cure = "a folder that all nodes mount at this path, or s3://bucket/prefix"
    return [Finding(area="storage", check="shared by all nodes", level="warning", found=said, cure=cure)]


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _problem(check: str, found: str, cure: str) -> Finding:
    return Finding(area="devices", check=check, level="problem", found=found, cure=cure)
