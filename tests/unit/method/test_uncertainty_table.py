"""The sharded table against a plain array, on 1 to 4 gloo ranks."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from ldlva_dist.method.row_routes import Route, RowRoutes
from ldlva_dist.method.uncertainty_table import NOISE_ROWS, StartNoise, UncertaintyTable
from testing.forked_ranks import run_ranks

NUM_ROWS, LR, MOMENTUM = 23, 0.3125, 0.9


def _store(path: str, world_size: int) -> Any:
    return dist.FileStore(path, world_size)  # pyright: ignore[reportPrivateImportUsage] (torch documents it there)


def _steps(seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Six global batches of 12 (ids, gradients); ids repeat inside a batch."""
    generator = np.random.default_rng(seed)
    return [(generator.integers(0, NUM_ROWS, 12), generator.normal(size=12).astype(np.float32)) for _ in range(6)]


def _expected(steps: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    logits, velocity = np.full(NUM_ROWS, -0.5, np.float64), np.zeros(NUM_ROWS)
    for ids, gradients in steps:
        total = np.zeros(NUM_ROWS)
        np.add.at(total, ids, gradients)
        for row in set(ids.tolist()):
            velocity[row] = MOMENTUM * velocity[row] + total[row]
            logits[row] -= LR * velocity[row]
    return logits


def _table(group: dist.ProcessGroup | None) -> UncertaintyTable:
    return UncertaintyTable(NUM_ROWS, initial_logit=-0.5, lr=LR, momentum=MOMENTUM, group=group)


def _new_group() -> dist.ProcessGroup:
    return dist.new_group()  # pyright: ignore[reportReturnType] (all ranks are in it)


def _apply(table: UncertaintyTable, ids: np.ndarray, gradients: np.ndarray) -> None:
    route = table.route(ids)
    table.read(route)
    table.apply(route, torch.from_numpy(np.ascontiguousarray(gradients)))()


def _rank(rank: int, world_size: int, folder: str) -> None:
    store = _store(f"{folder}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    table = _table(_new_group())
    steps = _steps()
    for ids, gradients in steps[:3]:
        _apply(table, ids[rank::world_size], gradients[rank::world_size])
    save_file(table.state(), f"{folder}/part-{rank}.safetensors")
    dist.barrier()
    resumed = _table(_new_group())
    resumed.restore([load_file(f"{folder}/part-{r}.safetensors") for r in reversed(range(world_size))])
    for ids, gradients in steps[3:]:
        _apply(resumed, ids[rank::world_size], gradients[rank::world_size])
    asked = np.random.default_rng(rank).permutation(NUM_ROWS)[: 5 * rank]
    np.savez(f"{folder}/rank-{rank}.npz", asked=asked, answered=resumed.read(resumed.route(asked)), mean=resumed.mean())
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_table_on_several_ranks_resumed_in_the_middle_equals_a_plain_array(world_size: int, tmp_path) -> None:
    run_ranks(_rank, (world_size, str(tmp_path)), world_size)

    logits = _expected(_steps())
    for rank in range(world_size):
        with np.load(tmp_path / f"rank-{rank}.npz") as got:
            np.testing.assert_allclose(got["answered"], logits[got["asked"]], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(got["mean"], np.mean(1 / (1 + np.exp(-logits))), rtol=1e-6)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_table_is_restored_from_any_number_of_parts(parts: int) -> None:
    table = _table(None)
    for ids, gradients in _steps():
        _apply(table, ids, gradients)
    whole = table.state()
    cuts = np.linspace(0, NUM_ROWS, parts + 1).astype(int)
    saved = [
        {"first_id": torch.tensor([a]), "logits": whole["logits"][a:b], "velocity": whole["velocity"][a:b]}
        for a, b in itertools.pairwise(cuts)
    ]

    restored = _table(None)
    restored.restore(saved)

    assert torch.equal(restored.state()["logits"], whole["logits"])
    assert torch.equal(restored.state()["velocity"], whole["velocity"])
    with pytest.raises(ValueError, match="covers"):
        _table(None).restore(saved[1:])


def test_rows_that_the_saved_table_did_not_know_stay_as_they_are() -> None:
    old, grown = (UncertaintyTable(rows, initial_logit=-0.5, lr=1.0, momentum=0.9) for rows in (6, 10))
    ids = np.array([1, 4])
    route = old.route(ids)
    old.read(route)
    old.apply(route, torch.tensor([2.0, -3.0]))()
    with pytest.raises(ValueError, match=r"the saved table covers 6 of the rows 0\.\.7"):
        grown.restore([old.state()], known_rows=7)
    grown.restore([old.state()], known_rows=6)
    for name in ("logits", "velocity"):
        torch.testing.assert_close(grown.state()[name][:6], old.state()[name], rtol=0, atol=0)
    assert (grown.state()["logits"][6:] == -0.5).all()
    assert (grown.state()["velocity"][6:] == 0).all()


def test_rows_outside_the_batch_do_not_move_in_spite_of_momentum() -> None:
    table = _table(None)
    _apply(table, np.array([3]), np.array([1.0], np.float32))
    before = table.read(table.route(np.array([3])))
    _apply(table, np.array([4]), np.array([1.0], np.float32))
    assert table.read(table.route(np.array([3]))) == before


def _bits(steps: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The last logits, and those that each step read, of a table that knows no ranks: float32, sums in one order."""
    logits, velocity, read = np.full(NUM_ROWS, -0.5, np.float32), np.zeros(NUM_ROWS, np.float32), []
    for ids, gradients in steps:
        read.append(logits[_read_by(ids)])
        for row in np.unique(ids):
            total = sum(np.sort(gradients[ids == row]), start=np.float32(0))
            velocity[row] = np.float32(MOMENTUM) * velocity[row] + total
            logits[row] -= np.float32(LR) * velocity[row]
    return logits, read


def _read_by(ids: np.ndarray) -> np.ndarray:
    """The batch, and two neighbours of each."""
    return np.concatenate([ids, ((ids[:, None] * 7 + np.array([1, 5])) % NUM_ROWS).ravel()])


WIDE_LR = (0.25, 0.0, 1.5)
SPREAD = 0.1


def _wide_table(group: dist.ProcessGroup | None, seed: int = 3) -> UncertaintyTable:
    """Three numbers of each sample, each with its own rate."""
    noise = StartNoise(deviation=SPREAD, seed=seed)
    return UncertaintyTable(NUM_ROWS, initial_logit=0.5, lr=WIDE_LR, noise=noise, group=group)


def _wide_steps() -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(4)
    shapes = [(generator.integers(0, NUM_ROWS, 12), generator.normal(size=(12, 3))) for _ in range(4)]
    return [(ids, gradients.astype(np.float32)) for ids, gradients in shapes]


def _rank_of_wide_rows(rank: int, world_size: int, folder: str) -> None:
    if world_size > 1:
        store = _store(f"{folder}/store", world_size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)

    def new_group() -> dist.ProcessGroup | None:
        return _new_group() if world_size > 1 else None

    table, read, said = _wide_table(new_group()), [], []
    for step, (ids, gradients) in enumerate(_wide_steps()):
        if step == 2:
            save_file(table.state(), f"{folder}/part-{rank}.safetensors")
            if world_size > 1:
                dist.barrier()
            table = _wide_table(new_group(), seed=99)
            table.restore([load_file(f"{folder}/part-{r}.safetensors") for r in range(world_size)])
        route = table.route(ids[rank::world_size])
        read.append(table.read(route).clone())
        mine = torch.from_numpy(np.ascontiguousarray(gradients[rank::world_size]))
        said.append(table.apply(route, mine, torch.tensor([float(rank), float(step)]))())
    torch.save({"read": read, "said": said, "state": table.state()}, f"{folder}/rank-{rank}.pt")
    if world_size > 1:
        dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_rows_of_several_numbers_start_alike_and_move_each_at_its_own_rate_on_any_ranks(
    world_size: int, tmp_path
) -> None:
    run_ranks(_rank_of_wide_rows, (world_size, str(tmp_path)), world_size)

    values = _wide_table(None).state()["logits"].numpy().copy()
    assert values.shape == (NUM_ROWS, 3)
    assert 0.05 < (values - 0.5).std() < 0.2
    assert not np.array_equal(values, _wide_table(None, seed=4).state()["logits"].numpy())
    got = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(world_size)]
    for step, (ids, gradients) in enumerate(_wide_steps()):
        for rank, one in enumerate(got):
            np.testing.assert_allclose(one["read"][step].numpy(), values[ids[rank::world_size]], rtol=1e-6)
            assert one["said"][step].tolist() == [[r, step] for r in range(world_size)]
        total = np.zeros_like(values)
        np.add.at(total, ids, gradients)
        values -= np.array(WIDE_LR, dtype=np.float32) * total
    np.testing.assert_allclose(torch.cat([one["state"]["logits"] for one in got]).numpy(), values, rtol=1e-5, atol=1e-6)


def test_a_table_of_other_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="the saved table has 3 numbers of each sample"):
        _table(None).restore([_wide_table(None).state()])


def test_noise_does_not_depend_on_which_rows_are_drawn_with_it() -> None:
    noise = StartNoise(deviation=3.0, seed=7)
    whole = noise.of_rows(0, 2 * NOISE_ROWS + 5, 2)
    assert whole.std().item() == pytest.approx(3, abs=0.06)
    for start, stop in ((0, 3), (NOISE_ROWS - 2, NOISE_ROWS + 9), (2 * NOISE_ROWS, 2 * NOISE_ROWS + 5), (4, 4)):
        assert torch.equal(noise.of_rows(start, stop, 2), whole[start:stop])


def _rank_with_routes_ahead(rank: int, world_size: int, folder: str, is_banks: bool) -> None:
    group, other_group = None, None
    sent, awaited, bare, bare_receive = list[str](), list[str](), dist.isend, dist.irecv
    if world_size > 1:
        store = _store(f"{folder}/store-{world_size}", world_size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
        group, other_group = dist.group.WORLD, _new_group()
    dist.isend = lambda *args, **kwargs: sent.append(kwargs["tag"].name) or bare(*args, **kwargs)
    dist.irecv = lambda *args, **kwargs: awaited.append(kwargs["tag"].name) or bare_receive(*args, **kwargs)
    table = _table(group)
    assert set(awaited) == ({"COUNTS"} if world_size > 1 else set()), "the first counts are waited for from the start"
    ways = RowRoutes(NUM_ROWS, other_group)

    def route_of(ids: np.ndarray) -> Route:
        if not is_banks:
            return table.route(_read_by(ids), len(ids))
        route = ways.begin(_read_by(ids), len(ids))
        table.expect(route)
        return route

    mine = [(ids[rank::world_size], gradients[rank::world_size]) for ids, gradients in _steps()]
    routes, read, said = [route_of(mine[0][0])], [], []
    for step, (_, gradients) in enumerate(mine):
        if step + 1 < len(mine):  # as training does: the next step's way is begun before this step is read
            awaited.clear()
            routes.append(route_of(mine[step + 1][0]))
            assert set(awaited) == ({"COUNTS", "ROWS"} if world_size > 1 else set()), "a step before they are sent"
        sent.clear()
        read.append(table.read(routes[step]).clone())
        assert set(sent) == ({"IDS", "ROWS"} if world_size > 1 and step == 0 else set()), "a read has an answer already"
        told = table.apply(routes[step], torch.from_numpy(gradients.copy()), torch.tensor([rank, step + 0.5]))
        table.settle()
        is_last = step + 1 == len(mine)
        said.append(told())
        assert ("ROWS" in sent) == (world_size > 1 and (step == 0 or not is_last)), "the next read's are sent"
    torch.save({"read": read, "said": said, "state": table.state()}, f"{folder}/rank-{rank}-of-{world_size}.pt")
    if world_size > 1:
        dist.destroy_process_group()


@pytest.mark.parametrize("is_banks", [False, True], ids=["by the table's routes", "by the bank's"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_reads_begun_ahead_see_every_step_before_them_and_no_bit_depends_on_the_ranks(
    world_size: int, is_banks: bool, tmp_path
) -> None:
    run_ranks(_rank_with_routes_ahead, (world_size, str(tmp_path), is_banks), world_size)

    steps = _steps()
    logits, read = _bits(steps)
    got = [torch.load(tmp_path / f"rank-{rank}-of-{world_size}.pt") for rank in range(world_size)]
    np.testing.assert_array_equal(torch.cat([one["state"]["logits"] for one in got]).numpy(), logits)
    for step, (ids, _) in enumerate(steps):
        everyone = torch.tensor([[rank, step + 0.5] for rank in range(world_size)])
        place = dict(zip(_read_by(ids).tolist(), read[step].tolist(), strict=True))
        for rank, one in enumerate(got):
            expected = [place[id_] for id_ in _read_by(ids[rank::world_size]).tolist()]
            assert one["read"][step].tolist() == expected
            assert torch.equal(one["said"][step], everyone)
