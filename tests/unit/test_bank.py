import asyncio
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from ldlva_dist.errors import DataError, NeighborServiceError
from ldlva_dist.messages import BankUpdate
from ldlva_dist.neighbors.bank import BankRows, BankShard, ShardRows
from ldlva_dist.neighbors.outputs import BankSpec, newest, read_header

N, C, V, K, BATCH = 40, 3, 4, 5, 12
NO_IDS = np.zeros(0, np.int64)


def spec(**changes) -> BankSpec:
    return BankSpec(**{"num_classes": C, "feature_width": V, "dtype": "float32", "timeout_s": 20.0} | changes)


def make_shards(count: int, bank_spec: BankSpec) -> list[BankShard]:
    """Sample i lies at (i, -i), has label i % C and the neighbours i + 1, i + 2, ..."""
    bounds = np.linspace(0, N, count + 1).astype(int).tolist()
    return [BankShard(lambda a=a, b=b: rows(a, b), bank_spec) for a, b in itertools.pairwise(bounds)]


def rows(start: int, stop: int) -> ShardRows:
    ids = np.arange(start, stop)
    graph = (ids[:, None] + 1 + np.arange(K)) % N
    va = np.stack([ids, -ids], axis=1).astype(np.float32)
    return ShardRows(start=start, va=va, labels=ids % C, graph=graph.astype(np.int32))


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


async def read_all(shards: list[BankShard], token: str, step: int, rank: int, ids: NDArray) -> list[BankRows]:
    at = owner(shards, ids)
    return await asyncio.gather(*(s.read(token, step, rank, ids[at == i]) for i, s in enumerate(shards)))


async def write_all(shards: list[BankShard], token: str, rank: int, update: BankUpdate) -> None:
    at = owner(shards, update.ids)
    await asyncio.gather(*(s.write(token, rank, part_of(update, at == i)) for i, s in enumerate(shards)))


async def simulate(
    shards: list[BankShard],
    *,
    world_size: int,
    first: int = 0,
    stop: int = 10,
    parts: list[bytes] | None = None,
    snapshot_at: int | None = None,
    seed: int = 0,
    token: str = "a",
) -> tuple[dict[int, NDArray], list[bytes]]:
    """Ranks that run apart as far as a training loop lets them; returns what each step saw, and a checkpoint."""
    rng = np.random.default_rng(seed)
    seen: dict[int, NDArray] = {}
    saved: list[bytes] = []
    computed = {step: asyncio.Barrier(world_size) for step in range(first, stop)}
    for shard in shards:
        await shard.begin(token, world_size, first, parts or [])

    async def dawdle() -> None:
        for _ in range(rng.integers(0, 12)):
            await asyncio.sleep(0)

    async def rank_loop(rank: int) -> None:
        ids = np.arange(N)
        ask = asyncio.create_task(read_all(shards, token, first, rank, ids))
        for step in range(first, stop):
            await dawdle()
            answers = await ask
            if step + 1 < stop:
                ask = asyncio.create_task(read_all(shards, token, step + 1, rank, ids))
            versions = np.concatenate([answer.versions for answer in answers])
            probs = np.concatenate([answer.probs for answer in answers])
            features = np.concatenate([answer.features for answer in answers])
            seen_now = np.concatenate([probs, features, versions[:, None]], axis=1)
            np.testing.assert_array_equal(seen.setdefault(step, seen_now), seen_now)
            await computed[step].wait()  # the all-reduce of the step
            await dawdle()
            update = global_update(step)
            await write_all(shards, token, rank, part_of(update, update.positions % world_size == rank))
            if rank == 0 and step + 1 == snapshot_at:
                await dawdle()
                saved.extend(await asyncio.gather(*(shard.snapshot(token, snapshot_at) for shard in shards)))

    await asyncio.gather(*(rank_loop(rank) for rank in range(world_size)))
    return seen, saved


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("num_shards", [1, 3, 5])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_read_for_step_t_sees_exactly_the_writes_up_to_t_minus_2(world_size, num_shards, momentum):
    for seed in range(4):
        shards = make_shards(num_shards, spec(momentum=momentum))
        seen, _ = asyncio.run(simulate(shards, world_size=world_size, seed=seed))
        for step, table in seen.items():
            probs, features, versions = naive_state(step - 2, momentum)
            np.testing.assert_allclose(table[:, :C], probs, rtol=1e-6)
            np.testing.assert_array_equal(table[:, C:-1], features)
            np.testing.assert_array_equal(table[:, -1], versions)


