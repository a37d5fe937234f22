"""The official recipe, number by number, against the reference implementation's own outputs (vectors/official.npz).

The reference's lamb is the weight of the LABEL: our uncertainty is 1 - lamb, our logit is -lamb_hat.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldlva_dist.method import centers, losses, targets
from ldlva_dist.method.similarity import log_similarity
from ldlva_dist.method.step import StepResult, StepSettings, TensorBatch, TensorNeighbors, forward_neighbors, step
from ldlva_dist.models.calibration import Calibration
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.training.schedule import Schedule

C, GAMMA = 7, 0.01
VECTORS = np.load(Path(__file__).parents[1] / "vectors" / "official.npz", allow_pickle=False)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def vector(name: str) -> Tensor:
    return torch.from_numpy(VECTORS[name])


def indices(name: str) -> Tensor:
    return vector(name).long()


def assert_equal(ours: Tensor | float, name: str, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(ours), VECTORS[name], rtol=rtol, atol=atol, err_msg=name)


def onehot(name: str) -> Tensor:
    return losses.smoothed_labels(indices(name), C, 0.0)


def aggregated(calibration_BK: Tensor) -> Tensor:
    shares_BK = targets.contribution_shares(
        vector("td_knn_weights").log(), calibration_BK, torch.ones(4, 3, dtype=torch.bool), recipe="official"
    )
    return targets.aggregate(shares_BK, vector("td_y_aux"))


def target(uncertainty_B: Tensor, aggregated_BC: Tensor) -> Tensor:
    everywhere = torch.ones(4, dtype=torch.bool)
    return targets.target_distribution(onehot("td_l_gt"), aggregated_BC, uncertainty_B, everywhere)


def test_target_distribution_equals_the_reference() -> None:
    aggregated_BC = aggregated(vector("td_calib").logit())
    assert_equal(aggregated_BC, "td_neighbor_ld")
    assert_equal(target(1 - vector("td_lamb")[:, 0], aggregated_BC), "td_out")
    assert_equal(target((-vector("td_lamb_hat")[:, 0]).sigmoid(), aggregated_BC), "td_out")
    assert_equal(target(torch.full((4,), 0.1), aggregated_BC), "td_out_scalar09")


def test_cross_entropy_equals_the_reference_even_where_a_probability_is_zero() -> None:
    log_probs_BC = losses.log_probabilities(vector("ce_y_pred").log(), recipe="official")
    ce_B = losses.cross_entropy(vector("ce_y_true"), log_probs_BC)
    assert_equal(ce_B, "ce_per_sample")
    assert_equal(ce_B.mean(), "ce_out")
    assert_equal((vector("ce_sample_weight") * ce_B).mean(), "ce_out_weighted")


def test_gradients_through_the_undetached_target_equal_the_reference() -> None:
    logits_BC = vector("cg_logits").requires_grad_()
    z_BK = vector("td_calib").requires_grad_()
    logit_B = (-vector("td_lamb_hat")[:, 0]).requires_grad_()
    aggregated_BC = aggregated(z_BK.logit())
    target_BC = target(logit_B.sigmoid(), aggregated_BC)
    log_probs_BC = losses.log_probabilities(logits_BC, recipe="official")
    loss = losses.cross_entropy(target_BC, log_probs_BC).mean()
    loss.backward()
    assert_equal(loss.detach(), "cg_loss")
    assert z_BK.grad is not None
    assert logit_B.grad is not None
    assert logits_BC.grad is not None
    assert_equal(z_BK.grad, "cg_grad_calib")
    assert_equal(-logit_B.grad[:, None], "cg_grad_lamb_hat")
    assert_equal(logits_BC.grad, "cg_grad_logits")
    closed_form_B = losses.uncertainty_gradient(
        onehot("td_l_gt"),
        aggregated_BC,
        log_probs_BC,
        uncertainty_B=logit_B.sigmoid(),
        has_neighbor_B=torch.ones(4, dtype=torch.bool),
    )
    assert_equal(-closed_form_B[:, None] / 4, "cg_grad_lamb_hat")


@pytest.mark.parametrize("case", ["dl_small", "dl_zero"])
def test_discriminative_loss_and_two_center_updates_equal_the_reference(case: str) -> None:
    labels_N, uncertainty_N = indices(f"{case}_labels"), (-vector(f"{case}_lamb_hat")[:, 0]).sigmoid()
    ids_n = torch.cat([indices(f"{case}_idx"), indices(f"{case}_neighbor_idx").flatten()])
    labels_n, uncertainty_n = labels_N[ids_n], uncertainty_N[ids_n]
    divisor = 4 * (1 + 3)
    centers_CV = vector(f"{case}_centers0").clone()
    for call in range(2):
        x, x_aux = vector(f"{case}_x").requires_grad_(), vector(f"{case}_x_aux").requires_grad_()
        features_nV = torch.cat([x, x_aux.flatten(0, 1)])
        distance_n = centers.intra_distances(features_nV, labels_n, centers_CV)
        loss = 0.5 * ((1 - uncertainty_n) * distance_n).sum() / divisor
        grad_x, grad_aux = torch.autograd.grad(loss, (x, x_aux))
        assert_equal(loss.detach(), f"{case}_loss_{call}")
        assert_equal(grad_x, f"{case}_grad_x_{call}")
        assert_equal(grad_aux, f"{case}_grad_xaux_{call}")

        sums_CV, counts_C = centers.center_sums(features_nV.detach(), labels_n, uncertainty_n, centers_CV)
        assert_equal(-sums_CV / (1 + counts_C)[:, None] / divisor, f"{case}_center_grads_{call}")
        whole_CV = centers_CV.clone()
        centers.update_centers(whole_CV, sums_CV, counts_C, rate=0.5 / divisor)
        centers.attract(centers_CV, sums_CV, counts_C, rate=0.5 / divisor)
        assert_equal(centers_CV, f"{case}_centers_mid_{call}")

        moving_CV = centers_CV.clone().requires_grad_()
        inter = centers.inter_official(moving_CV)
        assert_equal(inter.detach(), f"{case}_inter_value_{call}")
        assert_equal(torch.autograd.grad(inter, moving_CV)[0], f"{case}_inter_grad_{call}")
        centers.repel(centers_CV)
        assert_equal(centers_CV, f"{case}_centers_after_{call}")
        assert torch.equal(whole_CV, centers_CV)


def keras_weights(names: list[str]) -> dict[str, Tensor]:
    """State dict of a Calibration from vectors in Keras's order: W b, gamma beta mean var, W b, ..., W b."""
    layers = {0: names[:2], 1: names[2:6], 3: names[6:8], 4: names[8:12], 6: names[12:14]}
    state = {}
    for layer, keys in layers.items():
        parts = ("weight", "bias") if len(keys) == 2 else ("weight", "bias", "running_mean", "running_var")
        for part, key in zip(parts, keys, strict=True):
            state[f"{layer}.{part}"] = vector(key).T if vector(key).ndim == 2 else vector(key)
    return state


