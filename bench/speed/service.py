"""Claim: a lookup costs little more than moving its bytes, whatever the size of the bank, and trainers share a service.

Synthetic banks in memory, every page of them written. A lookup is one question for the rows of the K neighbours of B
samples, all distinct, from 4 shards: send, wait, put together. Each is paired with one of a bare group of as many Ray
actors that return as many bytes each and do nothing else. B = 256, K = 8, V = 512 fp16, C = 8: 2.1 MB.

- lookup: p50 at most 1.5 x and p99 at most 4 x of the bare group; also with the write of a step in the same calls.
- growth: p50 from N = 10 k to N = 10 M at most 10 % more, in pairs. V = 128, so that 10 M rows take 3.3 GB (V = 512:
  11 GB, ``--growth-width 512``).
- trainers: calls per second of eight trainers on one service, in all, at least 0.9 of one trainer's.

``--sizes 10 90 110 500`` measures instead what the bare group needs for answers of so many kB each. Ray sends answers
of up to ``RAY_max_direct_call_object_size`` bytes (100 kB) in its reply, larger ones through the object store.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
import tyro
from numpy.typing import NDArray

from bench.common import cluster, report
from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.records import STATIC, BankSpec, bytes_per_row
from ldlva_dist.bank.service import NeighborService, start_service
from ldlva_dist.bank.static_rows import ShardRows
from ldlva_dist.messages import BankUpdate

CLASSES, SHARDS, K = 8, 4, 8
OPTIONS = {"num_cpus": 0}
SMALL = 10_000
DRAWN = 400


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to measure."""

    batch_size: int = 256
    width: int = 512
    rows: int = 100_000
    lookups: int = 300
    growth_rows: int = 10_000_000
    growth_width: int = 128
    trainers: int = 8
    trainer_lookups: int = 100
    sizes: tuple[int, ...] = ()
    """kB of an answer."""


class Bare:
    """Returns as many bytes as a shard."""

    def __init__(self, most: int) -> None:
        self._answer = np.ones(most, dtype=np.uint8)

    async def call(self, num_bytes: int) -> NDArray[np.uint8]:
        """The bytes."""
        return self._answer[:num_bytes]


class Trainer:
    """One of several that look up in step, as training ranks do."""

    def __init__(self, service: NeighborService, rank: int, world_size: int, batch_size: int) -> None:
        self._client = client_of(service, rank=rank, world_size=world_size)
        self._samples = Samples(service, batch_size, seed=rank)

    def begin(self) -> None:
        """Of the first rank."""
        self._client.begin(0)

    def look_up(self, lookups: int) -> float:
        """Seconds."""
        turns = look_ups(self._client, self._samples)
        next(turns)
        began = time.monotonic()
        for _ in range(lookups):
            next(turns)
        return time.monotonic() - began


class Samples:
    """Batches of samples whose neighbours are all distinct rows, spread over the whole bank."""

    def __init__(self, service: NeighborService, batch_size: int, seed: int = 0) -> None:
        self._num_rows, self._batch_size = service.bounds[-1], batch_size
        self.width = service.spec.feature_width
        self._random = np.random.default_rng(seed)

    def draw(self) -> NDArray[np.int64]:
        """[B] sample ids."""
        groups = self._num_rows // K
        keys = self._random.choice(groups, self._batch_size, replace=False)
        return keys + groups * self._random.integers(0, K, self._batch_size)


def main(arguments: Arguments) -> None:
    """Measure and print one JSON line."""
    if arguments.sizes:
        with cluster(num_cpus=2):
            report("service_sizes", ok=True, p50_ms=measure_sizes(arguments))
        return
    with cluster(num_cpus=arguments.trainers + 2):
        lookup = measure_lookup(arguments)
        growth = measure_growth(arguments)
        trainers = measure_trainers(arguments)
    report(
        "service",
        ok=lookup["p50_ratio"] <= 1.5
        and lookup["p99_ratio"] <= 4
        and growth["ratio"] <= 1.1
        and trainers["ratio"] >= 0.9,
        lookup=lookup,
        growth=growth,
        trainers=trainers,
    )


