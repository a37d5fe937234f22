"""Claim: a bank on the workers' devices takes no calls to actors, and about as many bytes, and costs less CPU.

Counted, without a cluster, for 2 to 64 ranks: what one step says to the bank, by both places. ``actors`` are calls of
every rank to every shard, with what their messages hold. ``workers`` are messages of ids over gloo, and all-to-alls of
records between the devices. The way of the step's rows is the uncertainty table's too, and is counted for neither. B =
256 a rank, K = 8, V = 2048 fp16, C = 8, 4 shards; ids are drawn over the whole bank.

Timed, for 2 and 4 ranks, in turns: seconds of a step that does nothing else, and CPU seconds of all processes. With
actors the messages of real steps travel while the network learns; here there is nothing to hide them behind, so the
CPU seconds are what compares. What the ranks really sent is held against what was counted.

    python -m bench.speed.bank_place            # 2 minutes on two cores; --no-timed counts alone, in a second
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import psutil
import ray
import tyro
from numpy.typing import NDArray

from bench.common import cluster, report
from bench.speed.service import CLASSES, SHARDS, K, client_of, spec_of, synthetic_rows
from ldlva_dist.bank.on_workers.record_tensors import row_bytes
from ldlva_dist.bank.records import STATIC, BankSpec, Write
from ldlva_dist.bank.service import NeighborService, start_service
from ldlva_dist.bank.wire import HELD, BankCall
from ldlva_dist.messages import BankUpdate

LIMIT_S = 600.0
PLACES = "actors", "workers"
MOST_BYTES = 1.05
"""Times the actors': each neighbour's row travels once for each row beside which it stands."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to measure."""

    batch: int = 256
    """Rows of each rank."""
    width: int = 2048
    rows: int = 32_768
    ranks: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    timed: bool = True
    timed_ranks: tuple[int, ...] = (2, 4)
    steps: int = 60
    warmup: int = 10
    rounds: int = 3


def main(arguments: Arguments) -> None:
    """Print one JSON line."""
    counted = {
        ranks: {"actors": count_actors(arguments, ranks), "workers": count_workers(arguments, ranks)}
        for ranks in arguments.ranks
    }
    timed = measure(arguments) if arguments.timed else {}
    ok = all(both["workers"]["bytes"] <= MOST_BYTES * both["actors"]["bytes"] for both in counted.values())
    for both in timed.values():
        ok &= (
            both["workers"]["cpu_ms"] < both["actors"]["cpu_ms"]
            and both["workers"]["sent"] == both["workers"]["counted"]
        )
    report("bank_place", ok=ok, counted=counted, timed=timed)


