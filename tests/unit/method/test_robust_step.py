"""Steps of the methods of others: micro-batches add up, gradients are those of the formulas, the bank keeps ELR's t."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldlva_dist.bank.records import BankRows, BankSpec, blank, encode_records
from ldlva_dist.method import robust_losses
from ldlva_dist.method.losses import cross_entropy
from ldlva_dist.method.robust_losses import RobustSettings
from ldlva_dist.method.robust_step import ROBUST, robust_step
from ldlva_dist.method.step import StepResult, StepSettings, TensorBatch, TensorNeighbors
from ldlva_dist.models.ldlva import LDLVA, normalize

B, C = 6, 4
SHARE = 0.8


class Backbone(nn.Sequential):
    """Grey images of 3x2 pixels to three features."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(6, 3), nn.Tanh())
        self.feature_width = 3


class Case:
    """A small network, random rows, and what a bank would say of each of them."""

    def __init__(self, recipe: str, weights: bool = False) -> None:
        torch.manual_seed(5)
        self.model = LDLVA(Backbone(), C, recipe=recipe)
        self.batch = TensorBatch(
            images=torch.randint(256, (B, 3, 2, 1), dtype=torch.uint8),
            labels_B=torch.randint(C, (B,)),
            va_B2=torch.full((B, 2), torch.nan),
            logit_B=torch.zeros(B),
            noise_BF=torch.rand(B, 1 + C) if recipe == "sop" else None,
        )
        usable_B1 = torch.tensor([[True], [False], [True], [True], [False], [True]])
        self.own = own_rows(torch.randn(B, C).softmax(dim=1) * usable_B1, usable_B1)
        class_weights = torch.tensor([0.5, 1.0, 2.0, 4.0]) if weights else None
        self.settings = StepSettings(recipe=recipe, num_classes=C, class_weights=class_weights)

    def step(self, rows: slice = slice(None)) -> StepResult:
        own = self.own[rows] if self.settings.recipe == "elr" else None
        return robust_step(
            self.model, self.batch[rows], own, settings=self.settings, global_batch_size=B, mix_share=SHARE
        )


def own_rows(probs_BC: Tensor, usable_B1: Tensor) -> TensorNeighbors:
    rows = len(probs_BC)
    return TensorNeighbors(
        va_BK2=torch.full((rows, 1, 2), torch.nan),
        labels_BK=torch.zeros(rows, 1, dtype=torch.long),
        probs_BKC=probs_BC[:, None],
        features_BKV=torch.zeros(rows, 1, 0),
        usable_BK=usable_B1,
        logit_BK=torch.zeros(rows, 1),
    )


