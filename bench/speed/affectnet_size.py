"""Claim: a set of AffectNet's size goes through every job on a laptop, and what it costs grows with it as told.

Drawn faces (112 px as JPEG in Parquet) through the project's own jobs, each in a process of its own: pack, graph, one
epoch (demo's network at 48 px, two workers), evaluate, report, predict. Of each: seconds, CPU seconds and peak memory
by kind of process, sampled (what a process used after the last look is lost). Memory is USS: pages that no other
process holds at the time, so that pages of the object store that several read do not count, nor those that a forked
worker has not written to since the fork.
Two sizes are measured; for each stage a line through both (never one that falls) says what 10 M and 100 M rows would
cost. Faces are painted once, 512 of them, and shown again with other light, place and mirror: painting takes some
14 ms each at 112 px, which would be most of the time; the seconds of the drawing are told apart.

``--full`` measures 45,000 and 450,000 rows, the short run 2,000 and 4,000. Each stage is printed as it ends.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import tyro
from pyarrow import parquet

from bench.common import report
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.packing.sources.drawn_faces.faces import draw_faces, draw_people
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES

PIXELS, POOL, FILE_ROWS = 112, 512, 5_000
SHORT, FULL = (2_000, 4_000), (45_000, 450_000)
TARGETS = 10_000_000, 100_000_000
TEST_SHARE = 0.01
LOOK_EVERY_S, STAGE_LIMIT_S = 0.25, 3000.0
KINDS = {
    "raylet": "raylet",
    "gcs_server": "gcs",
    "ray::BankShard": "bank",
    "ray::IndexShard": "index",
    "ray::RayTrainWorker": "trainer",
    "ray::MapBatches": "stream task",
    "ray::": "other tasks and actors",
}
"""Kind of process by what its command line holds; the first that fits."""
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to measure."""

    rows: tuple[int, ...] = SHORT
    """Sizes, ascending."""
    full: bool = False
    """Measure 45,000 and 450,000 rows."""
    folder: str | None = None
    """Folder to work in, kept: faces that were drawn there are not drawn again; a temporary one if not given."""