@pytest.mark.parametrize(("world_size", "num_shards"), [(1, 1), (2, 3), (3, 4)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_restored_bank_goes_on_as_if_nothing_had_happened_on_other_ranks_and_shards(world_size, num_shards, dtype):
    bank_spec = spec(momentum=0.5, dtype=dtype)
    straight, _ = asyncio.run(simulate(make_shards(2, bank_spec), world_size=2, stop=12))
    for seed, at in enumerate((1, 2, 6)):
        _, parts = asyncio.run(
            simulate(make_shards(3, bank_spec), world_size=3, stop=at + 1, snapshot_at=at, seed=seed)
        )
        shards = make_shards(num_shards, bank_spec)
        resumed, _ = asyncio.run(
            simulate(shards, world_size=world_size, first=at, stop=12, parts=parts[::-1], seed=seed)
        )
        assert sorted(resumed) == list(range(at, 12))
        for step, table in resumed.items():
            np.testing.assert_array_equal(table, straight[step])


def test_a_snapshot_right_after_a_restore_is_the_restored_one():
    async def scenario() -> None:
        shards = make_shards(1, spec())
        _, [part] = await simulate(shards, world_size=1, stop=5, snapshot_at=4)
        await shards[0].begin("b", 2, 4, [part])
        assert await shards[0].snapshot("b", 4) == part

    asyncio.run(scenario())


def test_the_snapshot_of_a_step_is_the_same_before_and_after_another_rank_went_on():
    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        await shard.begin("a", 1, 0, [])
        for step in range(4):
            await shard.read("a", step, 0, NO_IDS)
            await shard.write("a", 0, global_update(step))
        before = await shard.snapshot("a", 4)
        await shard.read("a", 4, 0, NO_IDS)
        assert await shard.snapshot("a", 4) == before
        await shard.write("a", 0, global_update(4))
        await shard.read("a", 5, 0, NO_IDS)
        with pytest.raises(NeighborServiceError, match="snapshot of step 4 was asked for after it was over"):
            await shard.snapshot("a", 4)

    asyncio.run(scenario())


def test_the_newest_rows_of_a_checkpoint_hold_every_write():
    _, parts = asyncio.run(simulate(make_shards(3, spec(momentum=0.3)), world_size=2, stop=7, snapshot_at=6))
    rows_now = newest(parts, spec(momentum=0.3))
    probs, features, versions = naive_state(5, 0.3)
    np.testing.assert_array_equal(rows_now.ids, np.arange(N))
    np.testing.assert_allclose(rows_now.probs, probs, rtol=1e-6)
    np.testing.assert_array_equal(rows_now.features, features)
    np.testing.assert_array_equal(rows_now.versions, versions)


def test_an_id_twice_in_a_step_keeps_its_highest_position_whoever_wrote_it_first():
    async def scenario() -> BankRows:
        [shard] = make_shards(1, spec())
        await shard.begin("a", 2, 0, [])
        for rank, position in ((1, 3), (0, 8)):
            await shard.read("a", 0, rank, NO_IDS)
            await shard.write(
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
            await shard.read("a", 1, rank, NO_IDS)
            await shard.write("a", rank, part_of(global_update(1), np.zeros(BATCH, bool)))
        return await shard.read("a", 2, 0, np.array([5, 4]))

    answer = asyncio.run(scenario())
    np.testing.assert_array_equal(answer.probs, [[8] * C, [0] * C])
    np.testing.assert_array_equal(answer.features, [[8] * V, [0] * V])
    np.testing.assert_array_equal(answer.versions, [0, -1])


def test_static_rows_and_neighbours_come_from_the_shard_of_their_id():
    async def scenario() -> None:
        shard = make_shards(2, spec())[1]
        await shard.begin("a", 1, 0, [])
        answer = await shard.read("a", 0, 0, np.array([25, 20]))
        np.testing.assert_array_equal(answer.va, [[25, -25], [20, -20]])
        np.testing.assert_array_equal(answer.labels, [25 % C, 20 % C])
        np.testing.assert_array_equal(await shard.neighbors(np.array([38, 20]), 3), [[39, 0, 1], [21, 22, 23]])
        assert (await shard.facts()).start == 20
        with pytest.raises(NeighborServiceError, match=r"bank of ids 20..39: asked for ids 19..19"):
            await shard.neighbors(np.array([19]), 3)

    asyncio.run(scenario())


def test_messages_of_an_attempt_the_shard_does_not_know_are_refused():
    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        with pytest.raises(NeighborServiceError, match="restarted and lost its state"):
            await shard.read("a", 0, 0, NO_IDS)
        await shard.begin("a", 2, 0, [])
        await shard.read("a", 0, 0, NO_IDS)
        waiting = asyncio.create_task(shard.read("a", 2, 0, NO_IDS))
        await asyncio.sleep(0)
        await shard.begin("b", 1, 0, [])
        for call in (waiting, shard.read("a", 0, 1, NO_IDS), shard.write("a", 0, global_update(0))):
            with pytest.raises(NeighborServiceError, match="does not know attempt 'a'"):
                await call
        with pytest.raises(NeighborServiceError, match="earlier attempt"):
            await shard.snapshot("a", 0)

    asyncio.run(scenario())


def test_a_read_that_waits_too_long_names_the_ranks_whose_messages_are_missing():
    async def scenario() -> None:
        [shard] = make_shards(1, spec(timeout_s=0.05))
        await shard.begin("a", 3, 0, [])
        for rank in (0, 1):
            await shard.read("a", 0, rank, NO_IDS)
        with pytest.raises(NeighborServiceError, match=r"read of step 1 of rank 1 .*: reads of step 0 .* ranks \[2\]$"):
            await shard.read("a", 1, 1, NO_IDS)
        await shard.read("a", 0, 2, NO_IDS)
        await shard.read("a", 1, 0, NO_IDS)
        await shard.write("a", 1, global_update(0))
        with pytest.raises(
            NeighborServiceError, match=r"writes of step 0 .* ranks \[0, 2\], reads of step 1 .* ranks \[1, 2\]$"
        ):
            await shard.read("a", 2, 0, NO_IDS)
        with pytest.raises(NeighborServiceError, match="snapshot of step 1"):
            await shard.snapshot("a", 1)

    asyncio.run(scenario())


def test_a_second_read_or_write_of_a_rank_in_one_step_is_refused():
    async def scenario() -> None:
        [shard] = make_shards(1, spec())
        await shard.begin("a", 2, 5, [])
        await shard.read("a", 5, 0, NO_IDS)
        with pytest.raises(NeighborServiceError, match="rank 0 asked for step 5 twice"):
            await shard.read("a", 5, 0, NO_IDS)
        await shard.write("a", 0, global_update(5))
        for step in (5, 4):
            with pytest.raises(NeighborServiceError, match=f"rank 0 wrote step {step} twice or after"):
                await shard.write("a", 0, global_update(step))

    asyncio.run(scenario())


def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing():
    async def scenario() -> None:
        shards = make_shards(2, spec())
        _, parts = await simulate(shards, world_size=1, stop=4, snapshot_at=3)
        [whole] = make_shards(1, spec())
        with pytest.raises(DataError, match=r"lacks 20 of the ids 0\.\.39"):
            await whole.begin("b", 1, 3, parts[:1])
        with pytest.raises(DataError, match=r"must be of step 4, got steps \[3\]"):
            await whole.begin("b", 1, 4, parts)
        [wider] = make_shards(1, spec(num_classes=C + 1))
        with pytest.raises(DataError, match=f"has {C} classes"):
            await wider.begin("b", 1, 3, parts)
        with pytest.raises(NeighborServiceError, match="does not know attempt 'b'"):
            await whole.read("b", 3, 0, NO_IDS)

    asyncio.run(scenario())


def test_the_header_of_a_part_says_which_ids_and_step_it_holds():
    _, parts = asyncio.run(simulate(make_shards(2, spec()), world_size=1, stop=4, snapshot_at=3))
    headers = [read_header(part) for part in parts]
    assert [(header.start, header.stop, header.step) for header in headers] == [(0, 20, 3), (20, 40, 3)]
    assert headers[0].overlaps(19, 25)
    assert not headers[0].overlaps(20, 25)
