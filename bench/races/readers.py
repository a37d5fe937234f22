"""Claim: JPEG files become batches for less CPU than by the best of litdata, spdl, webdataset and grain.

The same files, drawn faces with the sampling of cameras (4:2:0, quality 90), as originals of 448 px and as 112 px;
every reader gives shuffled batches of 64 at 112 px, decodes with simplejpeg at the smallest scale that covers it and
augments nothing. CPU seconds an image of whole epochs, after one that does not count, in turn. Ours and webdataset read
the packed shards, litdata chunks of its own, spdl and grain the files; packing is not counted. Others work in one
process, with one and with two threads where they have any; ours is all processes of the stream, Ray's own too. All have
one and the same core: two that are busy at once take more CPU seconds for the same work.

Each reader has an environment of its own in .venv-rivals, which the first run makes in some minutes; later ones take
two and a half. One that cannot be installed, or fails, is named in the result, and the claim does not hold. Of ours
order and exactly-once are held against the plan, of others that every file comes once an epoch, and of all that their
pixels are the same.
Goal: at least 1.0 x the best of them, at both sizes.
"""

import json
import logging
import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import simplejpeg
import tyro

from bench.common import report
from bench.processes import ROOT
from bench.races.environments import environments, failure, said
from bench.speed.affectnet_size import varied
from bench.speed.stream import cpu_seconds, our_batches
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.drawn_faces.faces import draw_faces, draw_people
from ldlva_dist.packing.sources.readers.class_folders import ClassFoldersSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES
from ldlva_dist.stream import pipeline as stream
from testing.exactly_once import assert_exactly_once
from testing.local_packing import pack_here

PIXELS, POOL, GOAL = 112, 32, 1.0
SIDES = 448, 112
IMAGES = stream.ImageSettings(size=PIXELS, channels=3, resize="antialias", flip=False, pad=0, erase_probability=0.0)
DECODERS = "numpy", "simplejpeg", "pillow"
NEEDS = {"litdata": ("torch", *DECODERS), "spdl": DECODERS, "webdataset": DECODERS, "grain": DECODERS}
"""Packages, and what is installed before them: litdata takes the torch that is there, a CPU's."""
WAYS = {"spdl": ("spdl", "spdl, 2 threads"), "grain": ("grain", "grain, 2 threads")}
"""Ways to use a package; the best of them counts."""
RIVAL = ROOT / "bench" / "races" / "reader_epochs.py"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to read."""

    files: dict[int, int] | None = None
    """Of each side in pixels; 1,024 of 448 and 4,096 of 112 if not given."""
    epochs: dict[int, int] | None = None
    """That count, at least 3; 6 and 4 if not given."""
    rounds: int = 1


def main(arguments: Arguments) -> None:
    """Measure side by side and print one JSON line."""
    files, epochs = arguments.files or {448: 1024, 112: 4096}, arguments.epochs or {448: 6, 112: 4}
    pythons, missing = environments(NEEDS)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for side in SIDES:
            folder = Path(temporary, str(side))
            draw(folder, side, files[side])
            figures[f"{side} px"] = race(folder, epochs[side], arguments.rounds, pythons, missing)
    ray.shutdown()
    ok = not missing and all(found["ratio"] >= GOAL for found in figures.values())
    report("race_of_readers", ok=ok, goal=GOAL, missing=missing, **figures)


def draw(folder: Path, side: int, count: int) -> None:
    """Write JPEG files into folders of their classes, and pack them."""
    generator = np.random.default_rng(side)
    people = draw_people(POOL, generator, 0.0)
    faces = draw_faces(people.distribution, generator, side)
    for number in range(count):
        path = folder / "originals" / REFERENCE_CLASSES[people.labels[number % POOL]] / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = varied(faces[number % POOL], generator)
        path.write_bytes(simplejpeg.encode_jpeg(pixels, quality=90, colorsubsampling="420"))
    source = ClassFoldersSource(folders={"train": str(folder / "originals")}, seed=0)
    pack_here(source, folder / "set", PackSettings(name="race", class_names=REFERENCE_CLASSES, holdout=0.0, seed=0))


def race(folder: Path, epochs: int, rounds: int, pythons: dict[str, Path], missing: dict[str, str]) -> dict[str, Any]:
    """CPU and wall milliseconds an image of each reader; one that fails is added to those that are missing."""
    ms: dict[str, list[float]] = defaultdict(list)
    wall_ms: dict[str, list[float]] = defaultdict(list)
    pixels = {path.stem: int(IMAGES.read(path.read_bytes()).sum()) for path in folder.glob("originals/*/*.jpg")}
    for package, python in pythons.items():
        if why := failure([str(python), str(RIVAL), package, str(folder), "--prepare"]):
            missing[package] = f"cannot prepare: {why}"
    for _ in range(rounds):
        found = {"ours": our_epochs(folder / "set", epochs, pixels)}
        for package in sorted(pythons.keys() - missing.keys()):
            for way in WAYS.get(package, (package,)):
                command = [str(pythons[package]), str(RIVAL), way, str(folder), "--epochs", str(epochs)]
                output, why = said(command)
                if why:
                    missing[package] = f"fails: {why}"
                    break
                found[way] = json.loads(output.splitlines()[-1])
        for way, figures in found.items():
            assert figures["exactly_once"], f"{way} leaves files out, or gives them twice"
            assert figures["sums"].items() <= pixels.items(), f"{way} gives other pixels"
            ms[way].append(1000 * figures["cpu_s"] / figures["rows"])
            wall_ms[way].append(1000 * figures["wall_s"] / figures["rows"])
    best = min((way for way in ms if way != "ours"), key=lambda way: statistics.mean(ms[way]), default=None)
    ratio = statistics.mean(ms[best]) / statistics.mean(ms["ours"]) if best else 0.0
    return {"ratio": ratio, "best": best, "cpu_ms": ms, "wall_ms": wall_ms}


def our_epochs(dataset: Path, epochs: int, pixels: dict[str, int]) -> dict[str, Any]:
    """The same figures of our stream; AssertionError where an order is not the plan's, or a row not there once."""
    keys = Dataset.open(str(dataset)).columns(["key"], rows=len(pixels))["key"].to_pylist()
    sums = {}
    for batch in our_batches(str(dataset), IMAGES, 1)[1]:
        sums |= {
            keys[id_].rpartition("_")[2]: int(image.sum()) for id_, image in zip(batch.ids, batch.images, strict=True)
        }
    plan, batches = our_batches(str(dataset), IMAGES, epochs)
    log: dict[str, list[Any]] = {"step": [], "position": [], "id": []}
    cpu_s, began = cpu_seconds(set()), time.monotonic()
    for batch in batches:
        log["step"].append(np.full(len(batch.ids), batch.step))
        log["position"].append(batch.positions)
        log["id"].append(batch.ids)
    cpu_s, wall_s = cpu_seconds(set()) - cpu_s, time.monotonic() - began
    table = pa.table({name: np.concatenate(parts) for name, parts in log.items()})
    assert_exactly_once(table, plan, plan.steps_for(epochs))
    return {"rows": len(table), "cpu_s": cpu_s, "wall_s": wall_s, "exactly_once": True, "sums": sums}


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
