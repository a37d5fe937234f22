"""What one GPU gives: step throughput in fp32 and bf16, samples/s of whole runs, neighbours in features and the plane.

Under ten minutes on one GPU; ``make bench-gpu``. Goals: a whole run at least 0.90 of the bare loop in fp32; inverted
lists find the recall asked for; the graph of 450 k points in at most 2 x the time of ``faiss.knn_gpu`` alone.
``--rehearse`` does it on the CPU, tiny, to see that it works; its figures are judged by no goal but the recall's.
"""

import logging
import tempfile
import time
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import ray
import torch
import tyro
from torch.nn import functional as F

from bench.common import drawn_faces, report
from bench.gpu_step import synchronize
from ldlva_dist.config import (
    DataConfig,
    ModelConfig,
    NeighborConfig,
    OptimConfig,
    PlacementConfig,
    RunConfig,
    TrainingConfig,
)
from ldlva_dist.errors import SettingError
from ldlva_dist.index.graph import nearest_neighbors
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.models.resnet import ResNet
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.reporting.terminal import run_job
from ldlva_dist.run import launch

K, MIN_RECALL = 32, 0.95


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to measure."""

    batch: int = 256
    steps: int = 200
    warmup: int = 20
    width: int = 64
    """Channels of the first stage of the ResNet-18."""
    pixels: int = 112
    train: int = 8192
    points: int = 450_000
    features: tuple[int, int] = (450_000, 512)
    data_cpus: float = 8.0
    rehearse: bool = False
    """On the CPU, tiny."""


def main(arguments: Arguments) -> None:
    """Measure in stages, each printed as it ends: a first figure needs no cluster and no FAISS."""
    device, name = torch.device("cpu"), "cpu"
    if arguments.rehearse:
        arguments = replace(
            arguments, batch=16, steps=16, warmup=4, width=8, pixels=48, train=128, features=(12_000, 32), data_cpus=0.5
        )
    elif torch.cuda.is_available():
        device, name = torch.device("cuda"), torch.cuda.get_device_name()
    else:
        raise SettingError("bench-gpu needs a GPU that torch sees, got none")
    bare = dict[str, float]()
    for precision in ("fp32", "bf16"):
        bare[precision] = bare_speed(arguments, precision, device)
        report(f"gpu-bare-{precision}", ok=True, device=name, samples_per_second=bare[precision])
    torch.cuda.empty_cache()  # what this process keeps a worker on the same GPU could not have
    with tempfile.TemporaryDirectory() as folder:
        dataset = drawn_faces(folder, train=arguments.train, pixels=arguments.pixels)
        ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR)
        for precision in bare:
            ours = our_speed(arguments, folder, dataset, precision)
            ratio = ours / bare[precision]
            is_fast = arguments.rehearse or precision == "bf16" or ratio >= 0.90
            report(f"gpu-run-{precision}", ok=is_fast, device=name, samples_per_second=ours, ratio=ratio)
        if arguments.rehearse or sees_gpus():
            found = features(arguments)
            report("gpu-features", ok=found["recall"] >= MIN_RECALL, device=name, size=arguments.features, **found)
        ray.shutdown()
    if not sees_gpus():
        report(
            "gpu-graph", ok=True, device=name, seconds="not run: needs a GPU and the package faiss-gpu (extra [gpu])"
        )
        return
    graph = graph_seconds(arguments.points)
    report("gpu-graph", ok=graph["ours"] <= 2 * graph["faiss"], device=name, seconds=graph)


def sees_gpus() -> bool:
    """Whether FAISS has a GPU."""
    return import_module("faiss").get_num_gpus() > 0


def features(arguments: Arguments) -> dict[str, float]:
    """Exhaustive search and inverted lists by one index actor: seconds of both, and measured recall."""
    from bench.speed.neighbors import approximate_against_exhaustive  # it needs FAISS

    backend, options = ("faiss_cpu", {"num_cpus": 1}) if arguments.rehearse else ("faiss_gpu", {"num_gpus": 1})
    return approximate_against_exhaustive(arguments.features, MIN_RECALL, backend, options)


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


def bare_speed(arguments: Arguments, precision: str, device: torch.device) -> float:
    """Samples/s of forward, backward and optimiser on tensors in the device's memory."""
    model = LDLVA(ResNet(18, width=arguments.width), 7, recipe="ce").to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    shape = arguments.batch, arguments.pixels, arguments.pixels, 3
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    labels = torch.randint(0, 7, (arguments.batch,), device=device)
    began = time.monotonic()
    for step in range(arguments.steps):
        if step == arguments.warmup:
            synchronize(device)
            began = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images).logits_BC
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    synchronize(device)
    return arguments.batch * (arguments.steps - arguments.warmup) / (time.monotonic() - began)


def our_speed(arguments: Arguments, folder: str, dataset: str, precision: str) -> float:
    """Samples/s of a whole run after its first quarter, as its own log says."""
    config = RunConfig(
        name=f"gpu-{precision}",
        storage_path=f"{folder}/runs",
        data=DataConfig(dataset=dataset, batch_size=arguments.batch, image_size=arguments.pixels),
        model=ModelConfig(width=arguments.width),
        neighbors=NeighborConfig(num_neighbors=8),
        optim=OptimConfig(name="adam", lr=1e-3, schedule="constant"),
        training=TrainingConfig(
            epochs=arguments.steps * arguments.batch / arguments.train,
            evaluate_every_epochs=999,
            precision="bf16" if precision == "bf16" else "fp32",
        ),
        placement=PlacementConfig(
            use_gpu=not arguments.rehearse, data_cpus_per_worker=arguments.data_cpus, max_failures=0
        ),
    )
    result = launch.fit(config)
    lines = [line for line in read_metrics(result.run_uri) if line["step"] > arguments.steps // 4]
    return len(lines) / sum(1 / line["samples_per_second"] for line in lines)


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, description=__doc__)
    run_job(lambda: main(arguments))
