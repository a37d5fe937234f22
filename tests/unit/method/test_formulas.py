"""Properties of the method that hold for any numbers (METHOD.md, section 7)."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldlva_dist.method import centers, losses, targets
from ldlva_dist.method.similarity import log_similarity

few = settings(max_examples=25, deadline=None)
seeds, recipes = st.integers(0, 10**6), st.sampled_from(["official", "paper"])
sizes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 9))


class Case:
    """Random inputs of one batch; the first row has no usable neighbour, the others have some."""

    def __init__(self, seed: int, size: tuple[int, int, int]) -> None:
        random = torch.Generator().manual_seed(seed)
        b, k, c = size
        self.label_BC = losses.smoothed_labels(torch.randint(c, (b,), generator=random), c, 0.0).double()
        self.log_s_BK = -30 * torch.rand(b, k, generator=random, dtype=torch.float64)
        self.calibration_BK = 3 * torch.randn(b, k, generator=random, dtype=torch.float64)
        self.usable_BK = torch.rand(b, k, generator=random) < 0.7
        self.usable_BK[:, 0] = True
        self.usable_BK[0] = False
        self.probs_BKC = torch.randn(b, k, c, generator=random, dtype=torch.float64).softmax(dim=-1)
        self.logits_BC = torch.randn(b, c, generator=random, dtype=torch.float64)
        self.logit_B = 2 * torch.randn(b, generator=random, dtype=torch.float64)
        self.has_B = self.usable_BK.any(dim=1)
        self.order_K = torch.randperm(k, generator=random)

    def shares(self, recipe: str) -> Tensor:
        return targets.contribution_shares(self.log_s_BK, self.calibration_BK, self.usable_BK, recipe=recipe)

    def aggregated(self, recipe: str) -> Tensor:
        return targets.aggregate(self.shares(recipe), self.probs_BKC)

    def target(self, recipe: str, uncertainty_B: Tensor) -> Tensor:
        return targets.target_distribution(self.label_BC, self.aggregated(recipe), uncertainty_B, self.has_B)


@few
@given(seeds, sizes, recipes)
def test_rows_of_the_target_sum_to_one(seed: int, size: tuple[int, int, int], recipe: str) -> None:
    case = Case(seed, size)
    target_BC = case.target(recipe, case.logit_B.sigmoid())
    np.testing.assert_allclose(target_BC.sum(dim=1), 1, rtol=1e-12)
    assert bool((target_BC >= 0).all())


@few
@given(seeds, sizes, recipes)
def test_uncertainty_zero_gives_the_label_and_one_gives_the_neighbors(
    seed: int, size: tuple[int, int, int], recipe: str
) -> None:
    case = Case(seed, size)
    none_B, full_B = torch.zeros_like(case.logit_B), torch.ones_like(case.logit_B)
    assert torch.equal(case.target(recipe, none_B), case.label_BC)
    assert torch.equal(case.target(recipe, full_B)[1:], case.aggregated(recipe)[1:])


@few
@given(seeds, sizes, recipes)
def test_a_row_without_neighbors_is_its_label_with_finite_gradients(
    seed: int, size: tuple[int, int, int], recipe: str
) -> None:
    case = Case(seed, size)
    case.calibration_BK.requires_grad_()
    assert not case.shares(recipe)[0].any()
    target_BC = case.target(recipe, case.logit_B.sigmoid())
    assert torch.equal(target_BC[0], case.label_BC[0])
    (target_BC * case.logits_BC).sum().backward()
    assert case.calibration_BK.grad is not None
    assert bool(case.calibration_BK.grad.isfinite().all())
    assert not case.calibration_BK.grad[~case.usable_BK].any()


@few
@given(seeds, sizes, recipes)
def test_the_order_of_neighbors_changes_nothing(seed: int, size: tuple[int, int, int], recipe: str) -> None:
    case = Case(seed, size)
    before_BC = case.aggregated(recipe)
    for name in ("log_s_BK", "calibration_BK", "usable_BK", "probs_BKC"):
        setattr(case, name, getattr(case, name)[:, case.order_K])
    np.testing.assert_allclose(case.aggregated(recipe), before_BC, rtol=1e-10, atol=1e-14)


@few
@given(seeds, sizes, recipes, st.floats(-2000, 2000))
def test_a_common_factor_on_the_similarities_changes_nothing_even_where_they_underflow(
    seed: int, size: tuple[int, int, int], recipe: str, log_factor: float
) -> None:
    case = Case(seed, size)
    before_BC = case.aggregated(recipe)
    case.log_s_BK += log_factor
    np.testing.assert_allclose(case.aggregated(recipe), before_BC, rtol=1e-9, atol=1e-13)


@few
@given(seeds, sizes, recipes)
def test_closed_form_uncertainty_gradient_equals_autograd(seed: int, size: tuple[int, int, int], recipe: str) -> None:
    case = Case(seed, size)
    logit_B = case.logit_B.clone().requires_grad_()
    log_probs_BC = losses.log_probabilities(case.logits_BC, recipe=recipe)
    losses.cross_entropy(case.target(recipe, logit_B.sigmoid()), log_probs_BC).sum().backward()
    closed_B = losses.uncertainty_gradient(
        case.label_BC,
        case.aggregated(recipe),
        log_probs_BC,
        uncertainty_B=case.logit_B.sigmoid(),
        has_neighbor_B=case.has_B,
    )
    assert logit_B.grad is not None
    assert closed_B[0] == 0
    np.testing.assert_allclose(closed_B, logit_B.grad, rtol=1e-9, atol=1e-13)


@few
@given(seeds, st.integers(2, 9), st.integers(1, 20))
def test_the_inter_term_is_largest_where_all_centers_coincide(seed: int, c: int, v: int) -> None:
    centers_CV = torch.randn(c, v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    same_CV = centers_CV[:1].expand(c, v)
    for inter, most in ((centers.inter_paper, c * (c - 1)), (centers.inter_official, c * (c - 1) / 2)):
        assert 0 <= float(inter(centers_CV)) < most
        assert float(inter(same_CV)) == most


@few
@given(seeds, st.integers(2, 9), st.integers(1, 20))
def test_repulsion_follows_the_gradient_of_the_inter_term(seed: int, c: int, v: int) -> None:
    centers_CV = torch.randn(c, v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    (gradient_CV,) = torch.autograd.grad(centers.inter_official(centers_CV), centers_CV)
    moved_CV = centers_CV.detach().clone()
    centers.repel(moved_CV)
    np.testing.assert_allclose(moved_CV, centers_CV.detach() - 0.05 * gradient_CV, rtol=1e-9, atol=1e-12)


@few
@given(seeds, st.integers(1, 30), st.integers(1, 30), st.integers(2, 9))
def test_center_sums_of_parts_add_up(seed: int, first: int, second: int, c: int) -> None:
    random, n = torch.Generator().manual_seed(seed), first + second
    features_nV = torch.randn(n, 4, generator=random, dtype=torch.float64)
    centers_CV = torch.randn(c, 4, generator=random, dtype=torch.float64)
    labels_n = torch.randint(c, (n,), generator=random)
    uncertainty_n = torch.rand(n, generator=random, dtype=torch.float64)
    whole = centers.center_sums(features_nV, labels_n, uncertainty_n, centers_CV)
    parts = [
        centers.center_sums(features_nV[part], labels_n[part], uncertainty_n[part], centers_CV)
        for part in (slice(0, first), slice(first, n))
    ]
    np.testing.assert_allclose(parts[0][0] + parts[1][0], whole[0], rtol=1e-9, atol=1e-12)
    assert torch.equal(parts[0][1] + parts[1][1], whole[1])


def test_the_official_recipe_lets_no_neighbor_fall_below_its_floor() -> None:
    far_apart_BK, usable_BK = torch.tensor([[-60.0, -1.3]]), torch.ones(1, 2, dtype=torch.bool)
    official = targets.contribution_shares(torch.zeros(1, 2), far_apart_BK, usable_BK, recipe="official")
    paper = targets.contribution_shares(torch.zeros(1, 2), far_apart_BK, usable_BK, recipe="paper")
    np.testing.assert_allclose(official, [[0.5, 0.5]])
    np.testing.assert_allclose(paper, [[0, 1]], atol=1e-20)
    for recipe in ("official", "paper"):  # a floor of one's own counts in both
        shares = targets.contribution_shares(torch.zeros(1, 2), far_apart_BK, usable_BK, recipe=recipe, floor=0.0)
        np.testing.assert_allclose(shares, [[0.5, 0.5]])
        shares = targets.contribution_shares(torch.zeros(1, 2), far_apart_BK, usable_BK, recipe=recipe, floor=-50.0)
        np.testing.assert_allclose(shares, [[0, 1]], atol=1e-20)


def test_similarity_takes_sides_by_recipe() -> None:
    va_B2, neighbor_BK2 = torch.zeros(1, 2), torch.tensor([[[0.3, -0.4], [0.0, 0.0]]])
    official = log_similarity(va_B2, neighbor_BK2, width=0.5, recipe="official")
    paper = log_similarity(va_B2, neighbor_BK2, width=0.5, recipe="paper")
    np.testing.assert_allclose(official, [[-1.4, 0]], rtol=1e-6)
    np.testing.assert_allclose(paper, [[-1.0, 0]], rtol=1e-6)


def test_smoothed_labels_keep_their_sum() -> None:
    labels_BC = losses.smoothed_labels(torch.tensor([0, 2]), 4, 0.2)
    np.testing.assert_allclose(labels_BC, [[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05]], rtol=1e-6)


@few
@given(seeds, sizes, recipes)
def test_neighbors_without_valence_arousal_are_weighed_by_the_calibration_network_alone(
    seed: int, size: tuple[int, int, int], recipe: str
) -> None:
    case = Case(seed, size)
    b, k = case.log_s_BK.shape
    unknown = torch.full((b, k, 2), torch.nan, dtype=torch.float64)
    log_s_BK = log_similarity(unknown[:, 0], unknown, width=0.5, recipe=recipe)
    assert bool((log_s_BK == 0).all())
    shares_BK = targets.contribution_shares(log_s_BK, case.calibration_BK, case.usable_BK, recipe=recipe)
    logit_BK = case.calibration_BK.clamp(min=targets.CALIBRATION_FLOOR) if recipe == "official" else case.calibration_BK
    weight_BK = logit_BK.sigmoid() * case.usable_BK
    expected_BK = weight_BK / weight_BK.sum(dim=1, keepdim=True).clamp(min=1e-300)
    np.testing.assert_allclose(shares_BK, expected_BK, rtol=1e-9)
