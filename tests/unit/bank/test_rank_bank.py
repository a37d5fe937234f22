"""A bank on the workers' devices, on 1 to 4 gloo ranks, is bit for bit the actors'."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from ldlva_dist.bank.checkpoint_parts import RestoredRows, unpack
from ldlva_dist.bank.on_workers.rank_bank import GraphQuery, RankBank
from ldlva_dist.bank.on_workers.rank_rows import PendingWrites, RankRows
from ldlva_dist.bank.on_workers.record_tensors import as_rows, encode, row_bytes
from ldlva_dist.bank.records import (
    STATIC,
    BankSpec,
    Write,
    as_bytes,
    as_records,
    blank,
    decode_features,
    encode_records,
)
from ldlva_dist.bank.shard import BankShard
from ldlva_dist.bank.static_rows import ShardRows
from ldlva_dist.bank.wire import BankAnswer, BankCall
from ldlva_dist.method.row_routes import Route, RowRoutes
from ldlva_dist.storage import checksums
from ldlva_dist.storage.checksums import Files
from ldlva_dist.training.device.copies import NoCopies
from testing.device_waits import NoWaits
from testing.forked_ranks import run_ranks

N, C, V, K, BATCH, STEPS, SAVED_AT = 23, 3, 5, 2, 13, 7, 4
PLAIN = BankSpec(num_classes=C, feature_width=V)
SPECS = {
    "plain": PLAIN,
    "int8": replace(PLAIN, features_dtype="int8", momentum=0.3, label_smoothing=0.1),
    "floats": replace(PLAIN, probs_dtype="float32", features_dtype="float32", momentum=0.7),
    "elr": replace(PLAIN, feature_width=0, momentum=0.7, own_row=True),
}
FIELDS = "ids", "va", "labels", "versions", "probs", "features"
Read = dict[str, NDArray]


def neighbors_of(spec: BankSpec) -> int:
    return 0 if spec.own_row else K


def static_rows(start: int, stop: int, k: int) -> ShardRows:
    static = np.zeros(N, dtype=STATIC)
    static["va"] = np.random.default_rng(0).normal(size=(N, 2))
    static["label"] = np.arange(N) % C
    graph = np.random.default_rng(1).integers(0, N, (N, k)).astype(np.int32)
    return ShardRows(start=start, static=static[start:stop], graph=graph[start:stop])


def batch_of(step: int) -> NDArray[np.int64]:
    """The global batch; ids stand there twice."""
    return np.random.default_rng((2, step)).integers(0, N, BATCH)


def outputs_of(step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of the global batch; a row of zeros, one too large for float16 and one that is not finite are among them."""
    random = np.random.default_rng((3, step))
    probs, features = random.dirichlet(np.ones(C), BATCH), random.normal(size=(BATCH, V))
    features[0], features[1, 0], features[2, 0] = 0, 1e6, np.nan
    return probs.astype(np.float32), features.astype(np.float32)


async def by_an_actor(spec: BankSpec, folder: Path) -> tuple[list[Read], Files]:
    """All reads of one worker, and its checkpoint of SAVED_AT, by the actors' own class."""
    rows, width = static_rows(0, N, neighbors_of(spec)), spec.feature_width
    shard, reads, files = BankShard(lambda: rows, spec), [], {}
    await shard.begin("a", 1, 0, {})
    for step in range(STEPS):
        ids = rows.graph[batch_of(step)].astype(np.int64)
        ids = np.column_stack([ids, batch_of(step)]) if spec.own_row else ids
        call = BankCall(token="a", rank=0, read_step=step, ids=ids.ravel())
        answer = BankAnswer.of(await shard.exchange(call.pack()), call, spec)
        records, static = as_records(answer.rows, spec.record), as_records(answer.static, STATIC)
        fields = static["va"], static["label"], records["versions"], records["probs"], decode_features(records)
        reads.append({"ids": ids} | dict(zip(FIELDS[1:], fields, strict=True)))
        probs, features = outputs_of(step)
        lines = as_bytes(encode_records(probs, features[:, :width], spec, step))
        write = Write(step=step, positions=np.arange(BATCH, dtype=np.int32), ids=batch_of(step), rows=lines)
        await shard.exchange(BankCall(token="a", rank=0, write=write).pack())
        if step + 1 == SAVED_AT:
            await shard.take_snapshot("a", SAVED_AT)
            entries = await shard.write_snapshot("a", SAVED_AT, str(folder / "actor"))
            files = {f"{folder}/actor/{name}": entry for name, entry in entries.items()}
    return reads, files


