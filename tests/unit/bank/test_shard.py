import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ldlva_dist.bank.checkpoint_parts import newest, unpack
from ldlva_dist.bank.records import (
    STATIC,
    BankSpec,
    Write,
    as_bytes,
    as_records,
    bytes_per_row,
    decode_features,
    encode_records,
)
from ldlva_dist.bank.shard import BankShard
from ldlva_dist.bank.static_rows import ShardRows
from ldlva_dist.bank.wire import BankAnswer, BankCall
from ldlva_dist.errors import ClusterError, DataError, NeighborServiceError, StateLost
from ldlva_dist.messages import LABEL, BankUpdate
from ldlva_dist.storage import checksums
from ldlva_dist.storage.checksums import Files

N, C, V, K, BATCH = 40, 3, 4, 5, 12
NO_IDS = np.zeros(0, np.int64)


def spec(**changes: Any) -> BankSpec:
    floats: dict[str, Any] = {"probs_dtype": "float32", "features_dtype": "float32"}
    return BankSpec(**{"num_classes": C, "feature_width": V, "timeout_s": 20.0} | floats | changes)


def make_shards(count: int, bank_spec: BankSpec) -> list[BankShard]:
    """Sample i lies at (i, -i), has label i % C and the neighbours i + 1, i + 2, ..."""
    bounds = np.linspace(0, N, count + 1).astype(int).tolist()
    return [BankShard(lambda a=a, b=b: rows(a, b), bank_spec) for a, b in itertools.pairwise(bounds)]


def rows(start: int, stop: int) -> ShardRows:
    ids = np.arange(start, stop)
    graph = (ids[:, None] + 1 + np.arange(K)) % N
    static = np.zeros(len(ids), STATIC)
    static["va"], static["label"] = np.stack([ids, -ids], axis=1), ids % C
    return ShardRows(start=start, static=static, graph=graph.astype(np.int32))


async def read(shard: BankShard, token: str, step: int, rank: int, ids: NDArray) -> NDArray[np.void]:
    """The records of a read."""
    call = BankCall(token=token, rank=rank, read_step=step, ids=ids)
    return as_records(BankAnswer.of(await shard.exchange(call.pack()), call, shard._spec).rows, shard._spec.record)


async def write(shard: BankShard, token: str, rank: int, update: BankUpdate) -> None:
    await shard.exchange(BankCall(token=token, rank=rank, write=to_write(update, shard._spec)).pack())


def to_write(update: BankUpdate, bank_spec: BankSpec) -> Write:
    rows = as_bytes(encode_records(update.probs, update.features, bank_spec, update.step))
    return Write(step=update.step, positions=update.positions, ids=update.ids, rows=rows)


def global_update(step: int) -> BankUpdate:
    """What all ranks together write in a step; ids repeat."""
    rng = np.random.default_rng((7, step))
    return BankUpdate(
        step=step,
        positions=np.arange(BATCH, dtype=np.int32),
        ids=rng.integers(0, N, BATCH),
        probs=rng.dirichlet(np.ones(C), BATCH).astype(np.float32),
        features=rng.normal(size=(BATCH, V)).astype(np.float32),
    )


def part_of(update: BankUpdate, chosen: NDArray[np.bool_]) -> BankUpdate:
    arrays = {name: getattr(update, name)[chosen] for name in ("positions", "ids", "probs", "features")}
    return BankUpdate(step=update.step, **arrays)


def naive_state(up_to: int, momentum: float) -> tuple[NDArray, NDArray, NDArray]:
    probs, features, versions = np.zeros((N, C), np.float32), np.zeros((N, V), np.float32), np.full(N, -1)
    for step in range(up_to + 1):
        update = global_update(step)
        for i in sorted(set(update.ids.tolist())):
            last = np.flatnonzero(update.ids == i)[-1]
            old, new = probs[i], update.probs[last]
            probs[i] = momentum * old + (1 - momentum) * new if versions[i] >= 0 else new
            features[i], versions[i] = update.features[last], step
    return probs, features, versions


def owner(shards: list[BankShard], ids: NDArray) -> NDArray:
    return np.searchsorted([shard._stop for shard in shards], ids, side="right")


