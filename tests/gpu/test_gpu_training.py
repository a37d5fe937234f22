"""Training on a GPU against the CPU: the same losses in fp32 and bf16, copies beside it, two ranks on one GPU.

Skipped where there is no GPU.
"""

import math
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ldlva_dist.bank.on_workers.rank_bank import RankBank
from ldlva_dist.bank.records import STATIC, BankSpec
from ldlva_dist.bank.static_rows import ShardRows
from ldlva_dist.messages import Batch, Neighbors
from ldlva_dist.method.row_routes import RowRoutes
from ldlva_dist.method.step import StepSettings
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.models.resnet import ResNet
from ldlva_dist.training.device.copies import GpuCopies, NoCopies
from ldlva_dist.training.device.tensors import batch_tensors, neighbor_tensors
from ldlva_dist.training.device.usage import gpu_usage
from ldlva_dist.training.engine import Engine, EngineSettings, build_optimizer
from ldlva_dist.training.optimizer_step import optimize
from ldlva_dist.training.state import TrainState
from testing.forked_ranks import run_ranks
from testing.tiny_runs import tiny_run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU = "cuda:0"
ROWS, K, CLASSES, SIDE, STEPS = 16, 4, 5, 32, 6


def _losses(device: torch.device, *, bf16: bool = False) -> list[float]:
    """Of some steps on one rank's rows, which are random and the same on any device."""
    torch.manual_seed(0)
    model = LDLVA(ResNet(10, width=8, stem="small"), CLASSES, recipe="official", calibration_hidden=(16, 8))
    model = model.to(device).train()
    settings = EngineSettings(
        zero_stage=0,
        gradient_accumulation_steps=1,
        micro_batch_size=ROWS,
        gradient_clipping=None,
        bf16=bf16,
        use_gpu=device.type == "cuda",
    )
    optimizer = build_optimizer(model, "sgd", lr=0.01, weight_decay=0.0, momentum=0.9)
    state = TrainState(
        config=tiny_run("none", "none", "gpu"),
        info=None,  # pyright: ignore[reportArgumentType]
        engine=Engine(model, optimizer, settings),
        table=None,
        bank=None,
    )
    state.engine.train()
    copies, losses = state.engine.copies, []
    for step in range(STEPS):
        state.engine.begin_step(0.01)
        batch, neighbors = _inputs(step, model.feature_width)
        rows = copies.ahead(partial(batch_tensors, batch, copies))
        near = copies.ahead(partial(neighbor_tensors, neighbors, copies))
        chosen = StepSettings(recipe="official", num_classes=CLASSES)
        outputs, _ = optimize(state, rows(), near(), settings=chosen, use_neighbors=True, tell=lambda outputs: None)
        losses.append(float(outputs.terms["loss"]))
    return losses


def _inputs(step: int, width: int) -> tuple[Batch, Neighbors]:
    random = np.random.default_rng((step, dist.get_rank()))
    batch = Batch(
        step=step,
        positions=np.arange(ROWS, dtype=np.int32),
        ids=np.arange(ROWS),
        images=random.integers(256, size=(ROWS, SIDE, SIDE, 3), dtype=np.uint8),
        labels=random.integers(CLASSES, size=ROWS),
        va=random.uniform(-1, 1, (ROWS, 2)).astype(np.float32),
    )
    neighbors = Neighbors(
        ids=random.integers(100, size=(ROWS, K)),
        va=random.uniform(-1, 1, (ROWS, K, 2)).astype(np.float32),
        labels=random.integers(CLASSES, size=(ROWS, K)),
        probs=random.dirichlet(np.ones(CLASSES), (ROWS, K)).astype(np.float16),
        features=random.normal(size=(ROWS, K, width)).astype(np.float16),
        versions=random.integers(-2, 2, (ROWS, K)),
    )
    return batch, neighbors


def _rank(rank: int, world_size: int, folder: str, place: str, bf16: bool) -> None:
    """DeepSpeed keeps to one kind of device in a process, so each has its own."""
    os.environ["LOCAL_RANK"] = "0"
    meeting = f"file://{folder}/{torch.device(place).type}-{bf16}-{world_size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    np.save(f"{folder}/{place}-{bf16}-{rank}.npy", _losses(torch.device(place), bf16=bf16))
    dist.barrier()
    dist.destroy_process_group()