def biased_variance(module: nn.Module) -> None:
    """Let every BatchNorm average the biased variance, as Keras does; PyTorch averages the unbiased one."""

    def correct(norm: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if norm.training and isinstance(norm, nn.BatchNorm1d):
            assert norm.running_var is not None
            assert norm.momentum is not None
            rows = inputs[0].detach()
            norm.running_var.data -= norm.momentum * (rows.var(dim=0) - rows.var(dim=0, unbiased=False))

    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.register_forward_hook(correct)


SIM_NAMES = [f"sim_{name}" for name in ("W1", "b1")] + [f"sim_bn1_{part}" for part in ("gamma", "beta", "mean", "var")]
SIM_NAMES += ["sim_W2", "sim_b2"] + [f"sim_bn2_{part}" for part in ("gamma", "beta", "mean", "var")]
SIM_NAMES += ["sim_W3", "sim_b3"]


def sim_network() -> tuple[Calibration, tuple[Tensor, Tensor, Tensor]]:
    """The network, and pairs that all count."""
    network = Calibration(6)
    missing = network.load_state_dict(keras_weights(SIM_NAMES), strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    features_BV, auxiliary_BKV = vector("sim_feat"), vector("sim_feat_aux")
    return network, (features_BV, auxiliary_BKV, torch.ones(auxiliary_BKV.shape[:2], dtype=torch.bool))


def clamped(logits: Tensor) -> Tensor:
    return logits.clamp(min=targets.CALIBRATION_FLOOR).sigmoid()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_calibration_network_equals_the_reference(mode: str) -> None:
    network, (own, others, counts) = sim_network()
    # In float64: what is left of the tolerance is the reference's own rounding, not a machine's order of additions.
    logits = network.double().train(mode == "train")(own.double(), others.double(), counts).detach()
    assert_equal(logits, f"sim_logit_{mode}")
    assert_equal(clamped(logits), f"sim_out_{mode}")


def test_running_statistics_equal_the_reference_but_for_its_biased_variance() -> None:
    network, pairs = sim_network()
    biased_variance(network)
    network.train()(*pairs)
    for index, layer in ((1, network[1]), (2, network[4])):
        assert isinstance(layer, nn.BatchNorm1d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert_equal(layer.running_mean, f"sim_bn{index}_mean_after")
        assert_equal(layer.running_var, f"sim_bn{index}_var_after")


def test_pytorch_alone_averages_the_unbiased_variance() -> None:
    network, pairs = sim_network()
    before = vector("sim_bn1_var")
    network.train()(*pairs)
    update = (network.state_dict()["1.running_var"] - 0.99 * before) / 0.01
    reference = (vector("sim_bn1_var_after") - 0.99 * before) / 0.01
    np.testing.assert_allclose(update, reference * 12 / 11, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("recipe", "index", "expected"),
    [
        ("official", "knn_index_K3", "knn_weights_K3"),
        ("paper", "knn_index", "knn_paper_sq_l2_delta05"),
    ],
)
def test_similarity_equals_the_reference(recipe: str, index: str, expected: str) -> None:
    va_N2 = vector("knn_va")
    s_BK = log_similarity(va_N2, va_N2[indices(index)], width=0.5, recipe=recipe).exp()
    assert_equal(s_BK, expected)


def test_balanced_class_weights_equal_the_reference() -> None:
    weights_C = losses.balanced_class_weights(indices("cw_labels").bincount(minlength=C))
    assert_equal(weights_C, "cw_weights", rtol=1e-12)
    assert_equal(weights_C[indices("cw_query")], "cw_sample_weights")


def test_a_class_without_samples_weighs_nothing() -> None:
    weights_C = losses.balanced_class_weights(torch.tensor([3, 0, 1]))
    np.testing.assert_allclose(weights_C, [4 / 9, 0, 4 / 3])


def test_learning_rate_equals_the_reference_also_at_the_boundaries() -> None:
    per_epoch = int(VECTORS["lr_batches_per_epoch"])
    boundaries = tuple(per_epoch * int(epoch) for epoch in VECTORS["lr_steps_epochs"])
    schedule = Schedule(peak=1e-3, total_steps=60 * per_epoch, decay_steps=boundaries, decay_factor=0.1)
    ours = np.array([schedule.rate(int(step)) for step in VECTORS["lr_query"]])
    np.testing.assert_allclose(ours, VECTORS["lr_values"], rtol=1e-12)


class Stub(nn.Module):
    """The vectors' backbone: flatten, Linear without bias, BatchNorm."""

    feature_width = 6

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(12, 6, bias=False), nn.BatchNorm1d(6)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.linear(images.flatten(1)))


class KerasAdam:
    """Adam with its epsilon outside the bias correction."""

    def __init__(self, parameters: list[nn.Parameter], lr: float = 1e-3) -> None:
        self.parameters, self.lr, self.time = parameters, lr, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        self.time += 1
        rate = self.lr * (1 - 0.999**self.time) ** 0.5 / (1 - 0.9**self.time)
        for parameter, (first, second) in zip(self.parameters, self.moments, strict=True):
            assert parameter.grad is not None
            first += 0.1 * (parameter.grad - first)
            second += 0.001 * (parameter.grad**2 - second)
            parameter -= rate * first / (second.sqrt() + 1e-7)
            parameter.grad = None


STUB_NAMES = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "linear.weight")


def model_weights(prefix: str) -> dict[str, Tensor]:
    keys = [f"{prefix}_{number:02d}" for number in range(21)]
    state = {f"backbone.{name}": vector(key) for name, key in zip(STUB_NAMES, keys, strict=False)}
    state["backbone.linear.weight"] = state["backbone.linear.weight"].T
    state |= {"classifier.weight": vector(keys[5]).T, "classifier.bias": vector(keys[6])}
    return state | {f"calibration.{name}": value for name, value in keras_weights(keys[7:]).items()}


def train_one_step(model: LDLVA, optimizer: KerasAdam, logits_N: Tensor, number: int) -> StepResult:
    """What the loop does in a step, with the exact neighbour source. Returns the result of the maths."""
    name, labels_N = f"step_plain_{number}", indices("step_plain_labels")
    ids_B, ids_BK = indices(f"{name}_idx"), indices(f"{name}_nidx")
    # The vectors give s itself: a point at the L1 distance -0.5 log s has that similarity.
    distance_BK = -0.5 * vector(f"{name}_knn").log()
    batch = TensorBatch(
        images=vector(f"{name}_x"), labels_B=labels_N[ids_B], va_B2=torch.zeros(5, 2), logit_B=logits_N[ids_B]
    )
    probs, features = forward_neighbors(model, vector(f"{name}_xaux").flatten(0, 1))
    neighbors = TensorNeighbors(
        va_BK2=torch.stack([distance_BK, torch.zeros(5, 3)], dim=-1),
        labels_BK=labels_N[ids_BK],
        probs_BKC=probs.view(5, 3, C),
        features_BKV=features.view(5, 3, 6),
        usable_BK=torch.ones(5, 3, dtype=torch.bool),
        logit_BK=logits_N[ids_BK],
    )
    settings = StepSettings(recipe="official", num_classes=C, gamma=GAMMA, reference_k=3)
    result = step(model, batch, neighbors, settings=settings, global_batch_size=5)
    result.loss.backward()
    optimizer.step()
    assert result.center_sums_CV is not None
    assert result.center_counts_C is not None
    centers.update_centers(model.centers, result.center_sums_CV, result.center_counts_C, rate=0.5 / (5 * (1 + 3)))
    logits_N[ids_B] -= 10 / 5 * result.logit_grad_B
    return result


def test_three_whole_training_steps_equal_the_reference() -> None:
    model = LDLVA(Stub(), C, recipe="official").train()
    model.load_state_dict(model_weights("step_plain_w0"), strict=False)
    biased_variance(model)
    optimizer = KerasAdam(list(model.parameters()))
    logits_N = torch.full((20,), -0.5)
    for number in range(3):
        result = train_one_step(model, optimizer, logits_N, number)
        name = f"step_plain_{number}"
        ids_B = indices(f"{name}_idx")
        assert_equal(result.probs_BC, f"{name}_preds")
        assert_equal(result.loss.detach(), f"{name}_total_loss")
        assert_equal(result.terms["cross_entropy"], f"{name}_emotion_loss")
        assert_equal(-logits_N[:, None], f"{name}_lamb_hat_after")
        assert_equal((-logits_N[ids_B]).sigmoid().mean(), f"{name}_mean_lamb")
        assert_equal(model.centers, f"{name}_centers_after")
        ours = model.state_dict()
        for key, reference in model_weights(f"{name}_w").items():
            np.testing.assert_allclose(ours[key], reference, rtol=1e-5, atol=1e-6, err_msg=f"{name} {key}")
