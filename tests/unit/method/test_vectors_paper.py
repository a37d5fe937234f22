"""The paper's equations with their gradients, in float64 (vectors/paper.npz)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ldlva_dist.method import centers, losses, targets
from ldlva_dist.method.similarity import log_similarity
from ldlva_dist.method.step import StepResult, StepSettings, TensorBatch, TensorNeighbors, step
from ldlva_dist.models.ldlva import ModelOutput

B, K, C = 4, 3, 7
VECTORS = np.load(Path(__file__).parents[1] / "vectors" / "paper.npz", allow_pickle=False)
GAMMA, DELTA = float(VECTORS["gamma"]), float(VECTORS["delta"])
ALL = torch.ones(B, K, dtype=torch.bool)
LEAVES = ("logits", "g_logit", "lambda_raw", "v", "mu")


def vector(name: str) -> Tensor:
    return torch.from_numpy(VECTORS[name])


def assert_equal(ours: Tensor | float, name: str) -> None:
    np.testing.assert_allclose(np.asarray(ours), VECTORS[name], rtol=1e-9, atol=1e-11, err_msg=name)


@dataclass
class Leaves:
    """What the gradients are taken of."""

    logits: Tensor
    g_logit: Tensor
    lambda_raw: Tensor
    v: Tensor
    mu: Tensor

    def __call__(self, *_: Tensor) -> ModelOutput:
        """Play the network: its outputs are the leaves."""
        return ModelOutput(self.v, self.logits, self.g_logit, self.mu)


@pytest.fixture
def leaves() -> Leaves:
    return Leaves(**{name: vector(name).clone().requires_grad_() for name in LEAVES})


def similarity() -> Tensor:
    va_N2 = vector("va")
    return log_similarity(va_N2[vector("idx")], va_N2[vector("neighbors")], width=DELTA, recipe="paper")


def labels() -> Tensor:
    return losses.smoothed_labels(vector("y"), C, 0.0)


def aggregated(g_logit: Tensor) -> Tensor:
    shares_BK = targets.contribution_shares(similarity(), g_logit, ALL, recipe="paper")
    return targets.aggregate(shares_BK, vector("f_neighbor"))


def target(leaves: Leaves) -> Tensor:
    lambda_B = leaves.lambda_raw[:, 0].sigmoid()
    return targets.target_distribution(labels(), aggregated(leaves.g_logit), lambda_B, ALL.any(dim=1))


def test_target_distribution_equals_the_paper(leaves: Leaves) -> None:
    assert_equal(similarity().exp(), "s")
    assert_equal(leaves.g_logit.detach().sigmoid(), "zeta")
    shares_BK = targets.contribution_shares(similarity(), vector("g_logit"), ALL, recipe="paper")
    np.testing.assert_allclose(shares_BK, vector("c") / vector("c").sum(dim=1, keepdim=True), rtol=1e-12)
    assert_equal(aggregated(vector("g_logit")), "d_tilde")
    assert_equal(leaves.lambda_raw.detach().sigmoid(), "lam")
    assert_equal(target(leaves).detach(), "d")


def test_losses_equal_the_paper(leaves: Leaves) -> None:
    with torch.no_grad():
        ce_B = losses.cross_entropy(target(leaves), losses.log_probabilities(leaves.logits, recipe="paper"))
        intra_B = 0.5 * (1 - vector("lam")[:, 0]) * centers.intra_distances(leaves.v, vector("y"), leaves.mu)
        inter = centers.inter_paper(leaves.mu)
    assert_equal(ce_B, "ce_per_sample")
    assert_equal(ce_B.sum(), "L_cls_sum")
    assert_equal(ce_B.mean(), "L_cls_mean")
    assert_equal(2 * intra_B, "intra_per_sample")  # the vectors halve only the sum
    assert_equal(intra_B.sum(), "intra_sum")
    assert_equal(inter, "inter")
    assert_equal(intra_B.sum() + inter, "L_D")
    assert_equal(ce_B.sum() + GAMMA * (intra_B.sum() + inter), "L_total_sum")
    assert_equal(ce_B.mean() + GAMMA * (intra_B.mean() + inter), "L_total_mean")


@pytest.mark.parametrize("over", ["sum", "mean"])
def test_gradients_with_undetached_uncertainty_equal_the_paper(leaves: Leaves, over: str) -> None:
    ce_B = losses.cross_entropy(target(leaves), losses.log_probabilities(leaves.logits, recipe="paper"))
    distance_B = centers.intra_distances(leaves.v, vector("y"), leaves.mu)
    intra_B = 0.5 * (1 - leaves.lambda_raw[:, 0].sigmoid()) * distance_B
    rows_B = ce_B + GAMMA * intra_B
    loss = getattr(rows_B, over)() + GAMMA * centers.inter_paper(leaves.mu)
    loss.backward()
    for name in LEAVES:
        assert_equal(getattr(leaves, name).grad, f"grad_{over}_{name}")


def whole_step(leaves: Leaves, *, detach: bool) -> StepResult:
    va_N2, ids_BK = vector("va"), vector("neighbors")
    batch = TensorBatch(
        images=torch.zeros(B, 1, 1, 3),
        labels_B=vector("y"),
        va_B2=va_N2[vector("idx")],
        logit_B=leaves.lambda_raw.detach()[:, 0],
    )
    neighbors = TensorNeighbors(
        va_BK2=va_N2[ids_BK],
        labels_BK=torch.zeros(B, K, dtype=torch.int64),
        probs_BKC=vector("f_neighbor"),
        features_BKV=torch.zeros(B, K, 5, dtype=torch.float64),
        usable_BK=ALL,
        logit_BK=torch.zeros(B, K, dtype=torch.float64),
    )
    settings = StepSettings(recipe="paper", num_classes=C, gamma=GAMMA, kernel_width=DELTA, detach_uncertainty=detach)
    result = step(leaves, batch, neighbors, settings=settings, global_batch_size=B)
    result.loss.backward()
    return result


@pytest.mark.parametrize("detach", [True, False])
def test_the_step_that_training_uses_equals_the_paper(leaves: Leaves, detach: bool) -> None:
    result = whole_step(leaves, detach=detach)
    assert_equal(result.loss.detach(), "L_total_mean")
    assert_equal(result.terms["cross_entropy"], "L_cls_mean")
    assert_equal(result.terms["intra"] * B, "intra_sum")
    assert_equal(result.terms["inter"], "inter")
    for name in set(LEAVES) - {"lambda_raw"}:
        assert_equal(getattr(leaves, name).grad, f"grad_mean_{name}")


def test_the_steps_uncertainty_gradient_follows_the_switch(leaves: Leaves) -> None:
    undetached_B = whole_step(leaves, detach=False).logit_grad_B
    assert_equal(undetached_B[:, None], "grad_sum_lambda_raw")
    lambda_B = vector("lam")[:, 0]
    of_intra_B = -GAMMA * lambda_B * vector("intra_per_sample") / 2
    np.testing.assert_allclose(whole_step(leaves, detach=True).logit_grad_B, undetached_B - of_intra_B, rtol=1e-9)