async def exchange_all(
    shards: list[BankShard], token: str, step: int, rank: int, update: BankUpdate | None
) -> NDArray[np.void]:
    """Read every row for a step, and write in the same calls where there is something to write."""

    async def one(shard: BankShard) -> NDArray[np.void]:
        ids = np.arange(shard._start, shard._stop)
        own = update and to_write(part_of(update, np.isin(update.ids, ids)), shard._spec)
        call = BankCall(token=token, rank=rank, read_step=step, ids=ids, write=own)
        return as_records(BankAnswer.of(await shard.exchange(call.pack()), call, shard._spec).rows, shard._spec.record)

    return np.concatenate(await asyncio.gather(*map(one, shards)))


async def write_all(shards: list[BankShard], token: str, rank: int, update: BankUpdate) -> None:
    at = owner(shards, update.ids)
    await asyncio.gather(*(write(s, token, rank, part_of(update, at == i)) for i, s in enumerate(shards)))


async def save(shard: BankShard, token: str, step: int, folder: Path) -> Files:
    """The shard's part of a checkpoint, written into a folder."""
    await shard.take_snapshot(token, step)
    return await write_snapshot([shard], token, step, folder)


async def write_snapshot(shards: list[BankShard], token: str, step: int, folder: Path) -> Files:
    written = [await shard.write_snapshot(token, step, str(folder)) for shard in shards]
    return {f"{folder}/{name}": entry for entries in written for name, entry in entries.items()}


def content(files: Files) -> list[bytes]:
    return [Path(uri).read_bytes() for uri in sorted(files)]


async def simulate(
    shards: list[BankShard],
    *,
    world_size: int,
    first: int = 0,
    stop: int = 10,
    files: Files | None = None,
    snapshot_at: int | None = None,
    folder: Path = Path("/nowhere"),
    seed: int = 0,
    token: str = "a",
    together: bool = False,
) -> tuple[dict[int, NDArray], Files]:
    """Ranks that run apart as far as a training loop lets them; returns what each step saw, and a checkpoint's files.

    With ``together`` the write of a step travels with the read of two steps later, as the client does it.
    """
    rng = np.random.default_rng(seed)
    seen: dict[int, NDArray] = {}
    computed = {step: asyncio.Barrier(world_size) for step in range(first, stop)}
    for shard in shards:
        await shard.begin(token, world_size, first, files or {})

    async def dawdle() -> None:
        for _ in range(rng.integers(0, 12)):
            await asyncio.sleep(0)

    async def rank_loop(rank: int) -> None:
        held: BankUpdate | None = None
        ask = asyncio.create_task(exchange_all(shards, token, first, rank, None))
        for step in range(first, stop):
            await dawdle()
            answers = await ask
            if step + 1 < stop:
                ask = asyncio.create_task(exchange_all(shards, token, step + 1, rank, held))
            features, versions = decode_features(answers), answers["versions"]
            seen_now = np.concatenate([answers["probs"], features, versions[:, None]], axis=1)
            np.testing.assert_array_equal(seen.setdefault(step, seen_now), seen_now)
            await computed[step].wait()  # the all-reduce of the step
            await dawdle()
            held = part_of(global_update(step), global_update(step).positions % world_size == rank)
            if not together or step + 1 in (stop, snapshot_at):
                await write_all(shards, token, rank, held)
                held = None
            if rank == 0 and step + 1 == snapshot_at:
                await dawdle()
                await asyncio.gather(*(shard.take_snapshot(token, step + 1) for shard in shards))

    await asyncio.gather(*(rank_loop(rank) for rank in range(world_size)))
    # The shards have gone on meanwhile.
    return seen, {} if snapshot_at is None else await write_snapshot(shards, token, snapshot_at, folder)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("num_shards", [1, 3, 5])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_read_for_step_t_sees_exactly_the_writes_up_to_t_minus_2(world_size, num_shards, momentum):
    for seed in range(4):
        shards = make_shards(num_shards, spec(momentum=momentum))
        seen, _ = asyncio.run(simulate(shards, world_size=world_size, seed=seed, together=seed % 2 == 1))
        for step, table in seen.items():
            probs, features, versions = naive_state(step - 2, momentum)
            np.testing.assert_allclose(table[:, :C], probs, rtol=1e-6)
            np.testing.assert_array_equal(table[:, C:-1], features)
            np.testing.assert_array_equal(table[:, -1], versions)


