"""The label posterior against loops over samples in float64, numbers computed by hand, and noise that is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from ldlva_dist.method.posterior import (
    BELIEF_FLOOR,
    ROUNDS,
    count_by_label,
    fit_joint,
    judge_by_labels,
    label_noise,
    label_posterior,
    local_classes,
    move_joint,
    pooled_belief,
    posterior_step,
    shares_of_labels,
)
from ldlva_dist.method.step import StepResult, StepSettings, TensorBatch, TensorNeighbors
from ldlva_dist.models.ldlva import LDLVA, noise_joint

B, K, C, OWN_WEIGHT = 6, 5, 4, 0.3
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10**6)


class Backbone(nn.Sequential):
    """Grey images of 3x2 pixels to three features."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(6, 3), nn.Tanh())
        self.feature_width = 3


class Case:
    """A small network, random rows with neighbours, and a noise matrix that is not symmetric."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = LDLVA(Backbone(), C, recipe="posterior").double()
        self.batch = TensorBatch(
            images=torch.rand(B, 1, 3, 2, dtype=torch.float64),
            labels_B=torch.randint(C, (B,)),
            va_B2=torch.rand(B, 2, dtype=torch.float64),
            logit_B=torch.randn(B, dtype=torch.float64),
        )
        usable_BK = torch.rand(B, K + 1) < 0.7
        usable_BK[0], usable_BK[1, :-1], usable_BK[2, -1] = False, False, False
        self.near = TensorNeighbors(
            va_BK2=torch.rand(B, K + 1, 2, dtype=torch.float64),
            labels_BK=torch.randint(C, (B, K + 1)),
            probs_BKC=torch.rand(B, K + 1, C, dtype=torch.float64).softmax(dim=2),
            features_BKV=torch.zeros(B, K + 1, 0),
            usable_BK=usable_BK,
            logit_BK=torch.zeros(B, K + 1),
        )
        self.joint_CC = torch.rand(C, C, dtype=torch.float64) + 2 * torch.eye(C, dtype=torch.float64)
        self.joint_CC /= self.joint_CC.sum()
        self.settings = StepSettings(recipe="posterior", num_classes=C, own_weight=OWN_WEIGHT, kernel_width=0.5)

    def step(self, rows: slice = slice(None), **options: bool) -> StepResult:
        return posterior_step(
            self.model,
            self.batch[rows],
            self.near[rows],
            joint_CC=self.joint_CC,
            settings=self.settings,
            global_batch_size=B,
            **options,
        )

    def posteriors(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[C] by loops: shares of neighbours, rounds of expectation and maximisation, pool, Bayes; [C] without pool."""
        joint, near, label = self.joint_CC.numpy(), self.near, int(self.batch.labels_B[row])
        rate = 1 - sum(joint[c, c] for c in range(C))
        called = np.array([[1 - rate if t == c else rate / (C - 1) for c in range(C)] for t in range(C)])
        usable = near.usable_BK[row].numpy()
        distances = (near.va_BK2[row] - self.batch.va_B2[row]).square().sum(dim=1).numpy() / 0.5**2
        weights = np.exp(-distances[:K]) * usable[:K]
        local = joint.sum(axis=1)
        for _ in range(ROUNDS if weights.any() else 0):
            said = [sum(local[t] * called[t, c] for t in range(C)) for c in range(C)]
            parts = [
                weight * local * called[:, other] / said[other]
                for weight, other in zip(weights, near.labels_BK[row, :K].tolist(), strict=True)
            ]
            local = np.sum(parts, axis=0) / weights.sum()
        own, weight = near.probs_BKC[row, -1].numpy(), OWN_WEIGHT * usable[-1]
        local = np.maximum(local, BELIEF_FLOOR)
        belief = np.maximum(own, BELIEF_FLOOR) ** weight * local ** (1 - weight)
        both, alone = belief * called[:, label], local * called[:, label]
        return both / both.sum(), alone / alone.sum() * weights.any()


@few
@given(seeds)
def test_a_step_is_cross_entropy_against_the_posteriors_of_a_loop(seed: int) -> None:
    case = Case(seed)
    result = case.step()
    targets, alone = (torch.tensor(np.stack(each)) for each in zip(*map(case.posteriors, range(B)), strict=True))
    log_probs_BC = case.model(case.batch.images).logits_BC.double().log_softmax(dim=1)
    torch.testing.assert_close(result.loss.double(), -(targets * log_probs_BC).sum() / B, rtol=1e-5, atol=1e-6)
    assert result.joint_sums_CC is not None
    for row in range(B):
        right = targets[row, case.batch.labels_B[row]].item()
        drawn = case.batch.logit_B[row].item() - result.logit_grad_B[row].item()
        assert drawn == pytest.approx(math.log((1 - right) / right), rel=1e-4, abs=1e-4)  # lr 1 arrives
    for label in range(C):
        torch.testing.assert_close(
            result.joint_sums_CC[:, label].double(), alone[case.batch.labels_B == label].sum(dim=0)
        )


