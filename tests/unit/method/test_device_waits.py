"""A step asks nothing of its tensors' values, so a GPU runs ahead of the host, and the step is one graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ldlva_dist.method.centers import update_centers
from ldlva_dist.method.step import StepSettings, TensorBatch, TensorNeighbors, step
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.models.resnet import ResNet
from testing.device_waits import NoWaits

B, K, C, SIDE = 6, 4, 5, 16


def case(recipe: str) -> tuple[LDLVA, TensorBatch, TensorNeighbors | None, StepSettings]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = LDLVA(ResNet(10, width=4, stem="small"), C, recipe=recipe, calibration_hidden=(8, 4)).train()
    batch = TensorBatch(
        images=torch.randint(256, (B, SIDE, SIDE, 3), dtype=torch.uint8),
        labels_B=torch.randint(C, (B,)),
        va_B2=torch.randn(B, 2),
        logit_B=torch.randn(B),
    )
    neighbors = TensorNeighbors(
        va_BK2=torch.randn(B, K, 2),
        labels_BK=torch.randint(C, (B, K)),
        probs_BKC=torch.randn(B, K, C).softmax(dim=-1),
        features_BKV=torch.randn(B, K, model.feature_width),
        usable_BK=torch.rand(B, K) < 0.7,
        logit_BK=torch.randn(B, K),
        label_only_BK=torch.rand(B, K) < 0.2,
    )
    settings = StepSettings(
        recipe=recipe,
        num_classes=C,
        label_smoothing=0.1,
        detach_uncertainty=False,
        class_weights=torch.rand(C),
    )
    return model, batch, None if recipe == "ce" else neighbors, settings


def train(recipe: str, *, forward: Callable[..., Any] = step, warm_up: bool = False) -> Tensor:
    """One step with its backward and the centres' move."""
    model, batch, neighbors, settings = case(recipe)
    result = forward(model, batch, neighbors, settings=settings, global_batch_size=B, use_neighbors=not warm_up)
    result.loss.backward()
    if result.center_sums_CV is not None:
        update_centers(model.centers, result.center_sums_CV, result.center_counts_C, rate=0.1)
    return result.loss.detach()


@pytest.mark.parametrize("warm_up", [False, True])
@pytest.mark.parametrize("recipe", ["official", "paper", "ce"])
def test_a_step_and_its_backward_wait_for_no_value(recipe: str, warm_up: bool) -> None:
    with NoWaits():
        loss = train(recipe, warm_up=warm_up)
    assert bool(loss.isfinite())


def test_what_would_wait_is_refused() -> None:
    mask = torch.tensor([True, False])
    for wait in (
        lambda: mask.nonzero(),
        lambda: mask[mask],
        lambda: float(mask.sum()),
        lambda: mask.masked_select(mask),
    ):
        with NoWaits(), pytest.raises(AssertionError, match="waits for the device"):
            wait()


@pytest.mark.parametrize("recipe", ["official", "paper", "ce"])
def test_a_steps_shapes_follow_from_its_inputs_shapes(recipe: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=False):
        model, batch, neighbors, settings = case(recipe)
        result = step(model, batch, neighbors, settings=settings, global_batch_size=B)
        result.loss.backward()
    assert result.features_BV.shape == (B, model.feature_width)


@pytest.mark.parametrize("recipe", ["official", "paper", "ce"])
def test_a_step_is_one_graph(recipe: str) -> None:
    torch.compiler.reset()
    loss = train(recipe, forward=torch.compile(step, fullgraph=True, backend="eager"))
    assert torch.equal(loss, train(recipe))
