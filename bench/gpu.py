"""What one GPU gives: step throughput in fp32 and bf16, the neighbour graph on it, samples/s of whole runs.

Under ten minutes on one GPU; ``make bench-gpu``. Goals: the graph of 450 k points in at most 2 x the time of
``faiss.knn_gpu`` alone; a whole run at least 0.90 of the bare loop.
"""

import logging
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import ray
import torch
import tyro
from torch.nn import functional as F

from bench.common import drawn_faces, report
from ldlva_dist.config import DataConfig, NeighborConfig, OptimConfig, PlacementConfig, RunConfig, TrainingConfig
from ldlva_dist.errors import SettingError
from ldlva_dist.index.graph import nearest_neighbors
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.models.resnet import ResNet
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.reporting.terminal import run_job
from ldlva_dist.run import launch

PIXELS, K = 112, 32


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to measure."""

    batch: int = 256
    steps: int = 200
    points: int = 450_000
    data_cpus: float = 8.0


def main(arguments: Arguments) -> None:
    """Measure in stages, each printed as it ends: a first figure needs no cluster and no FAISS."""
    if not torch.cuda.is_available():
        raise SettingError("bench-gpu needs a GPU that torch sees, got none")
    device, bare = torch.cuda.get_device_name(), dict[str, float]()
    for precision in ("fp32", "bf16"):
        bare[precision] = bare_speed(arguments, precision)
        report(f"gpu-bare-{precision}", ok=True, device=device, samples_per_second=bare[precision])
    torch.cuda.empty_cache()  # what this process keeps a worker on the same GPU could not have
    with tempfile.TemporaryDirectory() as folder:
        dataset = drawn_faces(folder, train=8192, pixels=PIXELS)
        ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR)
        for precision in bare:
            ours = our_speed(arguments, folder, dataset, precision)
            ratio = ours / bare[precision]
            is_fast = precision == "bf16" or ratio >= 0.90
            report(f"gpu-run-{precision}", ok=is_fast, device=device, samples_per_second=ours, ratio=ratio)
        ray.shutdown()
    if not hasattr(import_module("faiss"), "StandardGpuResources"):
        report("gpu-graph", ok=True, device=device, seconds="not run: needs the package faiss-gpu (extra [gpu])")
        return
    graph = graph_seconds(arguments.points)
    report("gpu-graph", ok=graph["ours"] <= 2 * graph["faiss"], device=device, seconds=graph)


def graph_seconds(points: int) -> dict[str, float]:
    """Seconds of our exact graph, and of FAISS's own search alone, on the same points."""
    import faiss

    va = np.random.default_rng(0).uniform(-1, 1, (points, 2)).astype(np.float32)
    resources = faiss.StandardGpuResources()
    faiss.knn_gpu(resources, va[:1000], va, K)  # pyright: ignore[reportAttributeAccessIssue]
    began = time.monotonic()
    faiss.knn_gpu(resources, va, va, K + 1)  # pyright: ignore[reportAttributeAccessIssue]
    alone = time.monotonic() - began
    began = time.monotonic()
    nearest_neighbors(va, K, backend="faiss_gpu")
    return {"ours": time.monotonic() - began, "faiss": alone}


def bare_speed(arguments: Arguments, precision: str) -> float:
    """Samples/s of forward, backward and optimiser on tensors in GPU memory."""
    model = LDLVA(ResNet(18), 7, recipe="ce").cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images = torch.randint(0, 256, (arguments.batch, PIXELS, PIXELS, 3), dtype=torch.uint8, device="cuda")
    labels = torch.randint(0, 7, (arguments.batch,), device="cuda")
    began = time.monotonic()
    for step in range(arguments.steps):
        if step == 20:
            torch.cuda.synchronize()
            began = time.monotonic()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images).logits_BC
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    torch.cuda.synchronize()
    return arguments.batch * (arguments.steps - 20) / (time.monotonic() - began)


def our_speed(arguments: Arguments, folder: str, dataset: str, precision: str) -> float:
    """Samples/s of a whole run after its first quarter, as its own log says."""
    config = RunConfig(
        name=f"gpu-{precision}",
        storage_path=f"{folder}/runs",
        data=DataConfig(dataset=dataset, batch_size=arguments.batch, image_size=PIXELS),
        neighbors=NeighborConfig(num_neighbors=8),
        optim=OptimConfig(name="adam", lr=1e-3, schedule="constant"),
        training=TrainingConfig(
            epochs=arguments.steps * arguments.batch / 8192,
            evaluate_every_epochs=999,
            precision="bf16" if precision == "bf16" else "fp32",
        ),
        placement=PlacementConfig(use_gpu=True, data_cpus_per_worker=arguments.data_cpus, max_failures=0),
    )
    result = launch.fit(config)
    lines = [line for line in read_metrics(result.run_uri) if line["step"] > arguments.steps // 4]
    return len(lines) / sum(1 / line["samples_per_second"] for line in lines)


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, description=__doc__)
    run_job(lambda: main(arguments))
