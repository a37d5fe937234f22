"""What the benchmarks share: a drawn data set, and the one JSON line each prints last."""

import json
import logging
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import write_info
from ldlva_dist.dataset.manifest_blocks import ContentHash, Tally
from ldlva_dist.index.graph import build_graph
from ldlva_dist.packing.passes.pack import pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES


def drawn_faces(folder: str, *, train: int, pixels: int, test: int = 0, flip_share: float = 0.3, seed: int = 0) -> str:
    """Pack drawn faces, all of ``train`` for training, and build their graph; the data set's folder."""
    output = f"{folder}/faces"
    source = FacesSource(train=train, test=test, pixels=pixels, flip_share=flip_share, seed=seed)
    with cluster():
        pack(source, output, PackSettings(name="bench", class_names=REFERENCE_CLASSES, holdout=0.0, seed=seed))
    build_graph(Dataset.open(output))
    return output


@contextmanager
def cluster(num_cpus: int | None = None) -> Iterator[None]:
    """The cluster that runs already, or a local one for the time being."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        address="local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        yield
    finally:
        ray.shutdown()


def report(name: str, *, ok: bool, **figures: Any) -> None:
    """Print the result: the last line of every benchmark."""
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"name": name, "ok": ok, **_rounded(figures), "machine": machine}), flush=True)


def seal(uri: str) -> None:
    """Say in a written data set's ``dataset.json`` what its manifest holds: class counts and content hash."""
    dataset = Dataset.open(uri)
    info = dataset.info
    digest, tally = ContentHash(info.class_names, info.va_transform), Tally(info.class_names)
    for block in dataset.blocks():
        digest.update(block)
        tally.add(block)
    write_info(uri, replace(info, content_hash=digest.hexdigest(), class_counts=tally.class_counts()))


def mean_and_error(values: Sequence[float]) -> list[float]:
    """Mean, and the standard error of it; 0 for a single value."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return [statistics.mean(values), error]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