def _trained(folder: Path, place: str, world_size: int = 1, *, bf16: bool = False) -> list[np.ndarray]:
    run_ranks(_rank, (world_size, str(folder), place, bf16), world_size)
    return [np.load(folder / f"{place}-{bf16}-{rank}.npy") for rank in range(world_size)]


@pytest.mark.parametrize(("bf16", "rtol"), [(False, 1e-3), (True, 5e-2)])
def test_losses_on_the_gpu_are_the_cpus(bf16: bool, rtol: float, tmp_path: Path) -> None:
    np.testing.assert_allclose(_trained(tmp_path, GPU, bf16=bf16), _trained(tmp_path, "cpu"), rtol=rtol)


def test_two_ranks_train_on_one_gpu(tmp_path: Path) -> None:
    np.testing.assert_allclose(_trained(tmp_path, GPU, 2), _trained(tmp_path, "cpu", 2), rtol=1e-3)


def test_a_gpus_memory_is_told_and_how_busy_it_is_where_nvml_knows() -> None:
    device = torch.device(GPU)
    gpu_usage(device)
    numbers = torch.zeros(1 << 20, device=device)
    usage = gpu_usage(device)
    assert usage
    assert usage.peak_bytes >= numbers.nbytes
    assert math.isnan(usage.busy) or 0 <= usage.busy <= 1


def test_what_is_copied_ahead_and_out_is_what_was_there() -> None:
    copies = GpuCopies(torch.device(GPU))
    batch = Batch(
        step=0,
        positions=np.arange(4, dtype=np.int32),
        ids=np.arange(4),
        images=np.random.default_rng(0).integers(256, size=(4, 8, 8, 3), dtype=np.uint8),
        labels=np.arange(4),
        va=np.zeros((4, 2), np.float32),
    )
    here = batch_tensors(batch, NoCopies())
    for _ in range(20):
        there = copies.ahead(partial(batch_tensors, batch, copies))()
        assert torch.equal(copies.outward({"images": there.images})()["images"], here.images)


def test_a_failure_of_what_is_made_ahead_comes_out_where_it_is_taken() -> None:
    copies = GpuCopies(torch.device(GPU))

    def fail() -> None:
        raise ValueError("no neighbours")

    with pytest.raises(ValueError, match="no neighbours"):
        copies.ahead(fail)()


def _bank_on(device: torch.device) -> list[np.ndarray]:
    """What some steps read of a bank on a device, whose features are int8 and whose probabilities are averages."""
    rows, width = 50, 24
    spec = BankSpec(num_classes=CLASSES, feature_width=width, features_dtype="int8", momentum=0.3)
    static, random = np.zeros(rows, dtype=STATIC), np.random.default_rng(0)
    graph = random.integers(0, rows, (rows, K)).astype(np.int32)
    copies = GpuCopies(device) if device.type == "cuda" else NoCopies()
    bank = RankBank(ShardRows(start=0, static=static, graph=graph), spec, RowRoutes(rows), copies)
    bank.begin(0, {})
    seen = []
    for step in range(STEPS):
        ids = random.integers(0, rows, ROWS)
        near = bank.ask(bank.find(step, ids))
        route = bank.route(np.concatenate([ids, near.ravel()]), ROWS)
        found = bank.read(step, route)
        seen += [found.versions(), found.near.probs_BKC.cpu().numpy(), found.near.features_BKV.cpu().numpy()]
        probs = torch.from_numpy(random.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32))
        features = torch.from_numpy(random.normal(size=(ROWS, width)).astype(np.float32))
        bank.write(step, route, np.arange(ROWS, dtype=np.int32), (probs.to(device), features.to(device)))
    bank.take_snapshot(STEPS, [0])
    kept = bank._kept[0]
    return [*seen, kept.visible.records["probs"].copy(), kept.pending.records["features"].copy()]


def test_a_bank_on_a_gpu_holds_and_gives_the_bits_of_one_on_the_cpu() -> None:
    for there, here in zip(_bank_on(torch.device(GPU)), _bank_on(torch.device("cpu")), strict=True):
        np.testing.assert_array_equal(there, here)