@pytest.mark.parametrize(("world_size", "num_shards"), [(1, 1), (2, 3), (3, 4)])
@pytest.mark.parametrize("dtypes", [("float16", "float16"), ("float32", "float32"), ("float32", "int8")])
def test_a_restored_bank_goes_on_as_if_nothing_had_happened_on_other_ranks_and_shards(
    world_size, num_shards, dtypes, tmp_path
):
    bank_spec = spec(momentum=0.5, probs_dtype=dtypes[0], features_dtype=dtypes[1])
    straight, _ = asyncio.run(simulate(make_shards(2, bank_spec), world_size=2, stop=12))
    for seed, at in enumerate((1, 2, 6)):
        _, files = asyncio.run(
            simulate(
                make_shards(3, bank_spec),
                world_size=3,
                stop=at + 4,
                snapshot_at=at,
                seed=seed,
                folder=tmp_path / f"{at}",
            )
        )
        shards = make_shards(num_shards, bank_spec)
        resumed, _ = asyncio.run(simulate(shards, world_size=world_size, first=at, stop=12, files=files, seed=seed))
        assert sorted(resumed) == list(range(at, 12))
        for step, table in resumed.items():
            np.testing.assert_array_equal(table, straight[step])


def test_a_snapshot_right_after_a_restore_is_the_restored_one(tmp_path):
    async def scenario() -> None:
        shards = make_shards(1, spec())
        _, files = await simulate(shards, world_size=1, stop=9, snapshot_at=4, folder=tmp_path)
        await shards[0].begin("b", 2, 4, files)
        assert content(await save(shards[0], "b", 4, tmp_path / "again")) == content(files)

    asyncio.run(scenario())


def test_the_snapshot_of_a_step_is_the_same_before_and_after_another_rank_went_on(tmp_path):
    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        await shard.begin("a", 1, 0, {})
        for step in range(4):
            await read(shard, "a", step, 0, NO_IDS)
            await write(shard, "a", 0, global_update(step))
        before = content(await save(shard, "a", 4, tmp_path / "before"))
        await read(shard, "a", 4, 0, NO_IDS)
        assert content(await save(shard, "a", 4, tmp_path / "after")) == before
        await write(shard, "a", 0, global_update(4))
        await read(shard, "a", 5, 0, NO_IDS)
        with pytest.raises(NeighborServiceError, match="snapshot of step 4 was asked for after it was over"):
            await shard.take_snapshot("a", 4)
        with pytest.raises(NeighborServiceError, match="holds no rows as of step 4"):
            await shard.write_snapshot("a", 4, str(tmp_path))

    asyncio.run(scenario())


def test_the_newest_rows_of_a_checkpoint_hold_every_write(tmp_path):
    shards = make_shards(3, spec(momentum=0.3))
    _, files = asyncio.run(simulate(shards, world_size=2, stop=9, snapshot_at=6, folder=tmp_path))
    rows_now, _ = newest(files, N, spec(momentum=0.3))
    probs, features, versions = naive_state(5, 0.3)
    np.testing.assert_array_equal(rows_now.ids, np.arange(N))
    np.testing.assert_allclose(rows_now.records["probs"], probs, rtol=1e-6)
    np.testing.assert_array_equal(rows_now.records["features"], features)
    np.testing.assert_array_equal(rows_now.records["versions"], versions)


def test_an_id_twice_in_a_step_keeps_its_highest_position_whoever_wrote_it_first():
    async def scenario() -> NDArray[np.void]:
        [shard] = make_shards(1, spec())
        await shard.begin("a", 2, 0, {})
        for rank, position in ((1, 3), (0, 8)):
            await read(shard, "a", 0, rank, NO_IDS)
            await write(
                shard,
                "a",
                rank,
                BankUpdate(
                    step=0,
                    positions=np.array([position, position - 3], np.int32),
                    ids=np.array([5, 5]),
                    probs=np.full((2, C), [[position], [-1]], np.float32),
                    features=np.full((2, V), [[position], [-1]], np.float32),
                ),
            )
        for rank in (0, 1):
            await read(shard, "a", 1, rank, NO_IDS)
            await write(shard, "a", rank, part_of(global_update(1), np.zeros(BATCH, bool)))
        return await read(shard, "a", 2, 0, np.array([5, 4]))

    answer = asyncio.run(scenario())
    np.testing.assert_array_equal(answer["probs"], [[8] * C, [0] * C])
    np.testing.assert_array_equal(answer["features"], [[8] * V, [0] * V])
    np.testing.assert_array_equal(answer["versions"], [0, -1])


