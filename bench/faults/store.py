"""Claim: whatever goes wrong between training and its store, no row is lost without an error.

Each run streams a small packed set from a real S3 store (Swift) through a proxy that breaks things, by the ranged reads
that training uses: all rows of the manifest come with the bytes that were packed, or one clear error of ours. Goal:
zero silent losses, and what passes within the limit (here 24 s) is got over.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from botocore.exceptions import BotoCoreError
from numpy.typing import NDArray

from bench.common import drawn_faces, report
from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.shards import read_rows
from ldlva_dist.errors import LdlvaError
from ldlva_dist.storage.s3.client import client
from testing.s3_store import FaultProxy, Swift, use_store

LIMIT_S, OUTAGE_S = 24, 10
READ_THREADS = 4
SLOW_DOWN = {"kind": "status", "status": 503, "code": "SlowDown"}
GOT_OVER = {
    "503 bursts": SLOW_DOWN,
    "429": SLOW_DOWN | {"status": 429, "code": "TooManyRequests"},
    "reset": {"kind": "reset"},
    "truncated at 10 %": {"kind": "truncate", "share": 0.1},
    "truncated at 50 %": {"kind": "truncate", "share": 0.5},
    "truncated at 90 %": {"kind": "truncate", "share": 0.9},
    "stall": {"kind": "stall", "seconds": LIMIT_S / 6 + 2},
    "slow": {"kind": "slow", "bytes_per_s": 40_000},
    "latency": {"kind": "latency", "seconds": 1.0},
    "server killed": {},
}
TOLD = {
    "bit flip": {"kind": "bitflip"},
    "expired credentials": {"kind": "status", "status": 400, "code": "ExpiredToken", "times": -1},
    "wrong credentials": {},
    "wrong bucket": {},
    "endpoint not resolved": {},
}
KINDS = list(GOT_OVER | TOLD)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How many runs; run i has kind i modulo the number of kinds, and is seeded by i."""

    runs: int = 2 * len(KINDS)
    first: int = 0
    dataset: str | None = None
    """A packed data set on this machine; drawn where there is none."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one shard, with their images as they were packed."""

    shard: str
    place: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    """offset, size and checksum of each."""
    images: list[bytes]


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    right: int
    """Rows with the bytes that were packed."""
    wrong: int
    error: str | None
    ours: bool
    """Whether the error is one of ours."""
    seconds: float


