"""GPUs as workers see them, on every node that Ray counts some on: torch, driver, NCCL; and FAISS in an index actor."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ldlva_dist.config import PlacementConfig
from ldlva_dist.doctor.devices import DRIVER_GPUS
from ldlva_dist.doctor.finding import Finding, Look
from ldlva_dist.errors import LdlvaError
from ldlva_dist.runtime import gpu_sight, placement

LIMIT_S, INDEX_LIMIT_S = 90.0, 45.0
"""For all nodes' answers together, and for the index actor's; the look has 180 s."""


def look_at_workers() -> Look:
    """One GPU of each node, in a worker that asked Ray for it, and one in an index actor."""
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
    findings.append(_look_at_index_actor(INDEX_LIMIT_S))
    ray.shutdown()
    return Look(findings=tuple(findings))


def see_gpu() -> dict[str, str | None]:
    """What is wrong with the one GPU of this process, for torch and NCCL; None where nothing is."""
    torch_fault = gpu_sight.why_no_gpu()
    return {
        "torch and driver": torch_fault,
        "NCCL": "not tried, as torch sees no GPU" if torch_fault else _why_no_nccl(),
    }


class Searcher:
    """An index actor's process: FAISS has it without torch, whose CUDA is another."""

    def look(self) -> tuple[str, str | None]:
        """The node's address, and why FAISS does not search on the GPU of this process; None where it does."""
        return ray.util.get_node_ip_address(), _why_no_faiss()


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
    """A search for four points on the first GPU."""
    try:
        import faiss
    except ImportError:
        return "not installed here; index actors with GPUs need it (extra [gpu])"
    if not hasattr(faiss, "get_num_gpus") or not faiss.get_num_gpus():
        return "sees no GPU: it is built for CPUs, or the driver is too old"
    import numpy as np

    points = np.arange(8, dtype=np.float32).reshape(4, 2)
    try:
        index: Any = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, faiss.IndexFlatL2(2))
        index.add(points)
        found = index.search(points, 1)[1][:, 0].tolist()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return None if found == [0, 1, 2, 3] else f"a search for four points gave {found}"


def _worker_on(node_id: str) -> Any:
    """The answer to come of a task with a GPU."""
    with _by_value():
        here = NodeAffinitySchedulingStrategy(node_id, soft=False)
        # A process of its own, that ends with the task: a device that was touched stays taken.
        task: Any = ray.remote(num_gpus=1, max_calls=1, max_retries=0)(see_gpu)
        return task.options(scheduling_strategy=here).remote()


def _index_actor() -> Any:
    """An actor with a GPU, where a run's index actor would be."""
    with _by_value():
        actor: Any = ray.remote(Searcher)
        return actor.options(**placement.index_actor(PlacementConfig(gpus_per_index=1.0))).remote()


@contextmanager
def _by_value() -> Iterator[None]:
    """What is sent meanwhile takes this program's code along: a node need not have it installed."""
    for module in (sys.modules[__name__], gpu_sight):
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in (sys.modules[__name__], gpu_sight):
            cloudpickle.unregister_pickle_by_value(module)


def _look_at_index_actor(limit_s: float) -> Finding:
    """Only runs with ``placement.gpus_per_index`` need it, so nothing of it is more than a warning."""
    actor = _index_actor()
    try:
        address, why = ray.get(actor.look.remote(), timeout=limit_s)
    except GetTimeoutError:
        said = f"none with a GPU had a place within {limit_s:g} s, off spot nodes and nodes without FAISS"
        return _index_finding(said, "are such GPUs there, and free? (ray status)")
    except RayError as error:
        return _index_finding(str(error).strip().splitlines()[-1], "see the logs in RAY_TMPDIR/ray/session_latest/logs")
    finally:
        ray.kill(actor)
    if why is None:
        return _index_finding(f"node {address}: searches on the GPU that Ray gave it")
    return _index_finding(f"node {address}: {why}", "pip install '.[gpu]' in place of faiss-cpu, where it shall search")


def _judge(address: str, found: dict[str, str | None]) -> list[Finding]:
    cures = {
        "torch and driver": "a torch that is built for CUDA (cluster/Dockerfile), or a newer NVIDIA driver",
        "NCCL": "NCCL_DEBUG=INFO says more; is /dev/shm large enough, and nvidia-nccl of torch's own version?",
    }
    return [
        Finding(
            area="cluster",
            check=f"{name} in a worker",
            level="ok" if why is None else "problem",
            found=f"node {address}: {why or 'works on the GPU that Ray gave it'}",
            cure="" if why is None else cures[name],
        )
        for name, why in found.items()
    ]


def _index_finding(found: str, cure: str = "") -> Finding:
    level = "warning" if cure else "ok"
    return Finding(area="cluster", check="FAISS in an index actor", level=level, found=found, cure=cure)


def _finding(check: str, found: str, cure: str = "") -> Finding:
    return Finding(area="cluster", check=check, level="problem" if cure else "ok", found=found, cure=cure)