class Usage:
    """What a command and all that it starts use, by kind of process."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._used: dict[tuple[int, float], float] = {}
        self.cpu_s: dict[str, float] = defaultdict(float)
        """CPU seconds; a worker may change its kind, and what it used between two looks counts for the latter's."""
        self.peak_mb: dict[str, float] = defaultdict(float)

    def look(self) -> None:
        """Look once."""
        memory: dict[str, float] = defaultdict(float)
        for one in [self._process, *self._children()]:
            with suppress(psutil.Error):
                kind = self._kind(one)
                times, this = one.cpu_times(), (one.pid, one.create_time())
                used = times.user + times.system
                self.cpu_s[kind] += used - self._used.get(this, 0.0)
                self._used[this] = used
                memory[kind] += one.memory_full_info().uss / 2**20
        for kind, size in [*memory.items(), ("all", sum(memory.values()))]:
            self.peak_mb[kind] = max(self.peak_mb[kind], size)

    def _children(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return self._process.children(recursive=True)
        return []

    def _kind(self, one: psutil.Process) -> str:
        if one.pid == self._process.pid:
            return "driver"
        line = " ".join(one.cmdline())
        return next((kind for part, kind in KINDS.items() if part in line), "others")


def main(arguments: Arguments) -> None:
    """Measure each size, stage by stage; print one JSON line."""
    sizes = FULL if arguments.full else arguments.rows
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        measured = {rows: measure(folder / str(rows), rows) for rows in sizes}
    report(
        "affectnet_size",
        ok=all(stage["exit"] == 0 for stages in measured.values() for stage in stages.values()),
        measured={str(rows): stages for rows, stages in measured.items()},
        fitted="a + b * rows through the smallest and the largest size, b >= 0",
        expected={f"{rows / 1e6:g} M": grown(measured, rows) for rows in TARGETS},
    )


def measure(folder: Path, rows: int) -> dict[str, dict[str, Any]]:
    """What each stage used."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    draw(folder / "originals", rows)
    print(f"{rows} rows, drawn in {time.monotonic() - began:.1f} s by two processes", flush=True)
    stages: dict[str, dict[str, Any]] = {}
    for name, command in jobs(folder):
        stages[name] = run_stage(command, folder / f"{name}.log")
        print(f"{rows} rows, {name}: {stages[name]}", flush=True)
        if stages[name]["exit"]:
            print((folder / f"{name}.log").read_text()[-2000:], flush=True)
            break
    return stages


def jobs(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and command line of each stage."""
    dataset, run = str(folder / "set"), str(folder / "runs" / "epoch")
    originals = ["--train", str(folder / "originals" / "train"), "--test", str(folder / "originals" / "test")]
    classes = ["--classes", *REFERENCE_CLASSES]
    columns = ["--label-column", "label", "--valence-column", "valence", "--arousal-column", "arousal"]
    yield "pack", ["make_shards", "parquet", "--output", dataset, *originals, *classes, *columns]
    yield "graph", ["build_index", "--dataset", dataset]
    place = ["--storage-path", str(folder / "runs"), "--name", "epoch", "--data.dataset", dataset]
    epoch = ["--training.epochs", "1", "--training.evaluate-every-epochs", "1", "--loss.warmup-epochs", "0.1"]
    yield "train", ["train", "demo", *place, *epoch]
    yield "evaluate", ["evaluate", "--run", run]
    yield "report", ["report", "--run", run]
    predicted = ["--model", run, "--output", str(folder / "predicted"), "--dataset", dataset]
    yield "predict", ["predict", "dataset", *predicted, "--split", "train"]


def run_stage(command: Sequence[str], log: Path) -> dict[str, Any]:
    """Run a job to its end; seconds, CPU seconds and peak memory by kind of process."""
    environment = os.environ | {"RAY_worker_niceness": "0", "PYTHONUNBUFFERED": "1"}
    began = time.monotonic()
    with log.open("w") as output:
        line = [sys.executable, f"jobs/{command[0]}.py", *command[1:]]
        process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        usage = Usage(psutil.Process(process.pid))
        while process.poll() is None:
            usage.look()
            if time.monotonic() - began > STAGE_LIMIT_S:
                process.terminate()
            time.sleep(LOOK_EVERY_S)
    cpu_s = usage.cpu_s
    return {
        "exit": process.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_s": {kind: round(used, 1) for kind, used in (cpu_s | {"all": sum(cpu_s.values())}).items()},
        "peak_mb": {kind: round(size) for kind, size in usage.peak_mb.items()},
    }


def grown(measured: dict[int, dict[str, dict[str, Any]]], rows: int) -> dict[str, dict[str, float]]:
    """Seconds, CPU seconds and peak MB that each stage would take for that many rows."""
    small, large = min(measured), max(measured)
    found = {}
    for name in measured[large].keys() & measured[small].keys():
        low, high = figures(measured[small][name]), figures(measured[large][name])
        per_row = {key: max(0.0, (high[key] - low[key]) / max(1, large - small)) for key in high}
        found[name] = {key: high[key] + per_row[key] * (rows - large) for key in high}
    return found


def figures(stage: dict[str, Any]) -> dict[str, float]:
    """What is fitted of a stage."""
    return {"seconds": stage["seconds"], "cpu_s": stage["cpu_s"]["all"], "peak_mb": stage["peak_mb"]["all"]}


def draw(folder: Path, rows: int) -> None:
    """Write Parquet files of drawn faces, by two processes; a folder that is there is whole, and is taken."""
    if folder.exists():
        return
    unfinished = folder.with_name("unfinished")
    test = max(200, round(TEST_SHARE * rows))
    tasks = [
        (str(unfinished / part / f"{begin:09d}.parquet"), seed, min(FILE_ROWS, total - begin))
        for seed, (part, total) in enumerate((("train", rows), ("test", test)))
        for begin in range(0, total, FILE_ROWS)
    ]
    for part in ("train", "test"):
        (unfinished / part).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2) as processes:
        list(processes.map(write_faces, tasks))
    unfinished.rename(folder)


def write_faces(task: tuple[str, int, int]) -> None:
    """Write one file; its rows follow from its name."""
    file, seed, rows = task
    people, faces = pool()
    generator = np.random.default_rng((seed, int(Path(file).stem)))
    of_pool = generator.integers(0, len(faces), rows)
    images = [encode_image(varied(faces[face], generator)) for face in of_pool]
    va = np.clip(people.va[of_pool] + generator.normal(0, 0.06, (rows, 2)), -1, 1).astype(np.float32)
    names = np.array(REFERENCE_CLASSES)[people.labels[of_pool]]
    table = pa.table({"image": images, "label": names, "valence": va[:, 0], "arousal": va[:, 1]})
    parquet.write_table(table, file)


@lru_cache(1)
def pool() -> tuple[Any, np.ndarray]:
    """People and their faces, the same in every process."""
    generator = np.random.default_rng(0)
    people = draw_people(POOL, generator, 0.3)
    return people, np.concatenate(
        [draw_faces(people.distribution[at : at + 256], generator, PIXELS) for at in range(0, len(people.labels), 256)]
    )


def varied(face: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The face in other light, at another place, perhaps mirrored."""
    moved = np.roll(face, generator.integers(-4, 5, 2), axis=(0, 1))
    light = np.clip(np.arange(256) * generator.uniform(0.7, 1.3), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(light[moved[:, ::-1] if generator.random() < 0.5 else moved])


if __name__ == "__main__":
    main(tyro.cli(Arguments))
