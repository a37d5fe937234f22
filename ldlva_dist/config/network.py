"""Settings of the network, its losses and its optimiser."""

from dataclasses import dataclass
from typing import Literal

from ldlva_dist.config.checks import at_least, require, share


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: str = "resnet18"
    """resnet10, resnet18, resnet34, resnet50, or timm:NAME where timm is installed."""
    width: int = 64
    """Channels of the first stage of a built-in ResNet."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """small: for faces of about 48 pixels."""
    pretrained: str | None = None
    """A .pth or .safetensors file of backbone weights, local or s3://."""
    calibration_hidden: tuple[int, int] = (512, 256)
    """Widths of the calibration network's two hidden layers."""
    freeze_batchnorm: bool = False
    """Use the stored statistics of every BatchNorm and leave them as they are."""

    def __post_init__(self) -> None:
        at_least("model", 1, width=self.width)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The method (METHOD.md, sections 2 and 3)."""

    recipe: Literal["official", "paper", "ce"] = "official"
    """official: the reference implementation; paper: the paper's equations; ce: plain cross-entropy, the baseline."""
    gamma: float = 0.01
    """Weight of the discriminative loss."""
    kernel_width: float = 0.5
    """delta, the width of the similarity kernel in valence-arousal units."""
    calibration: bool = True
    """False: neighbours count by their similarity alone; the calibration network is left out."""
    label_smoothing: float = 0.0
    """Share of each given label that is spread over all classes."""
    class_weights: Literal["balanced"] | None = None
    """balanced: each class weighs N / (C x its count) in the cross-entropy."""
    reference_k: int = 8
    """Fixes the divisor of the intra-class term, so that sweeping K does not change it."""
    center_rate: float = 0.5 / 288
    """official: step of the class centres towards their samples."""
    detach_uncertainty: bool = True
    """False lets the discriminative loss move the uncertainty; degenerate, it drives it to 1 (METHOD.md, section 3)."""
    warmup_epochs: float = 0.0
    """Epochs on the given labels alone before neighbours and uncertainty take part."""

    def __post_init__(self) -> None:
        at_least("loss", 0, gamma=self.gamma, center_rate=self.center_rate, warmup_epochs=self.warmup_epochs)
        require(self.kernel_width > 0, f"loss.kernel_width must be > 0, got {self.kernel_width}")
        at_least("loss", 1, reference_k=self.reference_k)
        share("loss", label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The network's optimiser."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    momentum: float = 0.9
    """Of sgd."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """step: multiplied by decay_factor at decay_epochs; cosine: to zero at the last step."""
    decay_epochs: tuple[float, ...] = ()
    decay_factor: float = 0.1
    warmup_epochs: float = 0.0
    """Linear rise from zero."""
    gradient_clipping: float | None = None
    """Largest norm of the whole gradient; None is off."""

    def __post_init__(self) -> None:
        require(self.lr > 0, f"optim.lr must be > 0, got {self.lr}")
        at_least("optim", 0, weight_decay=self.weight_decay, warmup_epochs=self.warmup_epochs)
        require(
            self.gradient_clipping is None or self.gradient_clipping > 0,
            f"optim.gradient_clipping must be > 0, got {self.gradient_clipping}",
        )