def test_static_rows_and_neighbours_come_from_the_shard_of_their_id():
    async def scenario() -> None:
        shard = make_shards(2, spec())[1]
        await shard.begin("a", 1, 0, {})
        call = BankCall(token="a", rank=0, read_step=0, ids=np.array([25, 20]), samples=np.array([38, 20, 21]))
        answer = BankAnswer.of(await shard.exchange(call.pack()), call, shard._spec)
        static = as_records(answer.static, STATIC)
        np.testing.assert_array_equal(static["va"], [[25, -25], [20, -20]])
        np.testing.assert_array_equal(static["label"], [25 % C, 20 % C])
        np.testing.assert_array_equal(answer.neighbors[:, :3], [[39, 0, 1], [21, 22, 23], [22, 23, 24]])
        assert (await shard.facts()).start == 20
        asked: list[dict[str, Any]] = [
            {"samples": np.array([19])},
            {"ids": np.array([40])},
            {"write": to_write(global_update(0), spec())},
        ]
        for wrong in asked:
            with pytest.raises(NeighborServiceError, match=r"bank of ids 20..39: asked for ids"):
                await shard.exchange(BankCall(token="a", rank=0, **wrong).pack())

    asyncio.run(scenario())


def test_messages_of_an_attempt_the_shard_does_not_know_are_refused():
    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        with pytest.raises(NeighborServiceError, match="restarted and lost its state"):
            await read(shard, "a", 0, 0, NO_IDS)
        await shard.begin("a", 2, 0, {})
        await read(shard, "a", 0, 0, NO_IDS)
        waiting = asyncio.create_task(read(shard, "a", 2, 0, NO_IDS))
        await asyncio.sleep(0)
        await shard.begin("b", 1, 0, {})
        for call in (waiting, read(shard, "a", 0, 1, NO_IDS), write(shard, "a", 0, global_update(0))):
            with pytest.raises(NeighborServiceError, match="does not know attempt 'a'"):
                await call
        with pytest.raises(NeighborServiceError, match="earlier attempt"):
            await shard.take_snapshot("a", 0)

    asyncio.run(scenario())


def test_a_read_that_waits_too_long_names_the_ranks_whose_messages_are_missing():
    async def scenario() -> None:
        [shard] = make_shards(1, spec(timeout_s=0.05))
        await shard.begin("a", 3, 0, {})
        for rank in (0, 1):
            await read(shard, "a", 0, rank, NO_IDS)
        with pytest.raises(NeighborServiceError, match=r"read of step 1 of rank 1 .*: reads of step 0 .* ranks \[2\]$"):
            await read(shard, "a", 1, 1, NO_IDS)
        await read(shard, "a", 0, 2, NO_IDS)
        await read(shard, "a", 1, 0, NO_IDS)
        await write(shard, "a", 1, global_update(0))
        with pytest.raises(
            NeighborServiceError, match=r"writes of step 0 .* ranks \[0, 2\], reads of step 1 .* ranks \[1, 2\]$"
        ):
            await read(shard, "a", 2, 0, NO_IDS)
        with pytest.raises(NeighborServiceError, match="snapshot of step 1"):
            await shard.take_snapshot("a", 1)

    asyncio.run(scenario())


def test_a_second_read_or_write_of_a_rank_in_one_step_is_refused():
    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        await shard.begin("a", 2, 5, {})
        await read(shard, "a", 5, 0, NO_IDS)
        with pytest.raises(NeighborServiceError, match="rank 0 asked for step 5 twice"):
            await read(shard, "a", 5, 0, NO_IDS)
        await write(shard, "a", 0, global_update(5))
        for step in (5, 4):
            with pytest.raises(NeighborServiceError, match=f"rank 0 wrote step {step} twice or after"):
                await write(shard, "a", 0, global_update(step))

    asyncio.run(scenario())


