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

BATCH, LR = 12, 1e-2


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


def _train(engine: Engine, steps: range, rank: int, world_size: int) -> list[float]:
    losses = []
    for step in steps:
        images = torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        loss = engine(images[rank::world_size]).square().mean()
        engine.backward(loss)
        engine.step(LR)
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item() / world_size)
    return losses


def _rank(rank: int, world_size: int, folder: str, phase: str, name: str, stage: int) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    store = dist.FileStore(f"{folder}/store-{phase}-{world_size}", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    model = _model()
    if phase == "resume":
        model.load_state_dict(load_file(f"{folder}/model.safetensors"))
    engine = _engine(model, name, stage, world_size)
    if phase == "resume":
        engine.load_optimizer_state(load_file(f"{folder}/optimizer.safetensors"))
        losses = _train(engine, range(3, 6), rank, world_size)
    else:
        _train(engine, range(3), rank, world_size)
        weights, moments = engine.model_state(), engine.optimizer_state()
        if rank == 0:
            save_file(weights, f"{folder}/model.safetensors")
            save_file(moments, f"{folder}/optimizer.safetensors")
        losses = _train(engine, range(3, 6), rank, world_size)
    if rank == 0:
        torch.save(losses, f"{folder}/losses-{phase}-{world_size}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _losses(folder: Path, phase: str, world_size: int) -> list[float]:
    return torch.load(folder / f"losses-{phase}-{world_size}.pt", weights_only=True)


@pytest.mark.parametrize(("stage", "name"), [(0, "adamw"), (1, "adamw"), (2, "adam"), (3, "adamw"), (1, "sgd")])
def test_resumed_engine_equals_uninterrupted_on_any_number_of_ranks(stage: int, name: str, tmp_path: Path) -> None:
    mp.spawn(_rank, (2, str(tmp_path), "straight", name, stage), nprocs=2)
    for world_size in (2, 3) if (stage, name) == (1, "adamw") else (2,):
        mp.spawn(_rank, (world_size, str(tmp_path), "resume", name, stage), nprocs=world_size)

    straight = _losses(tmp_path, "straight", 2)
    assert all(a != b for a, b in itertools.pairwise(straight))
    assert _losses(tmp_path, "resume", 2) == straight
    if (stage, name) == (1, "adamw"):
        assert _losses(tmp_path, "resume", 3) == pytest.approx(straight, rel=1e-5)


def test_starting_the_engine_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    mp.spawn(_rank, (1, str(tmp_path), "straight", "adamw", 1), nprocs=1)
    assert not (tmp_path / "extensions").exists()