def naive_loss(case: Case) -> Tensor:
    """The sum over the samples, each forwarded by itself, divided by B."""
    robust, total = case.settings.robust, torch.zeros(())
    one_hot_BC = torch.eye(C)[case.batch.labels_B]
    for row in range(B):
        image, label_C = normalize(case.batch.images[row : row + 1]), one_hot_BC[row : row + 1]
        if case.settings.recipe == "mixup":
            before = normalize(case.batch.images[row - 1 :][:1])
            image, label_C = SHARE * image + (1 - SHARE) * before, SHARE * label_C + (1 - SHARE) * one_hot_BC[row - 1]
        log_p = case.model(image).logits_BC.log_softmax(dim=1)
        loss = cross_entropy(label_C, log_p)
        if case.settings.recipe == "gce":
            loss = robust_losses.generalized_cross_entropy(label_C, log_p.exp(), q=robust.gce_q)
        elif case.settings.recipe == "sce":
            loss = robust_losses.symmetric_cross_entropy(label_C, log_p, alpha=robust.sce_alpha, beta=robust.sce_beta)
        elif case.settings.recipe == "sop":
            assert case.batch.noise_BF is not None
            loss = robust_losses.over_parameterized(case.batch.noise_BF[row : row + 1], label_C, log_p.exp())
        elif case.settings.recipe == "elr":
            average = robust_losses.moving_average(case.own.probs_BKC[row], log_p.exp(), momentum=robust.elr_momentum)
            loss = loss + robust.elr_weight * robust_losses.early_learning(average, log_p.exp())
        weights_C = case.settings.class_weights
        total = total + loss[0] * (1.0 if weights_C is None else weights_C[case.batch.labels_B[row]])
    return total / B


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("recipe", ROBUST)
def test_a_step_is_the_mean_of_its_samples_and_so_are_its_gradients(recipe: str, weights: bool) -> None:
    case = Case(recipe, weights)
    found = case.step()
    found.loss.backward()
    gradients = [parameter.grad.clone() for parameter in case.model.parameters() if parameter.grad is not None]
    case.model.zero_grad()
    naive = naive_loss(case)
    naive.backward()
    assert found.loss.item() == pytest.approx(naive.item(), rel=1e-5)
    assert found.terms["loss"].item() == found.loss.item()
    assert len(gradients) == len(list(case.model.parameters()))
    for parameter, gradient in zip(case.model.parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("recipe", ["elr", "sop", "gce", "sce"])
def test_micro_batches_add_up(recipe: str) -> None:
    case = Case(recipe)
    whole, parts = case.step(), [case.step(slice(0, 2)), case.step(slice(2, B))]
    assert sum(part.loss.item() for part in parts) == pytest.approx(whole.loss.item(), rel=1e-5)
    torch.testing.assert_close(torch.cat([part.probs_BC for part in parts]), whole.probs_BC)
    torch.testing.assert_close(torch.cat([part.logit_grad_B for part in parts]), whole.logit_grad_B)


def test_the_gradients_of_a_sample_s_noise_are_those_of_its_own_weighted_loss() -> None:
    case = Case("sop", weights=True)
    assert case.batch.noise_BF is not None
    before_BF, found = case.batch.noise_BF.clone(), case.step()
    found.loss.backward()
    assert found.logit_grad_B.shape == (B, 1 + C)
    weights_C = case.settings.class_weights
    assert weights_C is not None
    for row, label in enumerate(case.batch.labels_B.tolist()):
        noise_1F = before_BF[row : row + 1].clone().requires_grad_()
        probs_1C = case.model(case.batch.images[row : row + 1]).logits_BC.detach().softmax(dim=1)
        loss = weights_C[label] * robust_losses.over_parameterized(noise_1F, torch.eye(C)[[label]], probs_1C)
        loss.sum().backward()
        torch.testing.assert_close(found.logit_grad_B[row : row + 1], noise_1F.grad, rtol=1e-4, atol=1e-6)
    assert torch.equal(case.batch.noise_BF, before_BF)
    assert not found.logit_grad_B.requires_grad


def test_a_bank_that_averages_what_elr_gives_it_holds_the_moving_average_of_the_paper() -> None:
    case, momentum = Case("elr"), RobustSettings().elr_momentum
    spec = BankSpec(num_classes=C, feature_width=0, probs_dtype="float32", momentum=momentum, own_row=True)
    bank, average_BC = blank(0, B, spec), torch.zeros(B, C)
    for step in range(4):
        torch.manual_seed(step)
        case.batch.images.random_(256)
        stored_BC = torch.from_numpy(bank.records["probs"].copy())
        case.own = own_rows(stored_BC, torch.from_numpy(bank.records["versions"] >= 0)[:, None])
        given_BC = case.step().probs_BC
        with torch.no_grad():
            probs_BC = case.model(case.batch.images).logits_BC.softmax(dim=1)
        average_BC = robust_losses.moving_average(average_BC, probs_BC, momentum=momentum)
        records = encode_records(given_BC.numpy(), np.zeros((B, 0)), spec, version=step)
        bank.overwrite(BankRows(ids=bank.ids, records=records), spec.momentum)
        np.testing.assert_allclose(bank.records["probs"], average_BC.numpy(), rtol=1e-5)