@pytest.mark.parametrize("probs_dtype", ["float16", "float32"])
@pytest.mark.parametrize("features_dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("widths", [(C, V), (0, 0), (8, 512)])
def test_the_memory_of_a_row_is_known_before_the_bank_is_there(probs_dtype, features_dtype, widths):
    bank_spec = spec(
        num_classes=widths[0], feature_width=widths[1], probs_dtype=probs_dtype, features_dtype=features_dtype
    )
    [shard] = make_shards(1, bank_spec)
    assert asyncio.run(shard.facts()).num_bytes == N * bytes_per_row(bank_spec, K)


def test_an_int8_feature_is_off_by_at_most_half_its_rows_scale():
    features = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32) * np.logspace(-6, 6, 50)[:, None]
    features[7] = 0
    records = encode_records(
        np.zeros((50, C)), features.astype(np.float32), spec(feature_width=64, features_dtype="int8"), 3
    )
    scale = np.abs(features).max(axis=1) / 127
    np.testing.assert_allclose(records["scales"], scale, rtol=1e-6)
    assert records["features"].min() == -127 or records["features"].max() == 127
    assert (np.abs(decode_features(records) - features) <= scale[:, None] * 0.5001).all()
    again = encode_records(
        np.zeros((50, C)), decode_features(records), spec(feature_width=64, features_dtype="int8"), 3
    )
    np.testing.assert_array_equal(again["features"], records["features"])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_int8_row_that_is_not_finite_stays_so(broken):
    features = np.ones((2, V), np.float32)
    features[1, 2] = broken
    decoded = decode_features(encode_records(np.zeros((2, C)), features, spec(features_dtype="int8"), 0))
    np.testing.assert_allclose(decoded[0], 1, rtol=1e-6)
    assert np.isnan(decoded[1]).all()


def test_a_bank_without_outputs_keeps_the_rule_and_its_static_rows(tmp_path):
    bank_spec = spec(num_classes=0, feature_width=0)

    async def scenario() -> None:
        [shard] = make_shards(1, bank_spec)
        await shard.begin("a", 1, 0, {})
        ids = np.array([3, 5])
        nothing = np.zeros((2, 0), np.float32)
        for step in range(3):
            call = BankCall(token="a", rank=0, read_step=step, ids=ids, samples=ids)
            answer = BankAnswer.of(await shard.exchange(call.pack()), call, bank_spec)
            np.testing.assert_array_equal(as_records(answer.static, STATIC)["label"], ids % C)
            np.testing.assert_array_equal(answer.neighbors[:, 0], ids + 1)
            records = as_records(answer.rows, bank_spec.record)
            np.testing.assert_array_equal(records["versions"], [0 if step == 2 else -1] * 2)
            update = BankUpdate(
                step=step, positions=np.arange(2, dtype=np.int32), ids=ids, probs=nothing, features=nothing
            )
            await write(shard, "a", 0, update)
        files = await save(shard, "a", 3, tmp_path)
        await shard.begin("b", 1, 3, files)
        assert content(await save(shard, "b", 3, tmp_path / "again")) == content(files)

    asyncio.run(scenario())


def test_a_warm_bank_starts_with_each_rows_smoothed_label(tmp_path):
    bank_spec = spec(label_smoothing=0.3, momentum=0.5)

    async def scenario() -> None:
        [_, shard] = make_shards(2, bank_spec)
        await shard.begin("a", 1, 0, {})
        ids = np.arange(20, 40)
        start = await read(shard, "a", 0, 0, ids)
        np.testing.assert_allclose(start["probs"], np.eye(C)[ids % C] * 0.7 + 0.1, rtol=1e-6)
        np.testing.assert_array_equal(start["features"], 0)
        np.testing.assert_array_equal(start["versions"], LABEL)
        one = BankUpdate(
            step=0,
            positions=np.zeros(1, np.int32),
            ids=ids[:1],
            probs=np.array([[1, 0, 0]], np.float32),
            features=np.ones((1, V), np.float32),
        )
        await write(shard, "a", 0, one)
        files = await save(shard, "a", 1, tmp_path)
        await shard.begin("b", 1, 1, files)
        assert content(await save(shard, "b", 1, tmp_path / "again")) == content(files)
        await read(shard, "b", 1, 0, NO_IDS)
        await write(shard, "b", 0, part_of(global_update(1), np.zeros(BATCH, bool)))
        after = await read(shard, "b", 2, 0, ids)
        np.testing.assert_allclose(after["probs"][0], (start["probs"][0] + one.probs[0]) / 2, rtol=1e-6)
        np.testing.assert_array_equal(after["versions"], [0] + [LABEL] * 19)

    asyncio.run(scenario())


