"""A whole step under DeepSpeed asks nothing of its tensors' values either; its own timers and norms are off."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.models.resnet import ResNet
from ldlva_dist.training.engine import Engine, EngineSettings, build_optimizer
from testing.device_waits import NoWaits
from testing.forked_ranks import run_ranks

B, SIDE, C = 4, 16, 5


def _rank(rank: int, folder: str, stage: int, ranks: int) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", ranks), rank=rank, world_size=ranks)
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
