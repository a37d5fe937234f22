"""GPUs as workers see them, on every node that Ray counts some on: torch and its driver, NCCL, and FAISS."""

import os
import sys
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ldlva_dist.doctor.devices import DRIVER_GPUS
from ldlva_dist.doctor.finding import Finding, Look
from ldlva_dist.errors import LdlvaError
from ldlva_dist.runtime import gpu_sight, placement

LIMIT_S = 90.0
"""For all nodes' answers together; the look has 120 s."""


def look_at_workers() -> Look:
    """One GPU of each node, in a worker that asked Ray for it."""
    if not os.environ.get("RAY_ADDRESS") and not DRIVER_GPUS.exists():
        return Look(findings=(_finding("GPU in a worker", "no GPU here"),))
    try:
        placement.connect()
    except LdlvaError:
        return Look()  # the look at Ray says why
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    if not nodes:
        ray.shutdown()
        return Look(findings=(_finding("GPU in a worker", "no GPU here: Ray counts none on any node"),))
    asked = [_worker_on(node["NodeID"]) for node in nodes]
    findings: list[Finding] = []
    try:
        for node, found in zip(nodes, ray.get(asked, timeout=LIMIT_S), strict=True):
            findings += _judge(node["NodeManagerAddress"], found)
    except GetTimeoutError:
        cure = "are the GPUs taken by other jobs? (ray status)"
        findings.append(_finding("GPU in a worker", f"no worker with a GPU answered in {LIMIT_S:g} s", cure))
    except RayError as error:
        said = str(error).strip().splitlines()[-1]
        findings.append(_finding("GPU in a worker", said, "see the logs in RAY_TMPDIR/ray/session_latest/logs"))
    ray.shutdown()
    return Look(findings=tuple(findings))


def see_gpu() -> dict[str, str | None]:
    """What is wrong with the one GPU of this process, for torch, NCCL and FAISS; None where nothing is."""
    torch_fault = gpu_sight.why_no_gpu()
    return {
        "torch and driver": torch_fault,
        "NCCL": "not tried, as torch sees no GPU" if torch_fault else _why_no_nccl(),
        "FAISS": _why_no_faiss(),
    }


def _why_no_nccl() -> str | None:
    """One rank's all-reduce: libraries, driver and device, not the network."""
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    try:
        dist.init_process_group("nccl", store=HashStore(), rank=0, world_size=1)
        total = torch.ones(1, device="cuda")
        dist.all_reduce(total)
        return None if total.item() == 1 else f"a sum over one rank gave {total.item():g}"
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _why_no_faiss() -> str | None:
    """Whether an index actor with this GPU would search on it."""
    try:
        import faiss
    except ImportError:
        return "not installed here; index actors with GPUs need it (extra [gpu])"
    count = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return None if count else "sees no GPU: it is built for CPUs, or the driver is too old"


def _worker_on(node_id: str) -> Any:
    """The answer to come of a task with a GPU; by value, as a node need not have this program installed."""
    for module in (sys.modules[__name__], gpu_sight):
        cloudpickle.register_pickle_by_value(module)
    try:
        here = NodeAffinitySchedulingStrategy(node_id, soft=False)
        # A process of its own, that ends with the task: a device that was touched stays taken.
        task: Any = ray.remote(num_gpus=1, max_calls=1, max_retries=0)(see_gpu)
        return task.options(scheduling_strategy=here).remote()
    finally:
        for module in (sys.modules[__name__], gpu_sight):
            cloudpickle.unregister_pickle_by_value(module)


def _judge(address: str, found: dict[str, str | None]) -> list[Finding]:
    cures = {
        "torch and driver": "a torch that is built for CUDA (cluster/Dockerfile), or a newer NVIDIA driver",
        "NCCL": "NCCL_DEBUG=INFO says more; is /dev/shm large enough, and nvidia-nccl of torch's own version?",
        "FAISS": "pip install '.[gpu]' in place of faiss-cpu, where index actors have GPUs",
    }
    return [
        Finding(
            area="cluster",
            check=f"{name} in a worker",
            level="ok" if why is None else "warning" if name == "FAISS" else "problem",
            found=f"node {address}: {why or 'works on the GPU that Ray gave it'}",
            cure="" if why is None else cures[name],
        )
        for name, why in found.items()
    ]


def _finding(check: str, found: str, cure: str = "") -> Finding:
    return Finding(area="cluster", check=check, level="problem" if cure else "ok", found=found, cure=cure)