def test_what_a_bank_was_filled_with_is_there_for_the_first_read_and_in_the_checkpoint(tmp_path):
    async def scenario() -> None:
        [shard] = make_shards(1, spec(features_dtype="int8"))
        await shard.begin("a", 2, 0, {})
        update = global_update(0)
        ids = np.random.default_rng(0).permutation(N)[:BATCH]
        records = encode_records(update.probs, update.features, shard._spec, 0)
        for half in (slice(0, 5), slice(5, None)):
            await shard.fill("a", ids[half], as_bytes(records[half]))
        files = await save(shard, "a", 0, tmp_path)
        seen = await read(shard, "a", 0, 0, np.arange(N))
        np.testing.assert_array_equal(seen[ids], records)
        assert (np.delete(seen["versions"], ids) == -1).all()
        for call in (shard.fill("a", ids, as_bytes(records)), shard.fill("b", ids, as_bytes(records))):
            with pytest.raises(NeighborServiceError, match=r"before the first read|does not know"):
                await call
        await shard.begin("c", 1, 0, files)
        np.testing.assert_array_equal(await read(shard, "c", 0, 0, np.arange(N)), seen)

    asyncio.run(scenario())


def saved_part(folder: Path) -> tuple[Path, Files]:
    """The only part of a checkpoint of step 3, and its list."""
    _, files = asyncio.run(simulate(make_shards(1, spec()), world_size=1, stop=6, snapshot_at=3, folder=folder))
    return Path(*files), files


def test_a_checkpoint_of_the_first_format_is_read_and_one_of_another_form_refused(tmp_path):
    path, files = saved_part(tmp_path)
    today, part = unpack(files, 0, N, spec()), path.read_bytes()
    with pytest.raises(DataError, match=r"features as float32, the run as float32 and int8 .bank.probs_dtype"):
        unpack(files, 0, N, spec(features_dtype="int8"))
    for version in (9, 1):
        other = part.replace(b'"format_version\\": 2', b'"format_version\\": %d' % version)
        assert other != part
        path.write_bytes(other)
        files = {str(path): checksums.describe(other)}
        if version == 9:
            with pytest.raises(DataError, match="has format_version 9, this program reads up to 2"):
                unpack(files, 0, N, spec())
    np.testing.assert_array_equal(unpack(files, 0, N, spec()).visible.records, today.visible.records)
    np.testing.assert_array_equal(unpack(files, 0, N, spec()).pending.records, today.pending.records)


def test_a_part_is_a_safetensors_file_that_the_library_reads(tmp_path):
    path, files = saved_part(tmp_path)
    restored, columns = unpack(files, 0, N, spec()), load_file(path)
    for name in ("probs", "features", "versions"):
        np.testing.assert_array_equal(columns[name], restored.visible.records[name])
    np.testing.assert_array_equal(columns["young_ids"], restored.pending.ids)
    np.testing.assert_array_equal(columns["young_features"], restored.pending.records["features"])


def test_two_readings_of_a_part_have_the_same_bytes_between_their_fields_too(tmp_path):
    padded = spec(probs_dtype="float16", features_dtype="int8")
    assert padded.record.itemsize == 8 + 4 + 2 * C + V + 2
    _, files = asyncio.run(simulate(make_shards(2, padded), world_size=1, stop=6, snapshot_at=3, folder=tmp_path))
    for _ in range(20):
        dirt = [np.full(n * padded.record.itemsize, 255, np.uint8) for n in range(1, N)]
        del dirt  # new arrays are laid upon it
        restored = unpack(files, 0, N, padded)
        for found in (restored.visible, restored.pending):
            assert len(found.ids)
            assert not as_bytes(found.records)[:, -2:].any()


@pytest.mark.parametrize("place", [3, 20, 700, -1])
def test_a_damaged_part_is_named(tmp_path, place):
    path, files = saved_part(tmp_path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)

    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        with pytest.raises(DataError, match=f"{path.name} is damaged: checksum should be"):
            await shard.begin("a", 1, 3, files)

    asyncio.run(scenario())


def test_a_part_that_cannot_be_written_is_named_and_nothing_of_it_stays(tmp_path):
    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        await shard.begin("a", 1, 0, {})
        (tmp_path / "bank").write_bytes(b"no folder")
        with pytest.raises(
            ClusterError, match=r"the store failed at .*/bank/ids-000000000000-000000000040.safetensors"
        ):
            await save(shard, "a", 0, tmp_path)
        assert os.listdir(tmp_path) == ["bank"]
        (tmp_path / "bank").unlink()
        assert content(await save(shard, "a", 0, tmp_path))

    asyncio.run(scenario())


