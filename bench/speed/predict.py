"""Claim: batch prediction costs little more than the network's own forward.

ResNet-18, 112 px, batches of 64, one actor with one thread: images per CPU second of all processes, Ray's own too, from
the first finished part to the last one. The bare loop has the same network and thread, and decodes the same images from
memory; it runs before and after. What a job costs before its first image is said apart. Goal: at least 0.90.
"""

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
import tyro
from safetensors.torch import save

from bench.common import cluster, report
from ldlva_dist.inference.actors import Actors
from ldlva_dist.inference.batch import predict_images
from ldlva_dist.inference.description import Description
from ldlva_dist.inference.face_model import Portable
from ldlva_dist.inference.inputs import DatasetInputs
from ldlva_dist.inference.parts import PredictionWork
from ldlva_dist.models.backbone import build_backbone
from ldlva_dist.models.classifier import Classifier
from testing.synthetic_run import synthetic_run

PIXELS, BATCH = 112, 64
GOAL = 0.90


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to predict."""

    parts: int = 14
    """The first one is not measured. Ray tells of one up to a part's time late: of few, the speed comes out high."""
    part_rows: int = 512
    bare_rows: int = 768
    repeats: int = 1
    features: bool = False


def main(arguments: Arguments) -> None:
    """Measure side by side and print one JSON line."""
    torch.set_num_threads(1)
    model = network()
    bare, ours, starts = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        rows = arguments.parts * arguments.part_rows
        made = synthetic_run(Path(folder), rows=rows, pool=min(rows, 1024), pixels=PIXELS)
        inputs = DatasetInputs(dataset=made.dataset, split="train")
        with cluster(1):
            bare.append(bare_speed(model, inputs, arguments.bare_rows))
            for repeat in range(arguments.repeats):
                work = PredictionWork(
                    output=f"{folder}/out-{repeat}",
                    inputs=inputs,
                    batch_size=BATCH,
                    features=arguments.features,
                    part_rows=arguments.part_rows,
                )
                speed, start = our_speed(model, work)
                ours.append(speed)
                starts.append(start)
                bare.append(bare_speed(model, inputs, arguments.bare_rows))
    ratio = statistics.harmonic_mean(ours) / statistics.harmonic_mean(bare)
    report(
        "predict",
        ok=ratio >= GOAL,
        ratio=ratio,
        goal=GOAL,
        images_per_cpu_second=ours,
        bare_images_per_cpu_second=bare,
        start_cpu_seconds=starts,
        images=rows,
        features=arguments.features,
    )


def network() -> Portable:
    """ResNet-18 with random weights."""
    torch.manual_seed(0)
    classifier = Classifier(build_backbone("resnet18", width=64, channels=3, stem="imagenet"), 7)
    description = Description(
        name="bench",
        backbone="resnet18",
        width=64,
        stem="imagenet",
        channels=3,
        image_size=PIXELS,
        feature_width=classifier.feature_width,
        class_names=tuple("abcdefg"),
        data={},
        training={},
    )
    return Portable(description=description, weights=save(classifier.state_dict()))


def bare_speed(model: Portable, inputs: DatasetInputs, rows: int) -> float:
    """Images per CPU second of decoding and forward on files in memory, after a first batch."""
    built = model.build()
    files = [
        bytes(image) for block in inputs.blocks(0, rows) for image in block.images if not isinstance(image, Exception)
    ]
    began = 0.0
    for at in range(0, len(files), BATCH):
        if at == BATCH:
            began = time.process_time()
        batch = np.stack([built.prepare(data) for data in files[at : at + BATCH]])
        with torch.inference_mode():
            built.network(torch.from_numpy(batch))
    return (len(files) - BATCH) / (time.process_time() - began)


def our_speed(model: Portable, work: PredictionWork) -> tuple[float, float]:
    """Images per CPU second after the first part, and the CPU seconds that came before the first image."""
    seen: list[tuple[int, float]] = []
    predict_images(
        model,
        work,
        Actors(num_actors=1),
        max_rejected=0,
        progress=lambda done, total: seen.append((done, cpu_seconds())),
    )
    (_, begin), (first, warm), *_, (last, end) = seen
    speed = (last - first) / (end - warm)
    return speed, warm - begin - first / speed


def cpu_seconds() -> float:
    """CPU seconds so far of this process and everything it started that still runs."""
    total = 0.0
    for process in [psutil.Process(os.getpid()), *psutil.Process(os.getpid()).children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
