"""The network as a whole: one forward, which engines can shard, freeze and cast."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldlva_dist.method.step import StepSettings, TensorBatch, TensorNeighbors, step
from ldlva_dist.models.backbone import freeze_batchnorm
from ldlva_dist.models.ldlva import LDLVA, normalize
from ldlva_dist.training.engine import Engine, EngineSettings, build_optimizer
from testing.forked_ranks import run_ranks

B, K, C, V, SIDE = 6, 3, 4, 5, 4


class Stub(nn.Module):
    feature_width = V

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(SIDE * SIDE * 3, V), nn.BatchNorm1d(V)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.linear(images.flatten(1)))


def network(recipe: str) -> LDLVA:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return LDLVA(Stub(), C, recipe=recipe, calibration_hidden=(8, 6)).train()


def faces() -> Tensor:
    return torch.randint(256, (B, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def neighbor_features() -> Tensor:
    return torch.randn(B, K, V, generator=torch.Generator().manual_seed(2))


def first(usable: int) -> Tensor:
    return torch.arange(B * K).view(B, K) < usable


def test_the_models_state_has_what_the_recipe_needs() -> None:
    official = network("official")
    assert "centers" in dict(official.named_buffers())
    assert not official.centers.any()
    assert "centers" in dict(network("paper").named_parameters())
    assert not [name for name in network("ce").state_dict() if "centers" in name or "calibration" in name]


def test_images_become_channels_first_in_minus_one_to_one() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 3).expand(2, 3, 4, 3).contiguous()
    floats = normalize(images)
    assert floats.shape == (2, 3, 3, 4)
    np.testing.assert_allclose(floats[0, :, 0, 0], [-1, 1, -0.6], rtol=1e-6)
    assert floats.is_contiguous(memory_format=torch.channels_last)
    model = network("ce").eval()
    assert torch.equal(model(faces()).logits_BC, model(normalize(faces())).logits_BC)


@pytest.mark.parametrize("usable", [0, 1, 2])
def test_only_two_or_more_pairs_move_the_calibration_networks_statistics(usable: int) -> None:
    model = network("official")
    norms = [part for part in model.calibration.modules() if isinstance(part, nn.BatchNorm1d)]
    before = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    model(faces(), neighbor_features(), first(usable))
    for norm, old in zip(norms, before, strict=True):
        same = [torch.equal(value, old[name]) for name, value in norm.named_buffers()]
        assert not any(same) if usable == 2 else all(same)
    assert all(part.training for part in model.modules())


def test_frozen_statistics_let_a_single_neighbor_through_the_network() -> None:
    model = network("official")
    freeze_batchnorm(model)
    alone = model(faces(), neighbor_features(), first(1)).calibration_BK
    among = model(faces(), neighbor_features(), first(B * K)).calibration_BK
    torch.testing.assert_close(alone[0, 0], among[0, 0])
    assert alone[0, 0] != 0
    assert not alone[~first(1)].any()


def test_outputs_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network("paper")(faces(), neighbor_features().half(), first(B * K))
    assert {value.dtype for value in output} == {torch.float32}


def _rank(rank: int, folder: str) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    shards = EngineSettings(
        zero_stage=3,
        gradient_accumulation_steps=1,
        micro_batch_size=B,
        gradient_clipping=None,
        bf16=False,
        use_gpu=False,
    )
    labels_B = torch.arange(B) % C
    batch = TensorBatch(images=faces(), labels_B=labels_B, va_B2=torch.zeros(B, 2), logit_B=torch.zeros(B))
    neighbors = TensorNeighbors(
        va_BK2=torch.zeros(B, K, 2),
        labels_BK=labels_B[:, None].expand(B, K),
        probs_BKC=torch.full((B, K, C), 1 / C),
        features_BKV=neighbor_features(),
        usable_BK=first(B * K if rank else 0),
        logit_BK=torch.zeros(B, K),
    )
    model = network("paper")
    before = model.centers.detach().clone()
    engine = Engine(model, build_optimizer(model, "sgd", lr=0.1, weight_decay=0.0, momentum=0.0), shards)
    engine.train()
    for _ in range(2):
        engine.begin_step(0.1)
        chosen = StepSettings(recipe="paper", num_classes=C)
        result = step(engine, batch, neighbors, settings=chosen, global_batch_size=2 * B)
        engine.backward(2 * result.loss)
        engine.step()
    assert bool(result.loss.isfinite())
    state = engine.model_state()  # the first rank's alone
    assert rank or not torch.equal(before, state["centers"])


def test_ranks_with_and_without_neighbors_step_together_under_zero_3(tmp_path: Path) -> None:
    run_ranks(_rank, (str(tmp_path),), 2)
