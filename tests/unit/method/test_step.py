"""Properties of the whole step, network included: what adds up, what does not matter, and where gradients flow."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ldlva_dist.method.step import StepResult, StepSettings, TensorBatch, TensorNeighbors, forward_neighbors, step
from ldlva_dist.models.ldlva import LDLVA

few = hypothesis_settings(max_examples=20, deadline=None)
seeds, recipes = st.integers(0, 10**6), st.sampled_from(["official", "paper"])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Backbone(nn.Sequential):
    """Grey images of 3x2 pixels to V features."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(6, width), nn.BatchNorm1d(width), nn.Tanh())
        self.feature_width = width


class Case:
    """A small network and one batch of random rows with their neighbours."""

    def __init__(self, seed: int, *, recipe: str = "official", b: int = 6, k: int = 4, c: int = 5, v: int = 3) -> None:
        torch.manual_seed(seed)
        self.model = LDLVA(Backbone(v), c, recipe=recipe, calibration_hidden=(8, 4)).eval()
        if recipe != "ce":
            with torch.no_grad():
                self.model.centers += torch.randn(c, v)
        self.batch = TensorBatch(
            images=torch.randn(b, 1, 3, 2),
            labels_B=torch.randint(c, (b,)),
            va_B2=torch.randn(b, 2) / 2,
            logit_B=torch.randn(b),
        )
        self.neighbors = TensorNeighbors(
            va_BK2=torch.randn(b, k, 2) / 2,
            labels_BK=torch.randint(c, (b, k)),
            probs_BKC=torch.randn(b, k, c).softmax(dim=-1),
            features_BKV=torch.randn(b, k, v),
            usable_BK=torch.rand(b, k) < 0.7,
            logit_BK=torch.randn(b, k),
        )
        self.settings = StepSettings(recipe=recipe, num_classes=c, gamma=0.3, reference_k=3)

    def step(self, rows: slice = slice(None), **changes: Any) -> StepResult:
        """Run the step on some rows of the batch, and its backward."""
        neighbors = None if self.settings.recipe == "ce" else self.neighbors[rows]
        size = len(self.batch.labels_B)
        result = step(
            self.model, self.batch[rows], neighbors, settings=self.settings, global_batch_size=size, **changes
        )
        result.loss.backward()
        return result

    def gradients(self) -> dict[str, Tensor]:
        """Take the parameters' gradients; every parameter must have one."""
        taken = {}
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None, f"no gradient for {name}"
            taken[name], parameter.grad = parameter.grad, None
        return taken


def outcome(case: Case, **changes: Any) -> dict[str, Tensor]:
    """Run the step on the whole batch; everything that it gives, by name."""
    result = case.step(**changes)
    given = {"loss": result.loss.detach(), "logit_grad": result.logit_grad_B, "probs": result.probs_BC}
    given |= {f"term {name}": value for name, value in result.terms.items()}
    if result.center_sums_CV is not None and result.center_counts_C is not None:
        given |= {"sums": result.center_sums_CV, "counts": result.center_counts_C}
    return given | {f"grad {name}": value for name, value in case.gradients().items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=rtol, atol=atol, err_msg=name)