def _bank(spec: BankSpec, world_size: int) -> RankBank:
    routes = RowRoutes(N, dist.new_group() if world_size > 1 else None)  # pyright: ignore[reportArgumentType]
    return RankBank(static_rows(routes.start, routes.stop, neighbors_of(spec)), spec, routes, NoCopies())


def _steps(bank: RankBank, first: int, rank: int, world_size: int, folder: str = "") -> Iterator[Read]:
    """What each step reads; ids are asked for two steps ahead and routes one, as training does."""
    found, asked = deque[GraphQuery](), deque[tuple[NDArray, Route]]()

    def find(step: int) -> None:
        if step < STEPS:
            found.append(bank.find(step, batch_of(step)[rank::world_size]))

    def ask() -> None:
        if found:
            query = found.popleft()
            ids = bank.ask(query)
            asked.append((ids, bank.route(np.concatenate([query.samples, ids.ravel()]), len(query.samples))))

    written: Callable[[], object] = dict
    find(first)
    find(first + 1)
    ask()
    for step in range(first, STEPS):
        find(step + 2)
        ask()
        ids, route = asked.popleft()
        rows = bank.read(step, route)
        near = rows.near
        values = near.va_BK2, near.labels_BK, torch.from_numpy(rows.versions()), near.probs_BKC, near.features_BKV
        yield {"ids": ids} | {name: value.numpy() for name, value in zip(FIELDS[1:], values, strict=True)}
        outputs = [torch.from_numpy(np.ascontiguousarray(values[rank::world_size])) for values in outputs_of(step)]
        positions = np.arange(BATCH, dtype=np.int32)[rank::world_size]
        bank.write(step, route, positions, (outputs[0], outputs[1]))
        if step + 1 == SAVED_AT and folder:
            bank.take_snapshot(SAVED_AT, [rank])
            written = bank.write_snapshot(SAVED_AT, [rank], folder, 60.0)
        elif step + 1 == STEPS and folder:  # what was kept is that step's, whatever was written since
            written()


def _rank(rank: int, world_size: int, folder: str, actor_files: dict[str, Files]) -> None:
    if world_size > 1:
        where = f"file://{folder}/store-{world_size}"
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world_size)
    for name, spec in SPECS.items():
        bank = _bank(spec, world_size)
        bank.begin(0, {})
        straight = list(_steps(bank, 0, rank, world_size, f"{folder}/{name}-{world_size}"))
        resumed = _bank(spec, world_size)
        resumed.begin(SAVED_AT, actor_files[name])
        again = list(_steps(resumed, SAVED_AT, rank, world_size))
        torch.save((straight, again), f"{folder}/{name}-{rank}-of-{world_size}.pt")
    if world_size > 1:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[Read]], dict[str, Files]]:
    """By an actor: the reads of all steps, and a checkpoint in the middle."""
    made = {name: asyncio.run(by_an_actor(spec, tmp_path_factory.mktemp(name))) for name, spec in SPECS.items()}
    return {name: reads for name, (reads, _) in made.items()}, {name: files for name, (_, files) in made.items()}


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_read_what_actors_give_and_each_goes_on_from_the_others_checkpoint(
    world_size: int, truth: tuple[dict[str, list[Read]], dict[str, Files]], tmp_path: Path
) -> None:
    reads, actor_files = truth
    if world_size > 1:
        run_ranks(_rank, (world_size, str(tmp_path), actor_files), world_size)
    else:
        _rank(0, 1, str(tmp_path), actor_files)
    for name, spec in SPECS.items():
        paths = [tmp_path / f"{name}-{rank}-of-{world_size}.pt" for rank in range(world_size)]
        got = [torch.load(path, weights_only=False) for path in paths]
        for rank, (straight, again) in enumerate(got):
            for step, seen in itertools.chain(enumerate(straight), enumerate(again, SAVED_AT)):
                expected = {key: _of_rank(values, rank, world_size) for key, values in reads[name][step].items()}
                for key in FIELDS:
                    wanted = expected[key].astype(seen[key].dtype).reshape(seen[key].shape)
                    np.testing.assert_array_equal(seen[key], wanted, err_msg=f"{name}, step {step}: {key}")
        folder = tmp_path / f"{name}-{world_size}"
        mine = {str(path): checksums.describe(path.read_bytes()) for path in folder.rglob("*.safetensors")}
        assert len(mine) == world_size
        whole, theirs = unpack(mine, 0, N, spec, SAVED_AT), unpack(actor_files[name], 0, N, spec, SAVED_AT)
        for ours, actors in ((whole.visible, theirs.visible), (whole.pending, theirs.pending)):
            assert ours.ids.tolist() == actors.ids.tolist()
            for field in spec.record.names or ():
                assert ours.records[field].tobytes() == actors.records[field].tobytes(), f"{name}: {field}"


