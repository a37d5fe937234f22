"""Settings of the network, its losses and its optimiser."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ldlva_dist.values.settings import Count, Momentum, NotNegative, Positive, Range, Share, check_settings, require

Width = Annotated[int, Range(ge=1, le=4096)]
Epoch = Annotated[float, Range(ge=0, le=10**6)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: str = "resnet18"
    """resnet10, resnet18, resnet34, resnet50, mobilefacenet (112 pixels), or timm:NAME where timm is installed."""
    width: Width = 64
    """Channels of the first stage of a built-in ResNet."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """small: for faces of about 48 pixels."""
    pretrained: str | None = None
    """A .pth or .safetensors file of backbone weights, local or s3://."""
    calibration_hidden: tuple[Width, Width] = (512, 256)
    """Widths of the calibration network's two hidden layers."""
    freeze_batchnorm: bool = False
    """Use the stored statistics of every BatchNorm and leave them as they are."""

    def __post_init__(self) -> None:
        check_settings(self, "model")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The method (METHOD.md, sections 2 and 3)."""

    recipe: Literal["official", "paper", "ce", "posterior", "elr", "sop", "gce", "sce", "mixup"] = "official"
    """official: the reference implementation; paper: the paper's equations; ce: plain cross-entropy, the baseline.
    posterior: the target is the true class's probability by label, neighbours and the sample's own outputs (METHOD.md,
    section 9; its constants: posterior).
    Methods of others against wrong labels, which need no valence-arousal (their constants: robust): elr, early-learning
    regularisation; sop, sparse over-parameterisation; gce and sce, generalised and symmetric cross-entropy; mixup."""
    gamma: NotNegative = 0.01
    """Weight of the discriminative loss."""
    kernel_width: Positive = 0.5
    """delta, the width of the similarity kernel in valence-arousal units."""
    calibration: bool = True
    """False: neighbours count by their similarity alone; the calibration network is left out."""
    calibration_floor: Annotated[float, Range(ge=-100, le=100)] | None = None
    """Outputs of the calibration network, before the sigmoid, count as this where they are lower. None: the recipe's
    own, -1.3 for official and none for paper, which swallows classes on wrong labels (METHOD.md, section 3)."""
    label_smoothing: Share = 0.0
    """Share of each given label that is spread over all classes."""
    class_weights: Literal["balanced"] | None = None
    """balanced: each class weighs N / (C x its count) in the cross-entropy."""
    reference_k: Count = 8
    """Fixes the divisor of the intra-class term, so that sweeping K does not change it."""
    center_rate: NotNegative = 0.5 / 288
    """official: step of the class centres towards their samples."""
    detach_uncertainty: bool = True
    """False lets the discriminative loss move the uncertainty; degenerate, it drives it to 1 (METHOD.md, section 3)."""
    warmup_epochs: Epoch = 0.0
    """Epochs on the given labels alone before neighbours and uncertainty take part."""

    def __post_init__(self) -> None:
        check_settings(self, "loss")
        require(
            self.label_smoothing == 0 or self.recipe not in ("sop", "gce", "sce"),
            f"loss.label_smoothing must be 0 for loss.recipe={self.recipe}, whose formula has whole labels, "
            f"got {self.label_smoothing:g}",
        )


@dataclass(frozen=True, kw_only=True)
class PosteriorConfig:
    """Constants of the recipe posterior (METHOD.md, section 9)."""

    noise_rate: Annotated[float, Range(gt=0, lt=1)] = 0.2
    """Share of wrong labels that the estimate of the noise matrix begins with."""
    own_weight: Share = 0.5
    """Weight of the sample's own outputs against its neighbours' in what is believed before the label is seen."""
    momentum: Momentum = 0.7
    """Weight of the old value in the moving average of a sample's outputs, which the bank keeps."""

    def __post_init__(self) -> None:
        check_settings(self, "posterior")


@dataclass(frozen=True, kw_only=True)
class RobustConfig:
    """Constants of the recipes of others (METHOD.md, section 8)."""

    elr_weight: NotNegative = 3.0
    """elr: weight of the regularisation."""
    elr_momentum: Momentum = 0.7
    """elr: weight of the old value in the moving average of a sample's outputs."""
    gce_q: Annotated[float, Range(gt=0, le=1)] = 0.7
    """gce: exponent; towards 0 it is cross-entropy, 1 the mean absolute error."""
    sce_alpha: NotNegative = 0.1
    """sce: weight of the cross-entropy."""
    sce_beta: NotNegative = 1.0
    """sce: weight of the reverse cross-entropy."""
    mixup_alpha: Positive = 1.0
    """mixup: both parameters of the Beta distribution that shares are drawn from."""
    sop_u_rate: NotNegative = 1 / 128
    """sop: step of a sample's u on its own loss; the reference's 1 on a mean over 128."""
    sop_v_rate: NotNegative = 10 / 128
    """sop: step of a sample's v; the reference's 10 on a mean over 128. The reference trains for 300 epochs: a run of
    few needs more, as u and v grow from nearly nothing by a factor an epoch."""
    sop_spread: Positive = 1e-8
    """sop: standard deviation of what u and v start with."""

    def __post_init__(self) -> None:
        check_settings(self, "robust")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The network's optimiser."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: NotNegative = 0.0
    momentum: Momentum = 0.9
    """Momentum of sgd."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """step: multiplied by decay_factor at decay_epochs; cosine: to zero at the last step."""
    decay_epochs: tuple[Epoch, ...] = ()
    decay_factor: Share = 0.1
    warmup_epochs: Epoch = 0.0
    """Linear rise from zero."""
    gradient_clipping: Positive | None = None
    """Largest norm of the whole gradient; None is off."""

    def __post_init__(self) -> None:
        check_settings(self, "optim")
