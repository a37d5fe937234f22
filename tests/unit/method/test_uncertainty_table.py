"""The sharded table against a plain array, on 1 to 4 gloo ranks."""

import itertools

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from ldlva_dist.method.uncertainty_table import UncertaintyTable
from testing.forked_ranks import run_ranks

NUM_ROWS, LR, MOMENTUM = 23, 0.3125, 0.9


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


def _rank(rank: int, world_size: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    group = dist.group.WORLD
    table = _table(group)
    steps = _steps()
    for ids, gradients in steps[:3]:
        table.apply(ids[rank::world_size], gradients[rank::world_size])
    save_file(table.state(), f"{folder}/part-{rank}.safetensors")
    dist.barrier()
    resumed = _table(group)
    resumed.restore([load_file(f"{folder}/part-{r}.safetensors") for r in reversed(range(world_size))])
    for ids, gradients in steps[3:]:
        resumed.apply(ids[rank::world_size], gradients[rank::world_size])
    asked = np.random.default_rng(rank).permutation(NUM_ROWS)[: 5 * rank]
    np.savez(f"{folder}/rank-{rank}.npz", asked=asked, answered=resumed.read(asked), mean=resumed.mean())
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
        table.apply(ids, gradients)
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


def test_rows_outside_the_batch_do_not_move_in_spite_of_momentum() -> None:
    table = _table(None)
    table.apply(np.array([3]), np.array([1.0], np.float32))
    before = table.read(np.array([3]))
    table.apply(np.array([4]), np.array([1.0], np.float32))
    assert table.read(np.array([3])) == before