def test_a_new_attempt_gives_up_the_snapshot_of_the_one_before(tmp_path):
    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        await shard.begin("a", 1, 0, {})
        await shard.take_snapshot("a", 0)
        assert shard._attempt.rows
        snapshot = shard._attempt.rows.snapshot
        assert snapshot
        await shard.begin("b", 1, 0, {})
        with pytest.raises(NeighborServiceError, match="asked for after they were given up"):
            snapshot.rows.read("probs", 0, 1)
        with pytest.raises(NeighborServiceError, match="earlier attempt"):
            await shard.write_snapshot("a", 0, str(tmp_path))

    asyncio.run(scenario())


def test_features_for_a_graph_hold_every_write_and_no_read_sees_them_early():
    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        await shard.begin("a", 1, 0, {})
        for step in range(4):
            await read(shard, "a", step, 0, NO_IDS)
            await write(shard, "a", 0, global_update(step))
        await shard.keep_features("a", 4, 1)
        first = await shard.features("a", 4, 0, 7)
        seen = await read(shard, "a", 4, 0, np.arange(N))
        np.testing.assert_array_equal(seen["features"], naive_state(2, 0.0)[1])
        for step in range(4, 6):  # training goes on while features are handed out
            await write(shard, "a", 0, global_update(step))
            await read(shard, "a", step + 1, 0, NO_IDS)
        features = np.concatenate([first, await shard.features("a", 4, 7, N)])
        np.testing.assert_array_equal(features, naive_state(3, 0.0)[1])
        with pytest.raises(NeighborServiceError, match="keeps no features as of step 5"):
            await shard.features("a", 5, 0, 7)
        await shard.drop_features("a")
        with pytest.raises(NeighborServiceError, match="keeps no features as of step 4"):
            await shard.features("a", 4, 0, 7)

    asyncio.run(scenario())


def test_a_shard_that_started_again_goes_on_where_the_rule_of_time_can_begin_anew(tmp_path):
    """Rank 0 lacks the answer to its read of step 5, rank 1 has it and asked for step 6; the last snapshot is of 3."""
    ids = np.arange(N)
    _, files = saved_part(tmp_path)
    known = naive_state(2, 0.0)[2]

    async def scenario() -> None:
        shard = BankShard(lambda: rows(0, N), spec(), lambda: files)

        async def turn(rank: int, step: int) -> NDArray[np.int64]:
            """The write of step - 2 and the read of a step."""
            own = part_of(global_update(step - 2), np.arange(BATCH) % 2 == rank)
            call = BankCall(token="a", rank=rank, write=to_write(own, shard._spec), read_step=step, ids=ids)
            answer = BankAnswer.of(await shard.exchange(call.pack()), call, shard._spec)
            return as_records(answer.rows, shard._spec.record)["versions"].copy()

        with pytest.raises(StateLost, match="restarted and lost its state"):
            await turn(0, 5)
        await shard.rejoin("a", 2, 5)
        np.testing.assert_array_equal(await turn(0, 5), known)
        await shard.rejoin("a", 2, 6)  # the other rank finds out later, and changes nothing
        np.testing.assert_array_equal(await turn(1, 6), known)
        again, _ = newest(await save(shard, "a", 6, tmp_path / "again"), N, spec())
        np.testing.assert_array_equal(again.records["versions"], known)
        for rank, step in ((0, 6), (0, 7), (1, 7)):
            np.testing.assert_array_equal(await turn(rank, step), known)
        early = asyncio.create_task(turn(0, 8))
        np.testing.assert_array_equal(await turn(1, 8), known)
        np.testing.assert_array_equal(await early, known)
        early = asyncio.create_task(turn(0, 9))
        await asyncio.sleep(0)
        assert not early.done(), "the rule holds again: rank 1 has not written step 7"
        seen = await turn(1, 9)
        expected = known.copy()
        expected[global_update(7).ids] = 7
        np.testing.assert_array_equal(seen, expected)
        np.testing.assert_array_equal(await early, expected)
        with pytest.raises(NeighborServiceError, match="earlier attempt"):
            await shard.rejoin("old", 2, 5)

    asyncio.run(scenario())


