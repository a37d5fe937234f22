"""Claim: the stream gives more samples per CPU second than other ways to read the same shards.

The same shards, decode and augmentation (112 px JPEG, flip, crop, erase) everywhere; CPU seconds of all processes are
counted, Ray's own too; ours and Ray's may use all cores. Goals: at least 1.1 x ``wds.WebLoader(num_workers=0)``, 1.0 x
a plain tarfile loop and 2 x ``ray.data.read_webdataset`` with ``map_batches``. With ``--s3`` also our stream from an S3
store (Swift) on this machine, at least 0.9 x that from the disk; the store's own CPU seconds are not counted.
"""

import logging
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import tyro
from numpy.typing import NDArray
from ray.data import DataContext
from webdataset.compat import WebDataset, WebLoader

from bench.common import drawn_faces, report
from ldlva_dist import storage
from ldlva_dist.config import DataConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import augment
from ldlva_dist.messages import Batch
from ldlva_dist.storage.s3.client import client
from ldlva_dist.stream import pipeline as stream
from ldlva_dist.stream.plan import Plan
from testing.s3_store import Swift, use_store

BATCH, PIXELS = 64, 112
IMAGES = stream.ImageSettings(size=PIXELS, channels=3, resize="antialias", flip=True, pad=4, erase_probability=0.5)
GOALS = {"webloader": 1.1, "tarfile": 1.0, "read_webdataset": 2.0, "s3": 0.9}
Images = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to stream."""

    train: int = 4096
    epochs: int = 6
    repeats: int = 2
    s3: bool = False


def main(arguments: Arguments) -> None:
    """Measure side by side and print one JSON line."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        dataset = drawn_faces(folder, train=arguments.train, pixels=PIXELS)
        shards = [f"{dataset}/{shard.name}" for shard in Dataset.open(dataset).info.shards_of("train")]
        readers: dict[str, Callable[[int], Iterator[int]]] = {
            "ours": partial(our_stream, dataset),
            "webloader": partial(web_loader, shards),
            "tarfile": partial(tarfile_loop, shards),
            "read_webdataset": partial(read_webdataset, shards),
        }
        others = set()
        if arguments.s3:
            swift = stack.enter_context(Swift(Path(folder, "swift")))
            others.add(swift.pid)
            readers["s3"] = partial(our_stream, upload(dataset, swift.endpoint))
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        stack.callback(ray.shutdown)
        per_cpu: dict[str, list[float]] = {name: [] for name in readers}
        per_wall: dict[str, list[float]] = {name: [] for name in readers}
        for repeat in range(arguments.repeats + 1):
            for name, reader in readers.items():
                epochs = arguments.epochs if repeat else 1
                cpu, wall = cpu_seconds(others), time.monotonic()
                rows = sum(reader(epochs))
                assert rows >= epochs * arguments.train - BATCH, f"{name} gave {rows} rows"
                if repeat:  # the first round starts the workers
                    per_cpu[name].append(rows / (cpu_seconds(others) - cpu))
                    per_wall[name].append(rows / (time.monotonic() - wall))
    ours = sum(per_cpu["ours"])
    ratios = {name: ours / sum(speed) for name, speed in per_cpu.items() if name in GOALS}
    if "s3" in ratios:
        ratios["s3"] = 1 / ratios["s3"]
    report(
        "stream",
        ok=all(ratio >= GOALS[name] for name, ratio in ratios.items()),
        ratio=ratios,
        goal={name: GOALS[name] for name in ratios},
        samples_per_cpu_second=per_cpu,
        samples_per_second=per_wall,
    )


def upload(dataset: str, endpoint: str) -> str:
    """The data set in a bucket of the store."""
    use_store(endpoint)
    client().create_bucket(Bucket="faces")
    for path in Path(dataset).iterdir():
        if path.is_file():
            storage.upload(str(path), f"s3://faces/set/{path.name}")
    return "s3://faces/set"


def our_batches(dataset: str, images: stream.ImageSettings, epochs: int) -> tuple[Plan, Iterator[Batch]]:
    """The plan of whole epochs, and what one rank gets by it."""
    manifest = stream.Manifest(Dataset.open(dataset))
    plan = Plan(manifest.shard_rows, seed=0, batch_size=BATCH, chunk_rows=DataConfig().chunk_rows)
    supersteps = stream.Supersteps(
        plan=plan,
        manifest=manifest,
        images=images,
        rank=0,
        world_size=1,
        first_step=0,
        stop_step=plan.steps_for(epochs),
    )
    return plan, stream.batches(supersteps, num_cpus=len(os.sched_getaffinity(0)))


def our_stream(dataset: str, epochs: int) -> Iterator[int]:
    """Whole epochs on one rank; yields the rows of each batch, as all readers here do."""
    yield from (len(batch.ids) for batch in our_batches(dataset, IMAGES, epochs)[1])


def web_loader(shards: list[str], epochs: int) -> Iterator[int]:
    """Webdataset's own loader."""
    pipeline = WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000).map(_of_sample).batched(BATCH)
    for epoch in range(epochs):
        for images, keys in WebLoader(pipeline, num_workers=0, batch_size=None):
            yield len(augmented(np.asarray(images), keys, epoch))  # the loader makes tensors of arrays


def tarfile_loop(shards: list[str], epochs: int) -> Iterator[int]:
    """What one writes without a library; members come in pairs, the image first."""
    generator = np.random.default_rng(0)
    for epoch in range(epochs):
        waiting: list[tuple[Images, str]] = []
        for shard in generator.permutation(shards).tolist():
            with tarfile.open(shard) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    if file is None or member.name.endswith(".json"):
                        continue
                    waiting.append((IMAGES.read(file.read()), member.name))
                    if len(waiting) == BATCH:
                        yield len(augmented([image for image, _ in waiting], [key for _, key in waiting], epoch))
                        waiting = []


def read_webdataset(shards: list[str], epochs: int) -> Iterator[int]:
    """Ray Data's own reader."""
    DataContext.get_current().enable_progress_bars = False
    context = DataContext.get_current()
    context.target_max_block_size, context.custom_execution_callback_classes = 128 << 20, []
    for epoch in range(epochs):
        dataset = ray.data.read_webdataset(shards, suffixes=["jpg"], decoder=None, shuffle="files")
        batches = dataset.map_batches(partial(_of_columns, epoch=epoch), batch_size=BATCH, batch_format="numpy")
        yield from (len(batch["image"]) for batch in batches.iter_batches(batch_size=BATCH, batch_format="numpy"))


def augmented(images: Iterable[Images], keys: Iterable[str], epoch: int) -> Images:
    """[b, size, size, 3] a batch as a training would take it."""
    ids = np.array([hash(key) & 0xFFFF for key in keys])
    return augment(
        images,
        seed=0,
        epochs_b=np.full(len(ids), epoch),
        ids_b=ids,
        pad=IMAGES.pad,
        flip=IMAGES.flip,
        erase_probability=IMAGES.erase_probability,
    )


def _of_sample(sample: dict[str, bytes]) -> tuple[Images, str]:
    return IMAGES.read(sample["jpg"]), str(sample["__key__"])


def _of_columns(columns: Any, epoch: int) -> dict[str, Images]:
    images = [IMAGES.read(data) for data in columns["jpg"]]
    return {"image": augmented(images, columns["__key__"], epoch)}


def cpu_seconds(others: set[int]) -> float:
    """CPU seconds so far of this process and everything it started, but for ``others``."""
    total = 0.0
    for process in [psutil.Process(os.getpid()), *psutil.Process(os.getpid()).children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        if process.pid not in others:
            total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
