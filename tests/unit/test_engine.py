"""DeepSpeed on real gloo ranks: resumed equals uninterrupted at every ZeRO stage, nothing is compiled."""

import itertools
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import nn

from ldlva_dist.training.engine import Engine, EngineSettings, build_optimizer
from tests._ranks import run_ranks

BATCH, LR = 12, 1e-2
CASES = ((0, "adamw"), (1, "adamw"), (2, "adam"), (3, "adamw"), (1, "sgd"))


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def _engine(model: nn.Module, name: str, stage: int, world_size: int) -> Engine:
    optimizer = build_optimizer(model, name, lr=LR, weight_decay=1e-2, momentum=0.9)
    settings = EngineSettings(
        zero_stage=stage,
        gradient_accumulation_steps=1,
        micro_batch_size=BATCH // world_size,
        gradient_clipping=1.0,
        bf16=False,
        use_gpu=False,
    )
    engine = Engine(model, optimizer, settings)
    model[1].eval()  # frozen statistics: the global batch is then the same on any number of ranks
    return engine


def _train(engine: Engine, steps: range) -> list[float]:
    losses, rank, world_size = [], dist.get_rank(), dist.get_world_size()
    for step in steps:
        images = torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        loss = engine(images[rank::world_size]).square().mean()
        engine.backward(loss)
        engine.step(LR)
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item() / world_size)
    return losses


def _ranks(rank: int, world_size: int, folder: str, phase: str) -> None:
    """One rank of all cases: the ranks start once, because starting them costs more than the cases do."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    store = dist.FileStore(f"{folder}/store-{phase}-{world_size}", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    for stage, name in CASES:
        place = f"{folder}/{stage}-{name}"
        losses = _resumed(place, name, stage) if phase == "resume" else _straight(place, name, stage)
        if rank == 0:
            torch.save(losses, f"{place}/losses-{phase}-{world_size}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _straight(place: str, name: str, stage: int) -> list[float]:
    engine = _engine(_model(), name, stage, dist.get_world_size())
    _train(engine, range(3))
    weights, moments = engine.model_state(), engine.optimizer_state()
    if dist.get_rank() == 0:
        os.makedirs(place)
        save_file(weights, f"{place}/model.safetensors")
        save_file(moments, f"{place}/optimizer.safetensors")
    return _train(engine, range(3, 6))


def _resumed(place: str, name: str, stage: int) -> list[float]:
    model = _model()
    model.load_state_dict(load_file(f"{place}/model.safetensors"))
    engine = _engine(model, name, stage, dist.get_world_size())
    engine.load_optimizer_state(load_file(f"{place}/optimizer.safetensors"))
    return _train(engine, range(3, 6))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case trained without a break on two ranks, and gone on with from its third step on two and on three."""
    folder = tmp_path_factory.mktemp("engine")
    for phase, world_size in (("straight", 2), ("resume", 2), ("resume", 3)):
        run_ranks(_ranks, (world_size, str(folder), phase), world_size)
    return folder


def _losses(folder: Path, phase: str, world_size: int) -> list[float]:
    return torch.load(folder / f"losses-{phase}-{world_size}.pt", weights_only=True)


@pytest.mark.parametrize(("stage", "name"), CASES)
def test_resumed_engine_equals_uninterrupted_on_any_number_of_ranks(stage: int, name: str, runs: Path) -> None:
    case = runs / f"{stage}-{name}"
    straight = _losses(case, "straight", 2)
    assert all(a != b for a, b in itertools.pairwise(straight))
    assert _losses(case, "resume", 2) == straight
    assert _losses(case, "resume", 3) == pytest.approx(straight, rel=1e-5)


def test_starting_the_engine_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    mp.spawn(_ranks, (1, str(tmp_path), "straight"), nprocs=1)
    assert not (tmp_path / "extensions").exists()