def test_a_shard_that_is_lost_before_it_wrote_what_it_held_writes_what_the_last_checkpoint_held(tmp_path):
    _, files = saved_part(tmp_path)

    async def scenario() -> None:
        lost, new = BankShard(lambda: rows(0, N), spec()), BankShard(lambda: rows(0, N), spec(), lambda: files)
        with pytest.raises(StateLost, match="restarted and lost its state"):
            await lost.write_snapshot("a", 7, str(tmp_path / "7"))
        for rejoin in (False, True):
            if rejoin:
                await new.rejoin("a", 1, 8)
            restored = unpack(await write_snapshot([new], "a", 7, tmp_path / "7"), 0, N, spec(), step=7)
            np.testing.assert_array_equal(restored.visible.records, newest(files, N, spec())[0].records)
        with pytest.raises(NeighborServiceError, match="earlier attempt"):
            await new.write_snapshot("old", 7, str(tmp_path))

    asyncio.run(scenario())


def test_a_shard_without_a_snapshot_goes_on_as_a_new_one():
    async def scenario() -> None:
        shard = BankShard(lambda: rows(0, N), spec(), lambda: {})
        await shard.rejoin("a", 1, 4)
        assert (await read(shard, "a", 4, 0, np.arange(N)))["versions"].tolist() == [-1] * N

    asyncio.run(scenario())


def test_a_drained_shard_takes_nothing_more_and_lets_go_who_waits():
    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        await shard.begin("a", 2, 0, {})
        await read(shard, "a", 0, 0, NO_IDS)
        waiting = asyncio.create_task(read(shard, "a", 2, 0, NO_IDS))
        await asyncio.sleep(0)
        await shard.drain()
        for call in (waiting, shard.begin("b", 1, 0, {}), write(shard, "a", 0, global_update(0))):
            with pytest.raises(NeighborServiceError, match="takes nothing more: its service was drained"):
                await call

    asyncio.run(scenario())


def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    async def scenario() -> None:
        shards = make_shards(2, spec())
        _, files = await simulate(shards, world_size=1, stop=4, snapshot_at=3, folder=tmp_path)
        [whole] = make_shards(1, spec())
        with pytest.raises(DataError, match=r"lacks 20 of the ids 0\.\.39"):
            await whole.begin("b", 1, 3, dict(sorted(files.items())[:1]))
        with pytest.raises(DataError, match=r"must be of step 4, got .*20.safetensors of step 3"):
            await whole.begin("b", 1, 4, files)
        [wider] = make_shards(1, spec(num_classes=C + 1))
        with pytest.raises(DataError, match=f"has {C} classes"):
            await wider.begin("b", 1, 3, files)
        with pytest.raises(NeighborServiceError, match="does not know attempt 'b'"):
            await read(whole, "b", 3, 0, NO_IDS)

    asyncio.run(scenario())


def test_parts_that_hold_none_of_the_ids_are_not_read(tmp_path):
    _, files = asyncio.run(simulate(make_shards(4, spec()), world_size=1, stop=4, snapshot_at=3, folder=tmp_path))
    whole = unpack(files, 0, N, spec())
    for uri in (min(files), max(files)):
        Path(uri).unlink()
    np.testing.assert_array_equal(unpack(files, 10, 30, spec()).visible.records, whole.visible.records[10:30])
    with pytest.raises(DataError, match=r"there is no file .*ids-000000000000"):
        unpack(files, 9, 30, spec())


@pytest.mark.parametrize("smoothing", [None, 0.2])
def test_a_new_bank_takes_over_what_another_run_wrote_of_the_rows_that_it_knew(tmp_path, smoothing):
    async def scenario() -> None:
        _, files = await simulate(make_shards(3, spec()), world_size=1, stop=4, snapshot_at=3, folder=tmp_path)
        before, _ = newest(files, N, spec())
        more, bank_spec = N + 7, spec(label_smoothing=smoothing)
        shards = [BankShard(lambda a=a, b=b: rows(a, b), bank_spec) for a, b in ((0, 15), (15, 43), (43, more))]
        for shard in shards:
            await shard.begin("b", 1, 0, files, N)
        answers = [await read(shard, "b", 0, 0, np.arange(shard._start, shard._stop)) for shard in shards]
        seen = np.concatenate(answers)
        written = np.flatnonzero(before.records["versions"] >= 0)
        assert 0 < len(written) < N
        for name in ("probs", "features"):
            np.testing.assert_array_equal(seen[name][written], before.records[name][written])
        assert (seen["versions"][written] == 0).all()
        others = np.setdiff1d(np.arange(more), written)
        assert (seen["versions"][others] == (-1 if smoothing is None else LABEL)).all()

    asyncio.run(scenario())
