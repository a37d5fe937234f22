"""The losses of others against their formulas, sample by sample in float64, and numbers computed by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.method import robust_losses
from ldlva_dist.method.losses import smoothed_labels

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10**6)
B, C = 5, 4


def outputs(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels [B], one-hot [B, C] and logarithms of probabilities [B, C]."""
    random = torch.Generator().manual_seed(seed)
    labels_B = torch.randint(C, (B,), generator=random)
    logits_BC = 3 * torch.randn(B, C, generator=random, dtype=torch.float64)
    return labels_B, smoothed_labels(labels_B, C, 0.0).double(), logits_BC.log_softmax(dim=1)


@few
@given(seeds, st.floats(0.05, 1.0))
def test_generalized_cross_entropy_is_its_formula(seed: int, q: float) -> None:
    labels_B, label_BC, log_probs_BC = outputs(seed)
    found_B = robust_losses.generalized_cross_entropy(label_BC, log_probs_BC.exp(), q=q)
    for row, label in enumerate(labels_B.tolist()):
        assert float(found_B[row]) == pytest.approx((1 - math.exp(float(log_probs_BC[row, label])) ** q) / q)


def test_generalized_cross_entropy_lies_between_cross_entropy_and_absolute_error() -> None:
    label_BC, probs_BC = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    by_q = [robust_losses.generalized_cross_entropy(label_BC, probs_BC, q=q).item() for q in (1e-6, 0.5, 1.0)]
    assert by_q == pytest.approx([math.log(4), 1.0, 0.75], rel=1e-5)


@few
@given(seeds, st.floats(0.0, 6.0), st.floats(0.0, 6.0))
def test_symmetric_cross_entropy_is_its_formula(seed: int, alpha: float, beta: float) -> None:
    labels_B, label_BC, log_probs_BC = outputs(seed)
    found_B = robust_losses.symmetric_cross_entropy(label_BC, log_probs_BC, alpha=alpha, beta=beta)
    for row, label in enumerate(labels_B.tolist()):
        p_C = log_probs_BC[row].exp().tolist()
        reverse = -sum(max(p, 1e-7) * math.log(1.0 if c == label else 1e-4) for c, p in enumerate(p_C))
        assert float(found_B[row]) == pytest.approx(-alpha * math.log(p_C[label]) + beta * reverse)


def naive_over_parameterized(noise_F: list[float], label: int, probs_C: list[float]) -> float:
    """The authors' loss of one sample, class by class."""
    best = max(range(C), key=lambda c: probs_C[c])
    s_C = []
    for c in range(C):
        square = min((noise_F[0] if c == label else noise_F[1 + c]) ** 2, 1.0)
        s_C.append(square if c == label else -square)
    moved_C = [max(p + s, 1e-4) for p, s in zip(probs_C, s_C, strict=True)]
    error = sum(((c == best) + s_C[c] - (c == label)) ** 2 for c in range(C))
    return error - math.log(max(moved_C[label] / sum(moved_C), 1e-4))


