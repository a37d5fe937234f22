"""Claim: the stream gives at least the samples per CPU second of webdataset's own loader.

The same shards, decode and augmentation (112 px JPEG, flip, crop, erase) on both sides; CPU seconds of all processes
are counted, Ray's own too; ours may use all cores. Goal: at least 1.0 x ``wds.WebLoader(num_workers=0)``.
"""

import logging
import os
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import psutil
import ray
import tyro
from _common import drawn_faces, report
from webdataset.compat import WebDataset, WebLoader

from ldlva_dist.data import stream
from ldlva_dist.data.manifest import read_info
from ldlva_dist.data.plan import Plan
from ldlva_dist.data.transforms import augment, decode, resize

BATCH, PIXELS = 64, 112
IMAGES = stream.ImageSettings(size=PIXELS, channels=3, flip=True, pad=4, erase_probability=0.5)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to stream."""

    train: int = 4096
    epochs: int = 6
    repeats: int = 2


def main(arguments: Arguments) -> None:
    """Measure side by side and print one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = drawn_faces(folder, train=arguments.train, pixels=PIXELS)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        ours_per_cpu, ours_per_wall, loader_per_cpu = [], [], []
        for repeat in range(arguments.repeats + 1):
            ours = our_stream(dataset, arguments.epochs if repeat else 1)
            loader = web_loader(dataset, arguments.epochs if repeat else 1)
            if repeat:  # the first round starts the workers
                ours_per_cpu.append(ours[0])
                ours_per_wall.append(ours[1])
                loader_per_cpu.append(loader)
        ray.shutdown()
    ratio = sum(ours_per_cpu) / sum(loader_per_cpu)
    report(
        "stream",
        ok=ratio >= 1.0,
        ratio=ratio,
        samples_per_cpu_second=ours_per_cpu,
        samples_per_second=ours_per_wall,
        webloader_samples_per_cpu_second=loader_per_cpu,
    )


def our_stream(dataset: str, epochs: int) -> tuple[float, float]:
    """Samples per CPU second, and per second, of whole epochs on one rank."""
    manifest = stream.Manifest(dataset, read_info(dataset))
    plan = Plan(manifest.shard_rows, seed=0, batch_size=BATCH, chunk_rows=256)
    supersteps = stream.Supersteps(
        plan=plan,
        manifest=manifest,
        images=IMAGES,
        rank=0,
        world_size=1,
        first_step=0,
        stop_step=plan.steps_for(epochs),
    )
    cpu, wall = cpu_seconds(), time.monotonic()
    rows = sum(len(batch.ids) for batch in stream.batches(supersteps, num_cpus=os.cpu_count() or 1))
    return rows / (cpu_seconds() - cpu), rows / (time.monotonic() - wall)


def web_loader(dataset: str, epochs: int) -> float:
    """Samples per CPU second of the same work in webdataset's loader."""
    urls = [f"{dataset}/{shard.name}" for shard in read_info(dataset).shards_of("train")]
    pipeline = WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1000).map(_decoded).batched(BATCH)
    cpu, rows = cpu_seconds(), 0
    for epoch in range(epochs):
        for images, ids in WebLoader(pipeline, num_workers=0, batch_size=None):
            rows += len(
                augment(
                    np.asarray(images),
                    seed=0,
                    epochs_b=np.full(len(ids), epoch),
                    ids_b=np.asarray(ids),
                    pad=IMAGES.pad,
                    flip=IMAGES.flip,
                    erase_probability=IMAGES.erase_probability,
                )
            )
    return rows / (cpu_seconds() - cpu)


def _decoded(sample: dict[str, bytes]) -> tuple[np.ndarray, int]:
    data = next(value for name, value in sample.items() if name in ("jpg", "png"))
    return resize(decode(data, 3), PIXELS), hash(sample["__key__"]) & 0xFFFF


def cpu_seconds() -> float:
    """CPU seconds so far of this process and everything it started."""
    total = 0.0
    for process in [psutil.Process(os.getpid()), *psutil.Process(os.getpid()).children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
