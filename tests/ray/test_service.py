import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.exceptions import RayActorError

from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.records import STATIC, BankSpec
from ldlva_dist.bank.service import NeighborService, find_service, shard_loads, start_service
from ldlva_dist.bank.session import StepLookup
from ldlva_dist.bank.wire import HELD, Traffic
from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import ClusterError, DataError, NeighborServiceError, SettingError
from ldlva_dist.index.graph import build_graph, nearest_neighbors
from ldlva_dist.messages import BankUpdate, Neighbors
from ldlva_dist.runtime import placement
from ldlva_dist.runtime.waiting import get_all
from ldlva_dist.storage import checksums
from ldlva_dist.storage.checksums import Files

N, C, V, K, BATCH = 50, 7, 6, 4, 8
VA = np.random.default_rng(3).uniform(-1, 1, (N, 2)).astype(np.float32)
GRAPH = nearest_neighbors(VA, K)[0]
pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("set")
    columns = {
        "id": np.arange(N),
        "key": [f"k{i}" for i in range(N)],
        "shard": np.zeros(N, np.int32),
        "offset": np.zeros(N, np.int64),
        "size": np.ones(N, np.int32),
        "checksum": np.zeros(N, np.uint32),
        "label": (np.arange(N) % C).astype(np.int16),
        "valence": VA[:, 0],
        "arousal": VA[:, 1],
        "split": pa.array(["train"] * N).dictionary_encode(),
    }
    manifest.write_manifest(str(folder), pa.table(columns))
    rows = {"train": N, "holdout": 0, "test": 0}
    info = manifest.DatasetInfo(
        name="test",
        class_names=tuple("abcdefg"),
        splits={name: manifest.SplitInfo(first_id=N - n, rows=n) for name, n in rows.items()},
        shards=(),
        has_valence_arousal=True,
        content_hash="a",
        class_counts={},
    )
    manifest.write_info(str(folder), info)
    build_graph(Dataset.open(str(folder)), k_max=K + 2)
    return str(folder)


@pytest.fixture
def start(dataset) -> Iterator:
    services: list[NeighborService] = []

    def start_one(num_shards: int, timeout_s: float = 20.0, reload=None) -> NeighborService:
        spec = BankSpec(num_classes=C, feature_width=V, timeout_s=timeout_s)
        loads = shard_loads(Dataset.open(dataset), k=K, num_shards=num_shards)
        options = {"num_cpus": 0, "max_restarts": -1}
        services.append(start_service(f"service {len(services)}", loads, spec, options, reload))
        return services[-1]

    yield start_one
    for service in services:
        service.stop()


def clients_of(service: NeighborService, world_size: int, token: str = "a", timeout_s: float = 20.0) -> list:
    return [
        NeighborClient(service, rank=rank, world_size=world_size, token=token, k=K, timeout_s=timeout_s)
        for rank in range(world_size)
    ]


def batch_of(step: int, rank: int, world_size: int) -> tuple[np.ndarray, np.ndarray]:
    positions = np.arange(rank, BATCH, world_size)
    return np.random.default_rng((1, step)).integers(0, N, BATCH)[positions], positions


def update_of(step: int, rank: int, world_size: int) -> BankUpdate:
    ids, positions = batch_of(step, rank, world_size)
    rng = np.random.default_rng((2, step))
    return BankUpdate(
        step=step,
        positions=positions.astype(np.int32),
        ids=ids,
        probs=rng.dirichlet(np.ones(C), BATCH).astype(np.float32)[positions],
        features=rng.normal(size=(BATCH, V)).astype(np.float32)[positions],
    )


def train(clients: list, first: int, stop: int, files: Files | None = None) -> list[list[Neighbors]]:
    """Let ranks walk through the steps side by side, each asking for ids two steps ahead and for rows one."""
    ranks, size = range(len(clients)), len(clients)
    clients[0].begin(first, files or {})
    found = [clients[r].find(first, batch_of(first, r, size)[0]) for r in ranks]
    coming = [clients[r].find(first + 1, batch_of(first + 1, r, size)[0]) for r in ranks]
    asked = [found[r].ask() for r in ranks]
    seen = []
    for step in range(first, stop):
        ready, found = asked, coming
        if step + 1 < stop:
            coming = [clients[r].find(step + 2, batch_of(step + 2, r, size)[0]) for r in ranks]
            asked = [found[r].ask() for r in ranks]
        lookups = [ready[r].collect() for r in ranks]
        seen.append([lookup.neighbors for lookup in lookups])
        for r in ranks:
            lookups[r].write(update_of(step, r, size))
    return seen


