"""Claim: jobs answer at once and start in seconds; so does the stream, and its driver does not grow with the data set.

- answers: CPU seconds of `--help`, of an option that does not exist and of a value that is none, of every job and each
  of its commands (as its own help names them); of each job the slowest. Goal: at most 1.0.
- first_step: seconds and CPU seconds from the command of the demo's run to the first line of its metrics, of this
  checkout and, with --checkout PATH, of an older one in turn. Goal: at most 0.4 of its seconds.
- start: seconds from nothing but a running Ray (no worker process yet) to the first batch, 1,000 shards of 1 MB. Goal:
  under 6.
- epoch_end: the longest wait for a batch in the superstep around the end of the first epoch, and the longest of all
  others once the stream runs. Goal: no more than 1.5 times that.
- driver: private memory (USS, MB) that the process of the driver gains while it prepares a run over 450 k and over 10 M
  rows, and while it takes 100 batches, as a training worker does. Goal: the same within 32 MB.

Images are noise; of the larger sets only the manifest is large (synthetic: all shards are links to one file).
"""

import io
import json
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow as pa
import tyro

from bench.common import report
from bench.processes import ROOT, Cost, cpu_of, demo_run, jobs_of, run_job, small_faces

IMAGES_A_SHARD, PIXELS, BATCH = 50, 112, 64
NOT_UNDERSTOOD = 2
"""Exit code of a command line that is wrong."""
ANSWER_GOAL_S, FIRST_STEP_GOAL = 1.0, 0.4
START_GOAL_S, PAUSE_GOAL, MEMORY_GOAL_MB = 6.0, 1.5, 32.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How large."""

    shards: int = 1000
    rows: tuple[int, ...] = (450_000, 10_000_000)
    parts: tuple[Literal["answers", "first_step", "stream"], ...] = ("answers", "first_step", "stream")
    checkout: Path | None = None
    """Another checkout to compare the first step with, with an environment of its own in .venv."""
    rounds: int = 2
    """Starts of each checkout; the fastest counts."""
    measure: str | None = None
    """Used by this program itself: measure the data set in this folder, and print what was found."""


def main(arguments: Arguments) -> None:
    """Measure what was asked for; print one JSON line."""
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    found = {name: PARTS[name](arguments) for name in arguments.parts}
    report("start", ok=all(figures.pop("ok") for figures in found.values()), **found)


def answers(_: Arguments) -> dict[str, Any]:
    """CPU seconds of the slowest answers of each job; an answer without the exit code of its kind is a failure."""
    from testing.help_texts import command_lines, wrong_value

    slowest: dict[str, dict[str, float]] = {"help": {}, "wrong_option": {}, "wrong_value": {}}
    counts = dict.fromkeys(slowest, 0)
    for job in jobs_of(ROOT):
        for words, text in command_lines(job):
            more = {"help": ["--help"], "wrong_option": ["--no-such-option", "1"], "wrong_value": wrong_value(text)}
            for kind, last in more.items():
                if last:
                    cpu_s = cpu_of(ROOT, job, *words, *last, expected=0 if kind == "help" else NOT_UNDERSTOOD)
                    slowest[kind][job] = max(cpu_s, slowest[kind].get(job, 0.0))
                    counts[kind] += 1
    ok = max(cpu_s for found in slowest.values() for cpu_s in found.values()) <= ANSWER_GOAL_S
    return {"ok": ok, "command_lines": counts, "slowest_cpu_s": slowest}


def first_step(arguments: Arguments) -> dict[str, Any]:
    """From the command to the first line of metrics, checkouts in turn."""
    checkouts = [ROOT, *([arguments.checkout] if arguments.checkout else [])]
    costs: dict[Path, list[Cost]] = {checkout: [] for checkout in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        dataset = small_faces(folder)
        for n in range(arguments.rounds):
            for place, checkout in enumerate(checkouts):
                name = f"run-{place}-{n}"
                metrics = Path(folder, name, "metrics.jsonl")
                settings = demo_run(dataset, folder, steps=4)
                every_step = ("--name", name, "--training.log-every-steps", "1")
                first, _ = run_job(
                    checkout,
                    "train",
                    *settings,
                    *every_step,
                    until=lambda metrics=metrics: metrics.exists() and metrics.stat().st_size > 0,
                )
                costs[checkout].append(first)
    ours, *theirs = (
        {"wall_s": min(c.wall_s for c in found), "cpu_s": min(c.cpu_s for c in found)} for found in costs.values()
    )
    if not theirs:
        return {"ok": True, **ours}
    ratio = ours["wall_s"] / theirs[0]["wall_s"]
    return {"ok": ratio <= FIRST_STEP_GOAL, **ours, "other": theirs[0], "ratio": ratio}


def stream(arguments: Arguments) -> dict[str, Any]:
    """Measure each data set in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        first = _in_a_process(_dataset(f"{folder}/start", arguments.shards * IMAGES_A_SHARD, IMAGES_A_SHARD))
        sizes = [_in_a_process(_dataset(f"{folder}/{rows}", rows, 7000)) for rows in arguments.rows]
    gains = [size["driver_mb"] + size["worker_mb"] for size in sizes]
    return {
        "ok": first["first_batch_s"] < START_GOAL_S
        and first["epoch_end_s"] <= PAUSE_GOAL * first["elsewhere_s"]
        and max(gains) - min(gains) <= MEMORY_GOAL_MB,
        "start": {"shards": arguments.shards, **first},
        "driver": {str(rows): size for rows, size in zip(arguments.rows, sizes, strict=True)},
    }


