"""A whole step under DeepSpeed asks nothing of its tensors' values either; its own timers and norms are off."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.manifest import DatasetInfo, SplitInfo
from ldlva_dist.method.robust_step import ROBUST
from ldlva_dist.method.step import StepSettings, TensorBatch, TensorNeighbors
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.models.resnet import ResNet
from ldlva_dist.training.engine import Engine, EngineSettings, build_optimizer
from ldlva_dist.training.optimizer_step import optimize
from ldlva_dist.training.state import TrainState
from testing.device_waits import NoWaits
from testing.forked_ranks import run_ranks
from testing.tiny_runs import tiny_run

B, K, SIDE, C, PARTS = 4, 3, 16, 5, 2
RECIPES = ("official", "paper", "posterior", "ce", *ROBUST)
INFO = DatasetInfo(
    name="random",
    class_names=tuple("abcde"),
    splits={"train": SplitInfo(first_id=0, rows=100)},
    shards=(),
    has_valence_arousal=True,
    content_hash="0",
    class_counts={"train": (20,) * C},
)


def _join(rank: int, folder: str, ranks: int) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", ranks), rank=rank, world_size=ranks)


def _rank(rank: int, folder: str, stage: int, ranks: int) -> None:
    _join(rank, folder, ranks)
    settings = EngineSettings(
        zero_stage=stage,
        gradient_accumulation_steps=1,
        micro_batch_size=B,
        gradient_clipping=None,
        bf16=True,
        use_gpu=False,
    )
    model = LDLVA(ResNet(10, width=4, stem="small"), C, recipe="ce")
    # SGD, as Adam counts its steps in tensors that stay on the CPU: no GPU is asked for them.
    engine = Engine(model, build_optimizer(model, "sgd", lr=0.1, weight_decay=0.01, momentum=0.9), settings)
    engine.train()
    images, labels_B = torch.randint(256, (B, SIDE, SIDE, 3), dtype=torch.uint8), torch.arange(B) % C
    for _ in range(2):
        with NoWaits():
            engine.begin_step(0.1)
            loss = nn.functional.cross_entropy(engine(images).logits_BC, labels_B)
            engine.backward(loss)
            engine.step()
    assert bool(loss.isfinite())


@pytest.mark.parametrize(("stage", "ranks"), [(0, 1), (0, 2), (1, 2)])
def test_an_engines_step_waits_for_no_value(stage: int, ranks: int, tmp_path: Path) -> None:
    run_ranks(_rank, (str(tmp_path), stage, ranks), ranks)


def _state(recipe: str, source: Any) -> TrainState:
    model = LDLVA(ResNet(10, width=4, stem="small"), C, recipe=recipe, calibration_hidden=(8, 4))
    settings = EngineSettings(
        zero_stage=0,
        gradient_accumulation_steps=PARTS,
        micro_batch_size=B,
        gradient_clipping=None,
        bf16=False,
        use_gpu=False,
    )
    config: RunConfig = tiny_run("none", "none", "waits")
    config = replace(
        config,
        loss=replace(config.loss, recipe=recipe),  # pyright: ignore[reportArgumentType]
        neighbors=replace(config.neighbors, source=source),
        training=replace(config.training, gradient_accumulation_steps=PARTS),
    )
    engine = Engine(model, build_optimizer(model, "sgd", lr=0.1, weight_decay=0.01, momentum=0.9), settings)
    engine.train()
    return TrainState(config=config, info=INFO, engine=engine, table=None, bank=None)


def _inputs(recipe: str, width: int, source: str) -> tuple[TensorBatch, TensorNeighbors | None]:
    """Random rows of a step of some micro-batches, and their neighbours; some were never written."""
    rows = PARTS * B
    batch = TensorBatch(
        images=torch.randint(256, (rows, SIDE, SIDE, 3), dtype=torch.uint8),
        labels_B=torch.arange(rows) % C,
        va_B2=torch.randn(rows, 2),
        logit_B=torch.randn(rows),
        noise_BF=torch.rand(rows, 1 + C) if recipe == "sop" else None,
    )
    if recipe == "ce" or (recipe in ROBUST and recipe != "elr"):
        return batch, None
    k = 1 if recipe == "elr" else K
    readable = np.arange(rows * k).reshape(rows, k) % 5 > 0
    return batch, TensorNeighbors(
        va_BK2=torch.randn(rows, k, 2),
        labels_BK=torch.randint(C, (rows, k)),
        probs_BKC=torch.randn(rows, k, C).softmax(dim=-1),
        features_BKV=torch.randn(rows, k, width),
        usable_BK=torch.from_numpy(readable),
        logit_BK=torch.randn(rows, k),
        label_only_BK=torch.rand(rows, k) < 0.2,
        images=torch.randint(256, (rows, k, SIDE, SIDE, 3), dtype=torch.uint8) if source == "exact" else None,
        readable=readable if source == "exact" else None,
    )


def _rank_of_recipes(rank: int, folder: str, ranks: int) -> None:
    _join(rank, folder, ranks)
    for recipe, source in (*((recipe, "bank") for recipe in RECIPES), ("official", "exact"), ("paper", "exact")):
        state = _state(recipe, source)
        width = state.engine.module.feature_width
        settings = StepSettings(
            recipe=recipe, num_classes=C, label_smoothing=0.1, detach_uncertainty=False, class_weights=torch.rand(C)
        )
        for uses_neighbors in (False, True):
            batch, near = _inputs(recipe, width, source)
            with NoWaits():
                state.engine.begin_step(0.1)
                outputs, _ = optimize(
                    state, batch, near, settings=settings, use_neighbors=uses_neighbors, tell=lambda outputs: None
                )
            state.step += 1
            assert bool(outputs.terms["loss"].isfinite()), (recipe, source)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_whole_step_of_every_recipe_waits_for_no_value(ranks: int, tmp_path: Path) -> None:
    run_ranks(_rank_of_recipes, (str(tmp_path), ranks), ranks)