def look_up(client: NeighborClient, step: int, ids: np.ndarray) -> StepLookup:
    """One step without a look ahead."""
    return client.find(step, ids).ask().collect()


def assert_equal(one: Neighbors, other: Neighbors) -> None:
    for name in ("ids", "va", "labels", "probs", "features", "versions"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_one_and_three_shards_give_two_ranks_the_same_neighbours(start):
    one, three = (train(clients_of(start(shards), 2), 0, 6) for shards in (1, 3))
    for step in range(6):
        for rank in range(2):
            assert_equal(one[step][rank], three[step][rank])

    for step in range(6):
        for rank, seen in enumerate(three[step]):
            ids = batch_of(step, rank, 2)[0]
            np.testing.assert_array_equal(seen.ids, GRAPH[ids])
            np.testing.assert_array_equal(seen.va, VA[seen.ids])
            np.testing.assert_array_equal(seen.labels, seen.ids % C)
            np.testing.assert_array_equal(seen.versions, written_by(step)[seen.ids])
            np.testing.assert_allclose(seen.probs.sum(-1), seen.versions >= 0, atol=2e-3)


def save(client: NeighborClient, step: int, shards: list[int], folder: Path) -> Files:
    """The parts of some shards."""
    client.take_snapshot(step, shards)
    entries = client.write_snapshot(step, shards, str(folder), 60)()
    return {f"{folder}/{name}": entry for name, entry in entries.items()}


def test_a_run_goes_on_from_its_snapshot_with_other_ranks_and_shards(start, tmp_path):
    straight = train(clients_of(start(2), 1), 0, 8)
    clients = clients_of(start(3), 2)
    train(clients, 0, 5)
    with ThreadPoolExecutor() as pool:  # each waits for the other's last write, which its call brings
        saved = list(pool.map(lambda client, own: save(client, 5, own, tmp_path), clients, ([0, 2], [1])))
    files = saved[0] | saved[1]  # pyright: ignore[reportOperatorIssue]
    assert sorted(Path(uri).name for uri in files) == [
        "ids-000000000000-000000000016.safetensors",
        "ids-000000000016-000000000033.safetensors",
        "ids-000000000033-000000000050.safetensors",
    ]
    resumed = train(clients_of(start(2), 1, token="b"), 5, 8, files)
    for before, after in zip(straight[5:], resumed, strict=True):
        assert_equal(before[0], after[0])


def test_a_shard_that_cannot_write_and_one_that_hangs_are_named_with_the_file(start, tmp_path):
    service = start(2)
    [client] = clients_of(service, 1)
    client.begin(0)
    client.take_snapshot(0, [0, 1])
    (tmp_path / "bank").write_bytes(b"no folder")
    with pytest.raises(
        ClusterError, match=r"bank shards \[1\] failed when asked to write its part of .*/ids-0+25-0+50"
    ):
        client.write_snapshot(0, [1], str(tmp_path), 60)()
    pid = ray.get(service.shards[0].facts.remote(), timeout=20).pid  # pyright: ignore[reportAttributeAccessIssue]
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(
            NeighborServiceError, match=r"bank shards \[0\] did not answer .* to write its part of .* 0.4 s"
        ):
            client.write_snapshot(0, [0], str(tmp_path), 0.5)()
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_step_costs_one_call_for_each_shard(start, monkeypatch):
    clients = clients_of(start(3), 2)

    def count(client) -> list[int]:
        sent, send = [], client._channel._send

        def counted(*arguments):
            sent.append(len((round_ := send(*arguments)).calls))
            return round_

        monkeypatch.setattr(client._channel, "_send", counted)
        return sent

    each = [count(client) for client in clients]
    train(clients, 0, 10)
    for client, sent in zip(clients, each, strict=True):
        client._channel.thread.soon(lambda: None).result(20)  # everything before it is done
        first, *steps, last_but_one_write = sent  # the last write stays for a snapshot
        assert steps == [3] * 10
        assert first <= 3
        assert last_but_one_write == 3


def test_the_traffic_of_a_client_is_what_came_what_was_written_and_how_long_it_waited(start, monkeypatch):
    """Rank 0's read of step 2 is held until rank 1, which saw it wait, has sent what it lacks."""
    service = start(3)
    clients, ids = clients_of(service, 2), np.arange(0, N, 2)
    clients[0].begin(0)
    lookups = [client.find(0, ids).ask().collect() for client in clients]
    lookups[0].write(update_of(0, 0, 2))
    look_up(clients[0], 1, ids).write(update_of(1, 0, 2))
    traffic = clients[0].traffic.drain()
    record, rows = service.spec.record.itemsize, 2 * len(np.unique(GRAPH[ids]))
    calls, graph_row = 3 * 4, 4 * K
    assert traffic.bytes_read == calls * HELD.itemsize + rows * (record + STATIC.itemsize) + 2 * len(ids) * graph_row
    assert traffic.bytes_written == len(update_of(0, 0, 2).ids) * record, "that of step 1 waits for the next call"
    assert clients[0].traffic == Traffic()

    waits = threading.Event()

    def note_wait(refs, timeout_s, what, names):
        if what == "for step 2":
            waits.set()
        return get_all(refs, timeout_s, what, names)

    def say_what_is_missing() -> float:
        """The seconds from when rank 0 surely waits, and its read is surely held, until rank 1 says something."""
        assert waits.wait(20)
        ray.get([shard.facts.remote() for shard in service.shards], timeout=20)
        began = time.monotonic()
        ray.get([shard.facts.remote() for shard in service.shards], timeout=20)
        seconds = time.monotonic() - began
        lookups[1].write(update_of(0, 1, 2))
        look_up(clients[1], 1, ids)
        return seconds

    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        held = pool.submit(say_what_is_missing)
        monkeypatch.setattr("ldlva_dist.bank.channel.get_all", note_wait)
        look_up(clients[0], 2, ids)
        least = held.result(20)
    seconds = time.monotonic() - began
    for counted in (clients[0].traffic.shard_s, clients[0].traffic.busy_s):
        assert least <= counted <= seconds


def test_rows_filled_by_all_ranks_are_there_at_the_first_read(start):
    clients = clients_of(start(3), 2)
    clients[0].begin(0)
    rng = np.random.default_rng(5)
    ids, probs = rng.permutation(N), rng.dirichlet(np.ones(C), N).astype(np.float32)
    features = rng.normal(size=(N, V)).astype(np.float32)
    for rank, client in enumerate(clients):
        client.fill(ids[rank::2], probs[rank::2], features[rank::2])
    place = np.argsort(ids)
    for client in clients:
        seen = look_up(client, 0, np.arange(N)).neighbors
        np.testing.assert_array_equal(seen.probs, probs[place][seen.ids].astype(np.float16))
        np.testing.assert_array_equal(seen.features, features[place][seen.ids].astype(np.float16))
        np.testing.assert_array_equal(seen.versions, 0)


@ray.remote
def neighbors_elsewhere(service: NeighborService) -> Neighbors:
    [client] = clients_of(service, 1)
    client.begin(0)
    return look_up(client, 0, np.array([7, 3])).neighbors


def test_the_service_travels_to_workers(start):
    found = ray.get(neighbors_elsewhere.remote(start(2)), timeout=60)
    np.testing.assert_array_equal(found.ids, GRAPH[[7, 3]])


def test_a_killed_shard_is_named(start):
    service, nothing = start(3), np.zeros(0, np.int64)
    clients = clients_of(service, 2)
    clients[0].begin(0)
    lookups = [look_up(client, 0, nothing) for client in clients]
    lookups[0].write(update_of(0, 0, 2))
    look_up(clients[0], 1, nothing).write(update_of(1, 0, 2))
    pid = ray.get(service.shards[1].facts.remote(), timeout=20).pid  # pyright: ignore[reportAttributeAccessIssue]
    waiting = clients[0].find(2, nothing).ask()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(NeighborServiceError, match=r"bank shards \[1\] died or cannot be reached"):
        waiting.collect()
    with pytest.raises(NeighborServiceError, match=r"bank shards \[1\] died or cannot be reached.*for step 1$"):
        look_up(clients[1], 1, nothing)  # Ray has started it again, and it knows of no attempt
    [client] = clients_of(service, 1, token="next")
    client.begin(0)
    look_up(client, 0, np.arange(3))


def test_a_shard_that_hangs_is_named(start):
    service = start(3, timeout_s=1.0)
    [client] = clients_of(service, 1, timeout_s=1.0)
    client.begin(0)
    first, second = (client.find(step, np.arange(N)) for step in range(2))
    first.ask().collect().write(update_of(0, 0, 1))
    pid = ray.get(service.shards[2].facts.remote(), timeout=20).pid  # pyright: ignore[reportAttributeAccessIssue]
    os.kill(pid, signal.SIGSTOP)
    try:
        asked = second.ask()
        with pytest.raises(NeighborServiceError, match=r"bank shards \[2\] did not answer in 1.25 s .* for step 1"):
            asked.collect()
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_rank_that_is_behind_is_named(start):
    clients = clients_of(start(2, timeout_s=0.5), 2, timeout_s=0.5)
    clients[0].begin(0)
    lookups = [look_up(client, 0, np.arange(3)) for client in clients]
    lookups[0].write(update_of(0, 0, 2))
    look_up(clients[0], 1, np.arange(3)).write(update_of(1, 0, 2))
    with pytest.raises(NeighborServiceError, match=r"writes of step 0 .* ranks \[1\], reads of step 1 .* ranks \[1\]"):
        look_up(clients[0], 2, np.arange(3))


def test_an_error_of_a_write_comes_out_and_what_follows_fails_with_it(start):
    service = start(2)
    [old] = clients_of(service, 1, token="old")
    [new] = clients_of(service, 1, token="new")
    old.begin(0)
    found = [old.find(step, np.arange(3)) for step in range(2)]
    lookups = [found[0].ask().collect()]
    found.append(old.find(2, np.arange(3)))
    lookups.append(found[1].ask().collect())
    new.begin(0)
    for step, lookup in enumerate(lookups):
        lookup.write(update_of(step, 0, 1))  # the first one is on its way now, alone
    said = r"asked to take a write: .* does not know attempt 'old'"
    with pytest.raises(NeighborServiceError, match=said):
        old.keep_features(2, 1)
    with pytest.raises(NeighborServiceError, match=said):
        found[2].ask().collect()


def test_the_next_rows_come_and_are_put_together_while_the_step_is_trained_on(start):
    [client] = clients_of(start(2), 1)
    client.begin(0)
    ids = np.arange(N)
    found = [client.find(step, ids) for step in range(3)]
    asked = [found[step].ask() for step in range(2)]
    lookup = asked[0].collect()
    early = asked[1].found.result(20)  # before anybody collects them, and before the step's outputs are there
    lookup.write(update_of(0, 0, 1))
    assert asked[1].collect().neighbors is early
    np.testing.assert_array_equal(early.ids, GRAPH)
    np.testing.assert_array_equal(asked[1].ids, GRAPH)


def dies_within(shard, *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            ray.get(shard.facts.remote(), timeout=seconds)
        except RayActorError:
            return True
    return False


def test_a_bank_that_no_node_can_hold_is_refused():
    placement.check_memory(2**20, 1)
    with pytest.raises(SettingError, match=r"bank.num_shards=4 .* got a bank of 1073741824.0 GiB"):
        placement.check_memory(2**60, 4)


def test_stop_leaves_no_actor(start):
    service = start(2)
    service.stop()
    for shard in service.shards:
        assert dies_within(shard, seconds=20)


def test_a_service_that_cannot_be_is_refused_before_any_actor_starts(dataset, tmp_path):
    with pytest.raises(SettingError, match=r"num_shards must be .* \(50\), got 51"):
        shard_loads(Dataset.open(dataset), k=K, num_shards=51)
    with pytest.raises(SettingError, match=r"num_neighbors must be <= the K of the neighbour graph \(6\), got 7"):
        shard_loads(Dataset.open(dataset), k=7, num_shards=1)
    for name in ("manifest.parquet", "dataset.json"):
        (tmp_path / name).write_bytes((Path(dataset) / name).read_bytes())
    with pytest.raises(DataError, match=r"no neighbour graph; run: python jobs/build_index\.py"):
        shard_loads(Dataset.open(str(tmp_path)), k=K, num_shards=1)


def test_what_is_wrong_with_the_data_is_an_error_of_the_data_and_no_lost_shard(dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "set")
    loads = shard_loads(Dataset.open(str(copy)), k=K, num_shards=2)
    ids = np.load(copy / f"graph-K{K + 2}" / "ids-00000.npy")
    ids[30, 1] = N
    np.save(copy / f"graph-K{K + 2}" / "ids-00000.npy", ids)
    spec = BankSpec(num_classes=C, feature_width=V, timeout_s=20)
    said = (
        r"^bank shards \[[01]\] failed when asked to start: .*is damaged: sample 30 has neighbours that are no training"
    )
    with pytest.raises(DataError, match=said):
        start_service("damaged", loads, spec, {"num_cpus": 0, "max_restarts": -1})


def test_a_service_is_found_drained_and_removed_by_its_name_and_another_one_is_not_touched(start, dataset, monkeypatch):
    monkeypatch.setattr("ldlva_dist.bank.service.NAME_TIMEOUT_S", 0.0)
    mine, other = start(3), start(2)
    [client], [other_client] = clients_of(mine, 1), clients_of(other, 1)
    for each in (client, other_client):
        each.begin(0)
    with pytest.raises(SettingError, match="a run 'service 0' is being trained"):
        start_service(mine.name, shard_loads(Dataset.open(dataset), k=K, num_shards=1), mine.spec, {})
    found = find_service(mine.name)
    assert (found.bounds, found.spec, found.num_bytes) == (mine.bounds, mine.spec, mine.num_bytes)
    look_up(client, 0, np.arange(N))
    found.drain()
    with pytest.raises(NeighborServiceError, match="takes nothing more: its service was drained"):
        look_up(client, 1, np.arange(N))
    found.stop()
    with pytest.raises(NeighborServiceError, match="no neighbour service 'service 0'"):
        find_service(mine.name)
    look_up(other_client, 0, np.arange(N))
    assert len(find_service(other.name).shards) == 2


DRIVER = """
import os, signal, sys
import ray
from ldlva_dist.bank.records import BankSpec
from ldlva_dist.bank.service import shard_loads, start_service
from ldlva_dist.dataset.dataset import Dataset
address, dataset = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
loads = shard_loads(Dataset.open(dataset), k=2, num_shards=2)
start_service("crashed", loads, BankSpec(num_classes=2, feature_width=2), {"num_cpus": 0, "max_restarts": -1})
print("started", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_stays_of_a_driver_that_was_killed(dataset):
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run([sys.executable, "-c", DRIVER, address, dataset], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("started\n", -signal.SIGKILL), done.stderr
    end = time.monotonic() + 30
    while any(actor["name"].startswith("crashed") for actor in ray.util.list_named_actors(all_namespaces=True)):  # pyright: ignore[reportArgumentType]
        assert time.monotonic() < end, "the actors of a killed driver are still there"
        time.sleep(0.05)


def test_a_lost_shard_goes_on_with_its_last_snapshot_and_the_others_lose_nothing(start, dataset, tmp_path):
    """Two ranks in step, three shards, the second killed at step 6; its last snapshot is of step 3."""
    part = tmp_path / "step-3" / "bank" / "ids-000000000016-000000000033.safetensors"
    service = start(3, reload=lambda: {str(part): checksums.describe(part.read_bytes())})
    clients, steps, ids = clients_of(service, 2), 16, np.arange(N)
    clients[0].begin(0)
    in_step = threading.Barrier(2, timeout=60)
    seen: list[dict[int, Neighbors]] = [{}, {}]

    def rank_loop(rank: int) -> None:
        client = clients[rank]
        asked, found = client.find(0, ids).ask(), client.find(1, ids)
        for step in range(steps):
            coming, found = found.ask(), client.find(step + 2, ids)
            lookup = asked.collect()
            assert (
                coming.ids.shape == GRAPH.shape
            )  # their call, which brought a write along, is answered: the read alone meets the loss
            seen[rank][step], asked = lookup.neighbors, coming
            if in_step.wait() == 0 and step == 6:
                os.kill(ray.get(service.shards[1].facts.remote(), timeout=20).pid, signal.SIGKILL)  # pyright: ignore[reportAttributeAccessIssue]
            in_step.wait()  # the all-reduce
            lookup.write(update_of(step, rank, 2))
            if step + 1 in (3, 7, 12):
                save(client, step + 1, [[0, 2], [1]][rank], tmp_path / f"step-{step + 1}")

    with ThreadPoolExecutor() as pool:
        list(pool.map(rank_loop, range(2)))

    lost = (service.bounds[1] <= GRAPH) & (service.bounds[2] > GRAPH)
    assert (written_by(steps - 1) != written_by(steps - 1, kept=4, first=9))[GRAPH[lost]].any()
    for step, rank in itertools.product(range(steps), range(2)):
        versions, straight = seen[rank][step].versions, written_by(step)[GRAPH]
        np.testing.assert_array_equal(versions[~lost], straight[~lost])
        if step != 7:  # its answer may have come before the kill; if not, it is the first that was asked for again
            expected = written_by(step, kept=4, first=9)[GRAPH] if step > 7 else straight
            np.testing.assert_array_equal(versions[lost], expected[lost])


def written_by(step: int, *, kept: int = 0, first: int = 0) -> np.ndarray:
    """[N] the versions that a read of the step must see where only writes before kept - 1 or from ``first`` count."""
    versions = np.full(N, -1)
    for before in [*range(min(kept, step) - 1), *range(first, step - 1)]:
        versions[batch_of(before, 0, 1)[0]] = before
    return versions