PARTS = {"answers": answers, "first_step": first_step, "stream": stream}


def measure(dataset: str) -> dict[str, float]:
    """Times and memory of a stream over one epoch and a little, or over 100 batches of a large set."""
    import ray

    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.stream import pipeline
    from ldlva_dist.stream.plan import Plan

    began = time.monotonic()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray_s, memory = time.monotonic() - began, [_private_mb()]
    began = time.monotonic()
    manifest = pipeline.Manifest(Dataset.open(dataset))
    plan = Plan(manifest.shard_rows, 0, BATCH, _default_chunk_rows())
    plan.positions(0, 1)  # all that the driver asks of the plan: windows are for the tasks
    memory.append(_private_mb())
    epoch = plan.steps_for(1)
    small = epoch < 2000
    supersteps = pipeline.Supersteps(
        plan=plan,
        manifest=manifest,
        images=pipeline.ImageSettings(
            size=PIXELS, channels=3, resize="antialias", flip=True, pad=4, erase_probability=0.5
        ),
        rank=0,
        world_size=1,
        first_step=0,
        stop_step=epoch + 2 * plan.steps_per_superstep if small else 100,
    )
    ends = [time.monotonic() for _ in pipeline.batches(supersteps, num_cpus=2)]
    memory.append(_private_mb())
    waits = np.diff(ends)
    margin = plan.steps_per_superstep
    at_end = np.abs(np.arange(len(waits)) + 1 - epoch) <= margin
    begun = np.arange(len(waits)) >= margin
    ray.shutdown()
    found = {"ray_init_s": ray_s, "first_batch_s": ends[0] - began}
    if small:
        found |= {"epoch_end_s": waits[at_end].max(), "elsewhere_s": waits[begun & ~at_end].max()}
    return found | {"driver_mb": memory[1] - memory[0], "worker_mb": memory[2] - memory[1]}


def _dataset(folder: str, rows: int, rows_per_shard: int) -> str:
    """Make a data set in a process of its own, so that this one's memory stays as it is."""
    code = f"from bench.speed.start import write_dataset; write_dataset({folder!r}, {rows}, {rows_per_shard})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)
    return folder


def write_dataset(folder: str, rows: int, rows_per_shard: int) -> None:
    """A data set whose shards are all the same file of 50 images, about 1 MB."""
    from ldlva_dist.dataset.images import encode_image
    from ldlva_dist.dataset.manifest import DatasetInfo, ShardInfo, SplitInfo, write_info, write_manifest

    Path(folder).mkdir()
    generator = np.random.default_rng(0)
    smooth = generator.integers(0, 256, (IMAGES_A_SHARD, 56, 56, 3), dtype=np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    images = [encode_image(image) for image in smooth]
    num_shards = -(-rows // rows_per_shard)
    names = [f"train-{n:06d}.tar" for n in range(num_shards)]
    offsets = np.array(_write_tar(f"{folder}/{names[0]}", images))
    for name in names[1:]:
        os.link(f"{folder}/{names[0]}", f"{folder}/{name}")
    image_of = np.arange(rows) % rows_per_shard % IMAGES_A_SHARD
    table = {
        "id": np.arange(rows),
        "key": pa.DictionaryArray.from_arrays(image_of.astype(np.int32), [f"{n}" for n in range(IMAGES_A_SHARD)]),
        "shard": (np.arange(rows) // rows_per_shard).astype(np.int32),
        "offset": offsets[image_of],
        "size": np.array([len(image) for image in images], dtype=np.int32)[image_of],
        "checksum": np.array([zlib.crc32(image) for image in images], dtype=np.uint32)[image_of],
        "label": generator.integers(0, 8, rows).astype(np.int16),
        "valence": np.zeros(rows, dtype=np.float32),
        "arousal": np.zeros(rows, dtype=np.float32),
        "split": pa.DictionaryArray.from_arrays(np.zeros(rows, dtype=np.int8), ["train"]),
    }
    write_manifest(folder, pa.table(table))
    sizes = np.diff(np.append(np.arange(num_shards) * rows_per_shard, rows)).tolist()
    shards = [
        ShardInfo(
            name=name, split="train", first_id=n * rows_per_shard, rows=size, bytes=os.path.getsize(f"{folder}/{name}")
        )
        for n, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    split = {name: SplitInfo(first_id=rows, rows=0) for name in ("holdout", "test")}
    info = DatasetInfo(
        name="synthetic",
        class_names=tuple("abcdefgh"),
        splits={"train": SplitInfo(first_id=0, rows=rows), **split},
        shards=tuple(shards),
        has_valence_arousal=True,
        content_hash="0" * 64,
        class_counts={"train": tuple(np.bincount(table["label"], minlength=8).tolist())},
    )
    write_info(folder, info)


def _write_tar(path: str, images: list[bytes]) -> list[int]:
    """Write a WebDataset shard; where each image begins in it."""
    with tarfile.open(path, "w") as tar:
        for n, image in enumerate(images):
            for name, data in ((f"{n}.jpg", image), (f"{n}.json", b"{}")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return [member.offset_data for member in tar if member.name.endswith(".jpg")]


def _in_a_process(dataset: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.speed.start", "--measure", dataset]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return json.loads(done.stdout.splitlines()[-1])


def _default_chunk_rows() -> int:
    from ldlva_dist.config import DataConfig

    return DataConfig().chunk_rows


def _private_mb() -> float:
    return psutil.Process().memory_full_info().uss / 1e6


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