def _filled_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    bank = _bank(SPECS["int8"], 2)
    bank.begin(0, {})
    probs, features = outputs_of(0)
    ids = np.arange(N)[::-1][:BATCH].copy()
    for half in (slice(0, 7), slice(7, BATCH)):  # the last call of rank 1 is an empty one
        mine = ids[half][rank::2] if half.start == 0 or rank == 0 else ids[:0]
        bank.fill(mine, probs[half][rank::2][: len(mine)], features[half][rank::2][: len(mine)])
    seen = next(_steps(bank, 0, rank, 2))
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_bank_that_was_filled_gives_what_an_actor_gives_that_was(tmp_path: Path) -> None:
    run_ranks(_filled_rank, (str(tmp_path),), 2)
    probs, features = outputs_of(0)
    ids, filled = np.arange(N)[::-1][:BATCH], [*range(7), *range(7, BATCH, 2)]
    records = encode_records(probs[filled], features[filled], SPECS["int8"], version=0)

    async def by_actor() -> NDArray[np.void]:
        shard = BankShard(lambda: static_rows(0, N, K), SPECS["int8"])
        await shard.begin("a", 1, 0, {})
        await shard.fill("a", ids[filled], as_bytes(records))
        call = BankCall(token="a", rank=0, read_step=0, ids=np.arange(N))
        answer = BankAnswer.of(await shard.exchange(call.pack()), call, SPECS["int8"])
        return as_records(answer.rows, SPECS["int8"].record)

    there = asyncio.run(by_actor())
    for rank in range(2):
        seen = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        rows = there[seen["ids"]]
        np.testing.assert_array_equal(seen["versions"], rows["versions"])
        np.testing.assert_array_equal(seen["features"], decode_features(rows))
        np.testing.assert_array_equal(seen["probs"], rows["probs"].astype(np.float32))
    assert {0, -2} <= set(there["versions"].tolist()), "some were filled, others hold their label"


def _of_rank(values: NDArray, rank: int, world_size: int) -> NDArray:
    return values.reshape(BATCH, -1)[rank::world_size]


def test_rows_are_written_and_read_without_a_wait_for_the_device() -> None:
    spec, static = SPECS["int8"], static_rows(0, N, K).static
    restored = nothing_restored(spec)
    rows = RankRows(restored, static, spec, torch.device("cpu"))
    probs, features = (torch.from_numpy(values) for values in outputs_of(0))
    places = torch.from_numpy(batch_of(0))
    bank = RankBank(static_rows(0, N, K), spec, RowRoutes(N), NoCopies())
    with NoWaits():
        for step in range(3):
            lanes = encode(probs, features, torch.arange(BATCH), spec=spec)
            rows.write(PendingWrites(step=step, rows_m=places, lanes=lanes))
        near = bank._decoded(rows.read(places), BATCH).near
    assert bool(near.usable_BK.all())


def test_a_row_of_a_device_holds_the_record_and_what_never_changes() -> None:
    visible = nothing_restored(PLAIN).visible
    rows = RankRows(nothing_restored(PLAIN), static_rows(0, N, K).static, PLAIN, torch.device("cpu"))
    kept = rows.as_of_now(0)
    assert row_bytes(PLAIN) == PLAIN.record.itemsize + 16
    assert rows._rows.shape == (N + 1, row_bytes(PLAIN) // 8)
    assert kept.visible.records["versions"].tolist() == visible.records["versions"].tolist()
    assert as_rows(rows._rows, PLAIN)["probs"].shape == (N + 1, C)


def nothing_restored(spec: BankSpec) -> RestoredRows:
    return RestoredRows(visible=blank(0, N, spec), pending=blank(0, 0, spec), graphs={})