@few
@given(seeds, st.sampled_from(["official", "paper", "ce"]), st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_micro_batches_add_up_to_the_whole_batch(seed: int, recipe: str, sizes: list[int]) -> None:
    case = Case(seed, recipe=recipe, b=sum(sizes))
    case.settings = replace(case.settings, class_weights=torch.rand(5), label_smoothing=0.1, detach_uncertainty=False)
    whole = outcome(case)

    ends = np.cumsum(sizes).tolist()
    parts = [case.step(slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)]

    summed = {"loss": torch.stack([part.loss.detach() for part in parts]).sum()}
    for name in parts[0].terms:
        summed[f"term {name}"] = torch.stack([part.terms[name] for part in parts]).sum()
    summed["logit_grad"] = torch.cat([part.logit_grad_B for part in parts])
    summed["probs"] = torch.cat([part.probs_BC for part in parts])
    if recipe == "official":
        summed["sums"] = torch.stack([part.center_sums_CV for part in parts if part.center_sums_CV is not None]).sum(0)
        summed["counts"] = sum(
            (part.center_counts_C for part in parts if part.center_counts_C is not None), Tensor([0])
        )
    assert_same(summed | {f"grad {name}": value for name, value in case.gradients().items()}, whole)


@pytest.mark.parametrize("recipe", ["official", "paper"])
def test_under_a_floor_above_all_its_outputs_the_calibration_network_learns_nothing(recipe: str) -> None:
    case, moved = Case(1, recipe=recipe), dict[float, float]()
    for floor in (-50.0, 50.0):
        case.settings = replace(case.settings, calibration_floor=floor)
        gradients = outcome(case)
        moved[floor] = sum(float(value.abs().sum()) for name, value in gradients.items() if "grad calibration" in name)
    assert moved[-50.0] > 0
    assert moved[50.0] == 0


@few
@given(seeds, recipes, st.booleans())
def test_what_never_written_neighbors_hold_does_not_matter(seed: int, recipe: str, training: bool) -> None:
    case = Case(seed, recipe=recipe)
    start = {name: value.clone() for name, value in case.model.state_dict().items()}
    case.model.train(training)
    before, statistics = outcome(case), {name: value.clone() for name, value in case.model.named_buffers()}

    never_BK = ~case.neighbors.usable_BK
    for name in ("va_BK2", "probs_BKC", "features_BKV", "logit_BK"):
        getattr(case.neighbors, name)[never_BK] = 1e9
    case.neighbors.labels_BK[never_BK] = (case.neighbors.labels_BK[never_BK] + 1) % 5
    case.model.load_state_dict(start)

    assert_same(outcome(case), before, rtol=0, atol=0)
    assert_same(dict(case.model.named_buffers()), statistics, rtol=0, atol=0)


@few
@given(seeds, recipes, st.booleans())
def test_never_written_neighbors_equal_absent_ones(seed: int, recipe: str, training: bool) -> None:
    case = Case(seed, recipe=recipe, k=5)
    start = {name: value.clone() for name, value in case.model.state_dict().items()}
    case.model.train(training)
    case.neighbors.usable_BK[:] = torch.tensor([True, False, True, False, False])
    among_others = outcome(case) | dict(case.model.named_buffers())
    among_others = {name: value.clone() for name, value in among_others.items()}

    case.neighbors = case.neighbors[:, [0, 2]]
    case.model.load_state_dict(start)

    assert_same(outcome(case) | dict(case.model.named_buffers()), among_others)


@few
@given(seeds, recipes, st.booleans())
def test_a_row_without_usable_neighbors_trains_on_its_label_and_leaves_its_uncertainty(
    seed: int, recipe: str, detach: bool
) -> None:
    case = Case(seed, recipe=recipe, b=3)
    case.settings = replace(case.settings, gamma=0.0, detach_uncertainty=detach)
    case.neighbors.usable_BK[1] = False
    case.neighbors.usable_BK[::2] = True

    alone = case.step(slice(1, 2))
    log_probs_C = case.model(case.batch.images).logits_BC[1].log_softmax(dim=0)
    np.testing.assert_allclose(3 * alone.loss.detach(), -log_probs_C[case.batch.labels_B[1]].detach(), rtol=1e-5)
    case.gradients()

    result = case.step()
    assert result.logit_grad_B[1] == 0
    assert bool((result.logit_grad_B[::2] != 0).all())
    assert all(bool(value.isfinite().all()) for value in case.gradients().values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("usable", [0, 1])
@pytest.mark.parametrize("recipe", ["official", "paper"])
def test_zero_or_one_usable_neighbor_gives_every_parameter_a_finite_gradient(
    recipe: str, usable: int, training: bool
) -> None:
    case = Case(0, recipe=recipe)
    case.model.train(training)
    case.neighbors.usable_BK[:] = False
    case.neighbors.usable_BK.view(-1)[:usable] = True
    statistics = {name: value.clone() for name, value in case.model.named_buffers() if "calibration" in name}

    result = case.step()

    assert bool(result.loss.isfinite())
    for name, value in case.gradients().items():
        assert bool(value.isfinite().all()), name
        assert not (name.startswith("calibration") and value.any()), name
    for name, value in case.model.named_buffers():
        assert name not in statistics or torch.equal(value, statistics[name]), name
    assert all(part.training == training for part in case.model.modules())


@few
@given(seeds, recipes)
def test_warm_up_uses_the_given_labels_alone(seed: int, recipe: str) -> None:
    case, plain = Case(seed, recipe=recipe), Case(seed, recipe="ce")
    plain.batch = case.batch
    plain.model.load_state_dict(case.model.state_dict(), strict=False)
    case.settings = replace(case.settings, detach_uncertainty=False)
    result = case.step(use_neighbors=False)
    np.testing.assert_allclose(result.terms["cross_entropy"], plain.step().loss.detach(), rtol=1e-5)
    assert not result.logit_grad_B.any()
    assert not any(value.any() for name, value in case.gradients().items() if name.startswith("calibration"))


@few
@given(seeds, recipes, st.booleans())
def test_uncertainty_gradient_is_that_of_the_rows_own_loss(seed: int, recipe: str, detach: bool) -> None:
    case = Case(seed, recipe=recipe)
    case.neighbors.usable_BK[:, 0] = True
    weights_C = torch.rand(5)
    gamma = 0.0 if detach else 0.3  # autograd sees the discriminative loss too; without it, both switches agree
    case.settings = replace(case.settings, gamma=gamma, detach_uncertainty=detach, class_weights=weights_C)
    logit_B = case.batch.logit_B.clone().requires_grad_()
    case.batch = replace(case.batch, logit_B=logit_B)
    result = case.step()
    assert logit_B.grad is not None
    np.testing.assert_allclose(result.logit_grad_B.detach(), len(logit_B) * logit_B.grad, rtol=1e-4, atol=1e-6)


@few
@given(seeds, recipes)
def test_class_weights_scale_each_rows_loss_and_uncertainty_gradient(seed: int, recipe: str) -> None:
    case = Case(seed, recipe=recipe)
    weights_C = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0])
    weights_B = weights_C[case.batch.labels_B]
    rows_B = torch.stack([case.step(slice(row, row + 1)).terms["cross_entropy"] for row in range(6)])
    plain = case.step()
    case.settings = replace(case.settings, class_weights=weights_C)
    weighted = case.step()
    np.testing.assert_allclose(weighted.terms["cross_entropy"], (weights_B * rows_B).sum(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weighted.logit_grad_B, weights_B * plain.logit_grad_B, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(weighted.terms["intra"], plain.terms["intra"], rtol=1e-5)


@few
@given(seeds, recipes, st.integers(2, 12), st.integers(1, 7), st.integers(1, 6), st.integers(1, 5))
def test_any_number_of_classes_features_rows_and_neighbors_will_do(
    seed: int, recipe: str, c: int, v: int, b: int, k: int
) -> None:
    case = Case(seed, recipe=recipe, b=b, k=k, c=c, v=v)
    given = outcome(case)
    assert given["probs"].shape == (b, c)
    assert given["logit_grad"].shape == (b,)
    assert all(bool(value.isfinite().all()) for value in given.values())


@pytest.mark.parametrize("recipe", ["official", "paper"])
@pytest.mark.parametrize("distance", [1e3, 1e8])
def test_far_away_neighbors_still_give_finite_numbers(recipe: str, distance: float) -> None:
    case = Case(0, recipe=recipe)
    case.neighbors.usable_BK[:] = True
    case.neighbors.va_BK2.fill_(distance)  # their similarity underflows to 0; all equally far, so they share evenly
    case.neighbors.probs_BKC[:] = case.neighbors.probs_BKC[:, :1]
    given = outcome(case)
    case.neighbors.va_BK2[:] = case.batch.va_B2[:, None]
    near = outcome(case)
    assert all(bool(value.isfinite().all()) for value in given.values())
    assert_same({"loss": given["loss"]}, {"loss": near["loss"]}, rtol=1e-5)


def without_direct_path(case: Case) -> Case:
    """Cut the logits and the discriminative loss off the features: what is left flows through the target."""
    nn.init.zeros_(case.model.classifier.weight)
    case.settings = replace(case.settings, gamma=0.0)
    return case


@pytest.mark.parametrize("recipe", ["official", "paper"])
def test_the_target_trains_the_backbone_through_the_calibration_network(recipe: str) -> None:
    case = without_direct_path(Case(0, recipe=recipe))
    case.neighbors.usable_BK[:] = True
    case.step()
    gradients = case.gradients()
    assert gradients["backbone.1.weight"].abs().max() > 1e-6
    assert gradients["calibration.0.weight"].abs().max() > 1e-6

    case.neighbors.usable_BK[:, 1:] = False  # a single neighbour has the whole share, whatever g says
    case.step()
    gradients = case.gradients()
    assert gradients["backbone.1.weight"].abs().max() < 1e-7
    assert gradients["calibration.0.weight"].abs().max() < 1e-7


@pytest.mark.parametrize("recipe", ["official", "paper"])
def test_neighbors_of_the_exact_source_are_constants(recipe: str) -> None:
    case = Case(0, recipe=recipe)
    case.model.train()
    images = torch.randn(24, 1, 3, 2)
    probs, features = forward_neighbors(case.model, images)
    assert not probs.requires_grad
    assert not features.requires_grad
    np.testing.assert_allclose(probs.sum(dim=1), 1, rtol=1e-5)


def test_official_centers_are_asked_for_by_rows_and_usable_neighbors_only() -> None:
    case = Case(3)
    usable_BK = case.neighbors.usable_BK
    result = case.step()
    labels = torch.cat([case.batch.labels_B, case.neighbors.labels_BK[usable_BK]])
    assert result.center_counts_C is not None
    assert result.center_counts_C.tolist() == torch.bincount(labels, minlength=5).tolist()
    assert not case.model.centers.requires_grad


@few
@given(seeds, recipes, st.booleans())
def test_a_neighbor_known_by_its_label_alone_counts_by_its_similarity(seed: int, recipe: str, training: bool) -> None:
    case = Case(seed, recipe=recipe)
    start = {name: value.clone() for name, value in case.model.state_dict().items()}
    case.model.train(training)
    case.neighbors = replace(case.neighbors, label_only_BK=torch.rand(6, 4) < 0.5)
    neighbors, alone_BK = case.neighbors, case.neighbors.label_only_BK
    found, statistics = outcome(case), {name: value.clone() for name, value in case.model.named_buffers()}

    case.model.load_state_dict(start)  # what is in place of its features, and its uncertainty, do not matter
    neighbors.features_BKV[alone_BK] = 1e9
    neighbors.logit_BK[alone_BK] = -1e9
    assert_same(outcome(case), found, rtol=0, atol=0)
    assert_same(dict(case.model.named_buffers()), statistics, rtol=0, atol=0)

    case.model.load_state_dict(start)
    known_BK = neighbors.usable_BK & ~alone_BK
    output = case.model(case.batch.images, neighbors.features_BKV, known_BK)
    z_BK = torch.where(
        known_BK, output.calibration_BK.clamp(min=-1.3 if recipe == "official" else None, max=99), 0
    ).sigmoid()
    gap_BK2 = case.batch.va_B2[:, None] - neighbors.va_BK2
    s_BK = (-gap_BK2.abs().sum(-1) / 0.5 if recipe == "official" else -gap_BK2.square().sum(-1) / 0.25).exp()
    c_BK = z_BK * s_BK * neighbors.usable_BK
    said_BC = (c_BK[..., None] * neighbors.probs_BKC).sum(1) / c_BK.sum(1, keepdim=True).clamp(min=1e-30)
    label_BC = torch.eye(5)[case.batch.labels_B]
    weight_B1 = case.batch.logit_B.sigmoid()[:, None] * neighbors.usable_BK.any(1, keepdim=True)
    target_BC = (1 - weight_B1) * label_BC + weight_B1 * said_BC
    expected = -(target_BC * output.logits_BC.log_softmax(1)).sum() / 6
    np.testing.assert_allclose(found["term cross_entropy"], expected.detach(), rtol=1e-4)
    if recipe == "official":
        labels = torch.cat([case.batch.labels_B, neighbors.labels_BK[known_BK]])
        assert found["counts"].tolist() == torch.bincount(labels, minlength=5).tolist()


@few
@given(seeds, recipes)
def test_without_calibration_neighbors_count_by_their_similarity_and_centers_stay(seed: int, recipe: str) -> None:
    """The same as a network whose every logit is 0, but for the parameters that are not there."""
    case, plain = Case(seed, recipe=recipe), Case(seed, recipe=recipe)
    assert case.model.calibration is not None
    with torch.no_grad():
        for parameter in case.model.calibration[-1].parameters():
            parameter.zero_()
    plain.model.calibration = None
    expected = {name: value for name, value in outcome(case).items() if "calibration" not in name}
    assert_same(outcome(plain), expected)


def test_paper_centers_are_trained_and_ask_for_no_sums() -> None:
    case = Case(3, recipe="paper")
    result = case.step()
    assert result.center_sums_CV is result.center_counts_C is None
    assert case.gradients()["centers"].any()


@pytest.mark.parametrize("recipe", ["official", "paper"])
def test_a_network_built_without_calibration_has_its_centers(recipe: str) -> None:
    model = LDLVA(Backbone(3), 5, recipe=recipe, calibration_hidden=None)
    assert model.calibration is None
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "classifier", "centers"}


def test_plain_cross_entropy_has_neither_centers_nor_calibration() -> None:
    case = Case(0, recipe="ce")
    result = case.step()
    assert case.model.calibration is None
    assert not hasattr(case.model, "centers")
    assert not result.logit_grad_B.any()
    assert set(result.terms) == {"loss", "cross_entropy"}  # nothing of uncertainty: there is none


def test_the_official_divisor_stays_when_neighbors_are_missing_or_swept() -> None:
    case = Case(0)
    case.neighbors.usable_BK[:] = False
    distances_B = (case.model(case.batch.images).features_BV - case.model.centers[case.batch.labels_B]).square().sum(1)
    expected = 0.5 * ((1 - case.batch.logit_B.sigmoid()) * distances_B).sum() / (6 * (1 + 3))
    np.testing.assert_allclose(case.step().terms["intra"], expected.detach(), rtol=1e-5)