def count_actors(arguments: Arguments, ranks: int) -> dict[str, Any]:
    """Calls and bytes of one step of all ranks, and the calls that one shard answers."""
    spec, sent, came = spec_of(arguments.width), 0, 0
    for rank in range(ranks):
        ids, near = batch_of(arguments, 0, rank), neighbors_of(arguments, batch_of(arguments, 1, rank))
        distinct, bounds = np.unique(near), [arguments.rows * i // SHARDS for i in range(1, SHARDS)]
        coming, writes = batch_of(arguments, 2, rank), np.searchsorted(bounds, ids, side="right")
        for shard, asked in enumerate(np.split(distinct, np.searchsorted(distinct, bounds))):
            own = ids[writes == shard]
            samples = coming[np.searchsorted(bounds, coming, side="right") == shard]
            rows = np.zeros((len(own), spec.record.itemsize), dtype=np.uint8)
            write = Write(step=0, positions=np.zeros(len(own), np.int32), ids=own, rows=rows)
            call = BankCall(token="0" * 32, rank=rank, write=write, samples=samples, read_step=1, ids=asked)
            sent += len(call.pack())
            came += HELD.itemsize + len(asked) * (spec.record.itemsize + STATIC.itemsize) + 4 * K * len(samples)
    return {"calls": ranks * SHARDS, "calls_of_a_shard": ranks, "bytes": sent + came}


def count_workers(arguments: Arguments, ranks: int, step: int = 0, *, with_route: bool = False) -> dict[str, Any]:
    """Exchanges of one step, messages of all ranks, and bytes that go to another rank.

    While a step is trained on, the graph's rows of the step after it come, and the ids of the one after that set out.
    """
    spec, num_bytes = spec_of(arguments.width), 0
    for rank in range(ranks):
        ids, following, last = (batch_of(arguments, step + ahead, rank) for ahead in range(3))
        num_bytes += 16 * (ranks - 1) * (1 + with_route)  # how many ids, and how many of them are written
        num_bytes += 8 * away(arguments, last, rank, ranks) + 4 * K * away(arguments, following, rank, ranks)
        num_bytes += away(arguments, neighbors_of(arguments, ids).ravel(), rank, ranks) * row_bytes(spec)
        num_bytes += away(arguments, ids, rank, ranks) * spec.record.itemsize
        if with_route:
            route = np.concatenate([following, neighbors_of(arguments, following).ravel()])
            num_bytes += 8 * away(arguments, route, rank, ranks)
    return {"exchanges_of_ids": 3, "exchanges_of_records": 2, "messages": 5 * ranks * (ranks - 1), "bytes": num_bytes}


def away(arguments: Arguments, ids: NDArray[np.int64], rank: int, ranks: int) -> int:
    """Ids that another rank holds."""
    return int(np.count_nonzero(ids // -(-arguments.rows // ranks) != rank))


def batch_of(arguments: Arguments, step: int, rank: int) -> NDArray[np.int64]:
    """[b] the ids of a rank's batch."""
    return np.random.default_rng((step, rank)).integers(0, arguments.rows, arguments.batch)


def neighbors_of(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """[b, K] their neighbours, as ``synthetic_rows`` has them."""
    return ((ids % (arguments.rows // K) * K)[:, None] + np.arange(K)) * 7_919_993 % arguments.rows


def measure(arguments: Arguments) -> dict[int, dict[str, Any]]:
    """Both places in turns, on the same batches."""
    figures: dict[int, dict[str, Any]] = {}
    with cluster(num_cpus=max(arguments.timed_ranks) + SHARDS):
        for ranks in arguments.timed_ranks:
            found: dict[str, list[dict[str, Any]]] = {place: [] for place in PLACES}
            for _ in range(arguments.rounds):
                for place in PLACES:
                    found[place].append(run(arguments, place, ranks))
            figures[ranks] = {place: middle(rounds) for place, rounds in found.items()}
    return figures


def middle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of what was measured in each round."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def run(arguments: Arguments, place: str, ranks: int) -> dict[str, Any]:
    """Milliseconds of a step of the slowest rank, and CPU milliseconds of all ranks and shards together."""
    service = start_actors(arguments) if place == "actors" else None
    trainers: list[Any] = [
        ray.remote(Trainer).options(num_cpus=1).remote(arguments, rank, ranks) for rank in range(ranks)
    ]
    try:
        with tempfile.TemporaryDirectory() as folder:
            ray.get([one.connect.remote(service, folder) for one in trainers], timeout=LIMIT_S)
            pids = ray.get([one.pid.remote() for one in trainers], timeout=LIMIT_S)
            pids += [facts.pid for facts in ray.get([s.facts.remote() for s in service.shards])] if service else []
            ray.get([one.go.remote(arguments.warmup) for one in trainers], timeout=LIMIT_S)
            before = cpu_seconds(pids)
            seconds = ray.get([one.go.remote(arguments.steps) for one in trainers], timeout=LIMIT_S)
            used = cpu_seconds(pids) - before
            said = ray.get([one.sent.remote() for one in trainers], timeout=LIMIT_S)
    finally:
        for trainer in trainers:
            ray.kill(trainer)
        if service:
            service.stop()
    figures = {"step_ms": 1e3 * max(seconds) / arguments.steps, "cpu_ms": 1e3 * used / arguments.steps}
    if service:
        return figures
    steps = range(arguments.warmup, arguments.warmup + arguments.steps)
    counted = sum(count_workers(arguments, ranks, step, with_route=True)["bytes"] for step in steps)
    return figures | {"sent": sum(said), "counted": counted}


def start_actors(arguments: Arguments) -> NeighborService:
    """The shards of a bank that holds labels."""
    bounds = [arguments.rows * i // SHARDS for i in range(SHARDS + 1)]
    loads = [partial(synthetic_rows, arguments.rows, bounds[i], bounds[i + 1]) for i in range(SHARDS)]
    return start_service("bank place", loads, spec_of(arguments.width), {"num_cpus": 0})


def cpu_seconds(pids: list[int]) -> float:
    """CPU of some processes since they began."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


class Trainer:
    """One rank, which does nothing but to look up and to write."""

    def __init__(self, arguments: Arguments, rank: int, ranks: int) -> None:
        self._arguments, self._rank, self._ranks = arguments, rank, ranks
        self._sent = 0

    def connect(self, service: NeighborService | None, folder: str) -> None:
        """Begin, with actors or with the other ranks alone."""
        import torch
        import torch.distributed as dist
        from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]

        torch.set_num_threads(1)
        store = FileStore(f"{folder}/store", self._ranks)
        dist.init_process_group("gloo", store=store, rank=self._rank, world_size=self._ranks)
        spec = spec_of(self._arguments.width)
        random = np.random.default_rng(1)
        self._probs = random.dirichlet(np.ones(CLASSES), self._arguments.batch).astype(np.float32)
        self._features = random.normal(size=(self._arguments.batch, self._arguments.width)).astype(np.float32)
        self._positions = np.arange(self._arguments.batch, dtype=np.int32) + self._rank * self._arguments.batch
        self._turns = self._with_actors(service) if service else self._with_ranks(spec)
        next(self._turns)  # begins
        dist.barrier()

    def go(self, steps: int) -> float:
        """Seconds of some steps."""
        self._sent = 0
        began = time.monotonic()
        for _ in range(steps):
            next(self._turns)
        return time.monotonic() - began

    def sent(self) -> int:
        """Bytes that went to other ranks in the last steps."""
        return self._sent

    def pid(self) -> int:
        """Of this process."""
        return psutil.Process().pid

    def _with_actors(self, service: NeighborService) -> Iterator[None]:
        client = client_of(service, rank=self._rank, world_size=self._ranks)
        client.begin(0)
        yield
        found, coming = (client.find(step, self._batch(step)) for step in range(2))
        asked, step = found.ask(), 0
        while True:
            later = client.find(step + 2, self._batch(step + 2))
            ahead = coming.ask()
            lookup = asked.collect()
            update = BankUpdate(
                step=step,
                positions=self._positions,
                ids=self._batch(step),
                probs=self._probs,
                features=self._features,
            )
            lookup.write(update)
            coming, asked, step = later, ahead, step + 1
            yield

    def _with_ranks(self, spec: BankSpec) -> Iterator[None]:
        import torch
        import torch.distributed as dist

        from ldlva_dist.bank.on_workers.rank_bank import RankBank
        from ldlva_dist.method.row_routes import RowRoutes
        from ldlva_dist.training.device.copies import NoCopies

        routes = RowRoutes(self._arguments.rows, dist.group.WORLD)
        rows = synthetic_rows(self._arguments.rows, routes.start, routes.stop)
        bank = RankBank(rows, spec, routes, NoCopies())
        bank.begin(0, {})
        outputs = torch.from_numpy(self._probs), torch.from_numpy(self._features)

        def ask(query: Any) -> Any:
            ids = bank.ask(query)
            return bank.route(np.concatenate([query.samples, ids.ravel()]), len(query.samples))

        self._count(dist)
        yield
        found, coming = (bank.find(step, self._batch(step)) for step in range(2))
        asked, step = ask(found), 0
        while True:
            later = bank.find(step + 2, self._batch(step + 2))
            ahead = ask(coming)
            bank.read(step, asked)
            bank.write(step, asked, self._positions, outputs)
            coming, asked, step = later, ahead, step + 1
            yield

    def _count(self, dist: Any) -> None:
        """Note from now on what is sent to other ranks: ids in messages, rows in all-to-alls."""
        bare, bare_send = dist.all_to_all_single, dist.isend

        def counted(result: Any, values: Any, received: Any = None, sent: Any = None, **options: Any) -> Any:
            shares = [len(values) // self._ranks] * self._ranks if sent is None else sent
            row = values[:1].numel() * values.element_size() if len(values) else 0
            self._sent += (sum(shares) - shares[self._rank]) * row
            return bare(result, values, received, sent, **options)

        def counted_send(values: Any, *where: Any, **options: Any) -> Any:
            self._sent += values.numel() * values.element_size()
            return bare_send(values, *where, **options)

        dist.all_to_all_single, dist.isend = counted, counted_send

    def _batch(self, step: int) -> NDArray[np.int64]:
        return batch_of(self._arguments, step, self._rank)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