def measure_lookup(arguments: Arguments) -> dict[str, Any]:
    """Against the bare group."""
    with bank(arguments.rows, arguments.width) as service:
        num_bytes = arguments.batch_size * K * (service.spec.record.itemsize + STATIC.itemsize) // SHARDS
        bare = bare_group(num_bytes)
        samples = Samples(service, arguments.batch_size)
        plain = look_ups(client_of(service, begin=True), samples)
        ours, theirs = pairs(partial(next, plain), partial(call_bare, bare, num_bytes), arguments.lookups)
        writing = look_ups(client_of(service, begin=True), samples, writes=True)
        with_write, _ = pairs(partial(next, writing), partial(call_bare, bare, num_bytes), arguments.lookups // 3)
        for actor in bare:
            ray.kill(actor)
    p50, p99 = ([float(np.percentile(times, q)) for times in (ours, theirs)] for q in (50, 99))
    return {
        "p50_ratio": p50[0] / p50[1],
        "p99_ratio": p99[0] / p99[1],
        "p50_ms": [1e3 * p for p in p50],
        "p99_ms": [1e3 * p for p in p99],
        "with_write_p50_ms": 1e3 * float(np.median(with_write)),
        "mb": SHARDS * num_bytes / 1e6,
    }


def measure_sizes(arguments: Arguments) -> dict[str, float]:
    """Median milliseconds of a call of the bare group, by kB of each answer; the sizes take turns."""
    bare = bare_group(1000 * max(arguments.sizes))
    times: dict[int, list[float]] = {size: [] for size in arguments.sizes}
    for _ in range(arguments.lookups):
        for size, found in times.items():
            began = time.perf_counter()
            call_bare(bare, 1000 * size)
            found.append(time.perf_counter() - began)
    return {str(size): 1e3 * float(np.median(found[20:])) for size, found in times.items()}


def measure_growth(arguments: Arguments) -> dict[str, Any]:
    """A small and a large bank side by side."""
    spec_bytes = bytes_per_row(spec_of(arguments.growth_width), K)
    with bank(SMALL, arguments.growth_width) as small, bank(arguments.growth_rows, arguments.growth_width) as large:
        turns = [look_ups(client_of(s, begin=True), Samples(s, arguments.batch_size)) for s in (small, large)]
        times = pairs(partial(next, turns[0]), partial(next, turns[1]), arguments.lookups)
    p50 = [float(np.median(t)) for t in times]
    gb = arguments.growth_rows * spec_bytes / 1e9
    return {"ratio": p50[1] / p50[0], "p50_ms": [1e3 * p for p in p50], "width": arguments.growth_width, "gb": gb}


def measure_trainers(arguments: Arguments) -> dict[str, Any]:
    """Calls per second in all, of one trainer and of several, in turns."""
    speeds: dict[int, list[float]] = {1: [], arguments.trainers: []}
    with bank(arguments.rows, arguments.width) as service:
        for _ in range(2):
            for world_size, found in speeds.items():
                each: list[Any] = [
                    ray.remote(Trainer).options(num_cpus=1).remote(service, rank, world_size, arguments.batch_size)
                    for rank in range(world_size)
                ]
                ray.get(each[0].begin.remote(), timeout=60)
                seconds = ray.get([t.look_up.remote(arguments.trainer_lookups) for t in each], timeout=300)
                found.append(world_size * arguments.trainer_lookups / max(seconds))
                for trainer in each:
                    ray.kill(trainer)
    one, many = (float(np.mean(found)) for found in speeds.values())
    return {"ratio": many / one, "calls_per_second": {str(n): found for n, found in speeds.items()}}


def pairs(
    one: Callable[[], Any], other: Callable[[], Any], count: int, warm: int = 20
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds of both, which take turns."""
    times = np.empty((count + warm, 2))
    for row in times:
        for at, call in enumerate((one, other)):
            began = time.perf_counter()
            call()
            row[at] = time.perf_counter() - began
    return times[warm:, 0], times[warm:, 1]


def bare_group(most: int) -> list[Any]:
    """As many actors as shards, for answers of at most so many bytes."""
    return [ray.remote(Bare).options(**OPTIONS).remote(most) for _ in range(SHARDS)]


def call_bare(actors: list[Any], num_bytes: int) -> list[NDArray[np.uint8]]:
    """All answers."""
    return ray.get([actor.call.remote(num_bytes) for actor in actors], timeout=60)


def look_ups(client: NeighborClient, samples: Samples, *, writes: bool = False) -> Iterator[None]:
    """One lookup for each turn; the ids of the next batch are asked for in the same calls, as in training."""
    batches = itertools.cycle([samples.draw() for _ in range(DRAWN)])
    found, step = client.find(0, next(batches)), 0
    random, rows = np.random.default_rng(1), samples.draw() if writes else np.zeros(0, dtype=np.int64)
    positions = np.arange(len(rows), dtype=np.int32)
    probs = random.dirichlet(np.ones(CLASSES), len(rows)).astype(np.float32)
    features = random.normal(size=(len(rows), samples.width)).astype(np.float32)
    while True:
        coming = client.find(step + 1, next(batches))
        lookup = found.ask().collect()
        lookup.write(BankUpdate(step=step, positions=positions, ids=rows, probs=probs, features=features))
        found, step = coming, step + 1
        yield


@contextmanager
def bank(num_rows: int, width: int) -> Iterator[NeighborService]:
    """A synthetic service."""
    bounds = [num_rows * i // SHARDS for i in range(SHARDS + 1)]
    loads = [partial(synthetic_rows, num_rows, bounds[i], bounds[i + 1]) for i in range(SHARDS)]
    service = start_service(f"bench {num_rows} {width}", loads, spec_of(width), OPTIONS)
    try:
        yield service
    finally:
        service.stop()


def spec_of(width: int) -> BankSpec:
    """Labels to begin with, so that every page of the bank is written."""
    return BankSpec(num_classes=CLASSES, feature_width=width, label_smoothing=0.1)


def synthetic_rows(num_rows: int, start: int, stop: int) -> ShardRows:
    """Sample s has the K rows from K (s mod N / K) on, scattered by a step that shares no factor with N."""
    ids = np.arange(start, stop, dtype=np.int64)
    graph = ((ids % (num_rows // K) * K)[:, None] + np.arange(K)) * 7_919_993 % num_rows
    static = np.zeros(len(ids), dtype=STATIC)
    static["label"] = ids % CLASSES
    return ShardRows(start=start, static=static, graph=graph.astype(np.int32))


def client_of(service: NeighborService, *, rank: int = 0, world_size: int = 1, begin: bool = False) -> NeighborClient:
    """A client of an attempt; the first rank begins it."""
    client = NeighborClient(service, rank=rank, world_size=world_size, token=f"of {world_size}", k=K, timeout_s=60)
    if begin:
        client.begin(0)
    return client


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