def main(arguments: Arguments) -> None:
    """Break things, count rows and print one JSON line."""
    began = time.monotonic()
    outcomes: dict[str, list[Outcome]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        dataset = arguments.dataset or drawn_faces(folder, train=192, pixels=112)
        chunks = list(read_chunks(Dataset.open(dataset)))
        with Swift(Path(folder, "swift")) as swift, FaultProxy(swift, Path(folder, "log")) as proxy:
            use_store(proxy.endpoint, LDLVA_S3_LIMIT_S=str(LIMIT_S))
            client().create_bucket(Bucket="faces")
            for shard in {chunk.shard for chunk in chunks}:
                storage.upload(f"{dataset}/{shard}", f"s3://faces/{shard}")
            for seed in range(arguments.first, arguments.first + arguments.runs):
                kind = KINDS[seed % len(KINDS)]
                outcomes[kind].append(run(kind, np.random.default_rng(seed), chunks, swift, proxy))
    rows = sum(len(chunk.images) for chunk in chunks)
    every = [(kind, outcome) for kind in KINDS for outcome in outcomes[kind]]
    whole = [outcome.error is None and outcome.right == rows for _, outcome in every]
    silent = [kind for (kind, outcome), all_right in zip(every, whole, strict=True) if not (all_right or outcome.error)]
    strange = [f"{kind}: {outcome.error}" for kind, outcome in every if outcome.error and not outcome.ours]
    lost = [f"{kind}: {outcome.error}" for kind, outcome in every if outcome.error and kind in GOT_OVER]
    wrong = sum(outcome.wrong for _, outcome in every)
    report(
        "storage_faults",
        ok=not (silent or strange or lost or wrong),
        runs=len(every),
        rows_per_run=rows,
        silent_losses=len(silent),
        wrong_rows=wrong,
        complete=sum(whole),
        clear_errors=sum(outcome.ours for _, outcome in every),
        not_got_over=lost,
        strange_errors=strange,
        complete_of_runs={
            kind: [sum(outcome.error is None for outcome in ended), len(ended)] for kind, ended in outcomes.items()
        },
        longest_s=max(outcome.seconds for _, outcome in every),
        seconds=time.monotonic() - began,
    )


def read_chunks(dataset: Dataset) -> Iterator[Chunk]:
    """The training rows by shard, with their bytes, from the disk."""
    for shard in dataset.info.shards_of("train"):
        table = dataset.columns(["offset", "size", "checksum"], first_id=shard.first_id, rows=shard.rows)
        offsets, sizes, checksums = (table[name].to_numpy().astype(np.int64) for name in table.column_names)
        data = Path(dataset.uri, shard.name).read_bytes()
        images = [data[a : a + n] for a, n in zip(offsets.tolist(), sizes.tolist(), strict=True)]
        yield Chunk(shard.name, (offsets, sizes, checksums), images)


def run(kind: str, generator: np.random.Generator, chunks: list[Chunk], swift: Swift, proxy: FaultProxy) -> Outcome:
    """Stream every row once while something is broken."""
    bucket = "nowhere" if kind == "wrong bucket" else "faces"
    struck = generator.choice(len(chunks), size=int(generator.integers(1, 5)), replace=False)
    proxy.set(*faults(kind, generator, [chunks[i].shard for i in struck]))
    right, wrong, error, ours = 0, 0, None, False
    began = time.monotonic()

    def read(i: int) -> list[memoryview]:
        return read_rows(f"s3://{bucket}/{chunks[i].shard}", *chunks[i].place)

    with broken_environment(kind), outage(swift if kind == "server killed" else None, generator):
        order = generator.permutation(len(chunks)).tolist()
        try:
            with ThreadPoolExecutor(READ_THREADS) as pool:
                for i, images in zip(order, pool.map(read, order), strict=True):
                    same = [bytes(image) == packed for image, packed in zip(images, chunks[i].images, strict=True)]
                    right, wrong = right + sum(same), wrong + same.count(False)
        except LdlvaError as caught:
            error, ours = f"{type(caught).__name__}: {caught}", True
        except (OSError, RuntimeError, ValueError, BotoCoreError) as caught:
            error = f"{type(caught).__name__}: {caught}"
    proxy.set()
    return Outcome(right, wrong, error, ours, time.monotonic() - began)


def faults(kind: str, generator: np.random.Generator, shards: list[str]) -> list[dict[str, Any]]:
    """The proxy's faults of a run, one for each of the shards."""
    fault = (GOT_OVER | TOLD)[kind]
    if not fault:
        return []
    return [
        {"path": shard, "times": int(generator.integers(1, 4)) if "burst" in kind else 1}
        | {"share": float(generator.random())}
        | fault
        for shard in shards
    ]


@contextmanager
def broken_environment(kind: str) -> Iterator[None]:
    """Credentials or an endpoint that are wrong, for the time of a run."""
    broken = {
        "wrong credentials": {"AWS_SECRET_ACCESS_KEY": "wrong"},
        "endpoint not resolved": {"AWS_ENDPOINT_URL": "http://store.invalid"},
    }.get(kind, {})
    kept = {name: os.environ[name] for name in broken}
    os.environ.update(broken)
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def outage(swift: Swift | None, generator: np.random.Generator) -> Iterator[None]:
    """Kill the store within a second, and start it again 10 s later."""
    if swift is None:
        yield
        return
    kill = threading.Timer(float(generator.random()) * 0.2, swift.kill)
    kill.start()
    start = threading.Timer(OUTAGE_S, swift.start)
    start.start()
    try:
        yield
    finally:
        kill.join()
        start.join()


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