@few
@given(seeds, st.floats(1e-8, 1.5))
def test_over_parameterisation_is_its_formula_and_so_are_the_gradients_of_its_noise(seed: int, scale: float) -> None:
    labels_B, label_BC, log_probs_BC = outputs(seed)
    noise_BF = scale * torch.randn(B, 1 + C, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    noise_BF.requires_grad_()
    found_B = robust_losses.over_parameterized(noise_BF, label_BC, log_probs_BC.exp())
    (gradient_BF,) = torch.autograd.grad(found_B.sum(), noise_BF)
    found_B = found_B.detach()
    for row, label in enumerate(labels_B.tolist()):
        noise_F, probs_C = noise_BF[row].tolist(), log_probs_BC[row].exp().tolist()
        assert float(found_B[row]) == pytest.approx(naive_over_parameterized(noise_F, label, probs_C))
        # By hand: v moves by the squared error alone, u by both; where a square is clamped nothing moves.
        best = max(range(C), key=lambda c: probs_C[c])
        for c in range(C):
            v = noise_F[1 + c]
            expected = 0.0 if c == label or v * v > 1 else -4 * v * ((c == best) - v * v)
            assert float(gradient_BF[row, 1 + c]) == pytest.approx(expected, abs=1e-12)
        u, step = noise_F[0], 1e-6
        ahead, behind = (naive_over_parameterized([u + d, *noise_F[1:]], label, probs_C) for d in (step, -step))
        if abs(abs(u) - 1) > 1e-3:
            assert float(gradient_BF[row, 0]) == pytest.approx((ahead - behind) / (2 * step), rel=1e-4, abs=1e-6)


def test_noise_that_explains_a_wrong_label_lets_the_network_keep_its_answer() -> None:
    """p is sure of class 1, the label says 0: u = v_1 = 1 makes the loss vanish, and the network's gradient with it."""
    logits_BC = torch.tensor([[-2.0, 2.0]], dtype=torch.float64, requires_grad=True)
    label_BC, silent, loud = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 1.0]])
    sizes = []
    for noise_BF in (silent, loud):
        loss = robust_losses.over_parameterized(noise_BF.double(), label_BC.double(), logits_BC.softmax(dim=1)).sum()
        (gradient,) = torch.autograd.grad(loss, logits_BC)
        sizes.append((loss.item(), gradient.abs().max().item()))
    (wrong, pull), (explained, no_pull) = sizes
    assert wrong == pytest.approx(2 + math.log(1 + math.exp(4)))
    assert pull == pytest.approx(1 / (1 + math.exp(-4)))
    assert explained < 2e-4
    assert no_pull < 1e-4
    more_BC, less_BC = robust_losses.sparse_noise(loud, label_BC)
    assert (more_BC.tolist(), less_BC.tolist()) == ([[1.0, 0.0]], [[0.0, 1.0]])


@few
@given(seeds, st.floats(0.0, 0.95))
def test_early_learning_is_its_formula_and_the_average_that_of_all_steps_so_far(seed: int, momentum: float) -> None:
    _, _, log_probs_BC = outputs(seed)
    steps = [log_probs_BC.exp(), log_probs_BC.flip(1).exp(), log_probs_BC.roll(1, 1).exp()]
    average_BC = torch.zeros(B, C, dtype=torch.float64)
    for probs_BC in steps:
        average_BC = robust_losses.moving_average(average_BC, probs_BC, momentum=momentum)
    naive_BC = np.zeros((B, C))
    for age, probs_BC in enumerate(reversed(steps)):
        bounded_BC = np.clip(probs_BC.numpy(), 1e-4, 1 - 1e-4)
        naive_BC += (1 - momentum) * momentum**age * bounded_BC / bounded_BC.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(average_BC.numpy(), naive_BC, rtol=1e-12)
    found_B = robust_losses.early_learning(average_BC, steps[-1])
    for row in range(B):
        agreement = sum(
            t * min(max(p, 1e-4), 1 - 1e-4) for t, p in zip(naive_BC[row], steps[-1][row].tolist(), strict=True)
        )
        assert float(found_B[row]) == pytest.approx(math.log(1 - agreement))


def test_early_learning_pushes_the_prediction_towards_its_own_average_and_leaves_the_average_alone() -> None:
    logits_BC = torch.tensor([[0.2, 0.0]], dtype=torch.float64, requires_grad=True)
    probs_BC = logits_BC.softmax(dim=1)
    average_BC = robust_losses.moving_average(torch.tensor([[0.9, 0.1]]), probs_BC, momentum=0.9)
    assert not average_BC.requires_grad
    robust_losses.early_learning(average_BC, probs_BC).sum().backward()
    assert logits_BC.grad is not None
    assert logits_BC.grad[0, 0] < 0 < logits_BC.grad[0, 1]  # descent raises the first class


def test_shares_of_mixup_are_drawn_by_seed_and_step_from_their_distribution() -> None:
    shares = [robust_losses.mixup_share(3, step, 0.4) for step in range(4000)]
    assert shares[:9] == [robust_losses.mixup_share(3, step, 0.4) for step in range(9)]
    assert shares[0] != robust_losses.mixup_share(4, 0, 0.4)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.05)


def test_a_mixed_row_is_so_much_of_itself_and_the_rest_of_the_row_before() -> None:
    rows = torch.tensor([[0.0], [1.0], [10.0]])
    assert robust_losses.mixed(rows, 0.75).flatten().tolist() == [2.5, 0.75, 7.75]