def test_micro_batches_add_up() -> None:
    case = Case()
    whole, parts = case.step(), [case.step(slice(0, 2)), case.step(slice(2, B))]
    torch.testing.assert_close(whole.loss, sum(part.loss for part in parts))
    sums = [part.joint_sums_CC for part in parts if part.joint_sums_CC is not None]
    torch.testing.assert_close(whole.joint_sums_CC, torch.stack(sums).sum(dim=0))


def test_warming_up_trains_on_the_labels_and_leaves_the_uncertainty() -> None:
    case = Case()
    result = case.step(use_neighbors=False)
    log_probs_BC = case.model(case.batch.images).logits_BC.log_softmax(dim=1)
    torch.testing.assert_close(result.loss, -log_probs_BC.gather(1, case.batch.labels_B[:, None]).sum() / B)
    assert not result.logit_grad_B.any()
    assert result.joint_sums_CC is not None
    assert result.joint_sums_CC.any()


def test_bayes_by_hand() -> None:
    """A belief of .8 and .2, and one label of four is wrong: .8 x .25 against .2 x .75."""
    joint_CC = torch.tensor([[0.45, 0.05], [0.2, 0.3]])
    found_BC = label_posterior(torch.tensor([[0.8, 0.2]]).log(), torch.tensor([1]), label_noise(joint_CC))
    torch.testing.assert_close(found_BC, torch.tensor([[0.2, 0.15]]) / 0.35)


def test_a_pool_is_a_geometric_mean_and_one_opinion_alone_where_the_other_has_no_weight() -> None:
    own, near = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.4, 0.6]])
    pooled = pooled_belief(own, near, torch.tensor([0.5])).exp()
    torch.testing.assert_close(pooled, (own * near).sqrt())
    torch.testing.assert_close(pooled_belief(own, near, torch.tensor([0.0])).exp(), near)


def test_without_neighbours_the_classes_are_those_of_all_samples() -> None:
    joint_CC = noise_joint(C, 0.3) * torch.tensor([[0.4], [1.6], [0.8], [1.2]])
    classes_BC = local_classes(torch.zeros(1, C), label_noise(joint_CC))
    torch.testing.assert_close(classes_BC[0], torch.tensor([0.1, 0.4, 0.2, 0.3]))


def test_labels_that_are_wrong_at_random_are_told_from_the_classes_around_them() -> None:
    """Seven of ten neighbours are of class 0 and three of class 1, whose labels are wrong 40 % of the time."""
    true, joint_CC = torch.tensor([0.7, 0.3, 0.0, 0.0]), noise_joint(C, 0.4)
    expected = true @ (joint_CC * C)
    found = local_classes(expected[None], label_noise(joint_CC))[0]
    assert (found - true).abs().max() < (expected - true).abs().max() / 2


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_the_share_of_wrong_labels_moves_towards_that_of_the_places(rate: float) -> None:
    """Six thousand places of one class each, with the labels of 64 neighbours."""
    random, places, neighbors = np.random.default_rng(0), 6000, 64
    true = np.repeat(random.integers(C, size=(places, 1)), neighbors + 1, axis=1)
    wrong = random.random(true.shape) < rate
    labels = torch.tensor(np.where(wrong, (true + random.integers(1, C, size=true.shape)) % C, true))
    near_NC = shares_of_labels(labels[:, 1:], torch.full((places, neighbors), 1 / neighbors), C)
    fitted_CC, joint_CC = fit_joint(near_NC, labels[:, 0]), noise_joint(C, 0.2)
    for _ in range(30):
        _, posterior_NC = judge_by_labels(near_NC, labels[:, 0], label_noise(joint_CC))
        move_joint(joint_CC, count_by_label(posterior_NC, near_NC, labels[:, 0]), share=0.5)
    torch.testing.assert_close(joint_CC, fitted_CC, atol=2e-3, rtol=0)
    assert float(joint_CC.sum()) == pytest.approx(1.0, abs=1e-5)
    assert abs(1 - float(joint_CC.trace()) - rate) < 0.6 * abs(0.2 - rate)  # from .2 most of the way


def test_no_counts_move_nothing() -> None:
    joint_CC: Tensor = noise_joint(C, 0.3)
    before = joint_CC.clone()
    move_joint(joint_CC, torch.zeros(C, C), share=0.5)
    torch.testing.assert_close(joint_CC, before)
