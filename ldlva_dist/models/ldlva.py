"""The whole trained network: backbone, classifier, calibration network and class centres.

B = batch, K = neighbours, C = classes, V = feature width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldlva_dist.models.calibration import Calibration


class ModelOutput(NamedTuple):
    """What one forward gives, in float32. A tuple, because DeepSpeed puts its ZeRO-3 hooks only on tensors in one."""

    features_BV: Tensor
    logits_BC: Tensor
    calibration_BK: Tensor | None
    """Raw logits of the calibration network; 0 for neighbours that are not usable, and where there is no such network;
    None if no neighbours were given."""
    centers_CV: Tensor | None = None
    """A copy of the class centres: under ZeRO-3 the parameter itself is empty outside the forward. None for ``ce``."""


class LDLVA(nn.Module):
    """One forward for everything that has parameters, so that a sharding engine sees every use of them."""

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        recipe: str,
        calibration_hidden: tuple[int, int] | None = (512, 256),
        noise_rate: float = 0.2,
    ) -> None:
        """Build the network; recipes other than ``official`` and ``paper`` have neither calibration nor centres.

        ``official`` centres are a buffer with its own update rule, ``paper`` centres are a parameter. ``posterior`` has
        a buffer with the joint probabilities of true and given class, of which ``noise_rate`` differ at first.
        """
        super().__init__()
        self.centers: Tensor | nn.Parameter
        self.noise_joint: Tensor
        self.backbone = backbone
        self.feature_width = int(backbone.feature_width)  # pyright: ignore[reportArgumentType]
        self.classifier = nn.Linear(self.feature_width, num_classes)
        hidden = calibration_hidden if recipe in ("official", "paper") else None
        self.calibration = Calibration(self.feature_width, hidden) if hidden else None
        zeros_CV = torch.zeros(num_classes, self.feature_width)
        if recipe == "official":
            self.register_buffer("centers", zeros_CV)
        elif recipe == "posterior":
            self.register_buffer("noise_joint", noise_joint(num_classes, noise_rate))
        elif recipe == "paper":
            self.centers = nn.Parameter(zeros_CV + 0.01 * torch.randn_like(zeros_CV))

    def forward(
        self, images: Tensor, neighbor_features_BKV: Tensor | None = None, usable_BK: Tensor | None = None
    ) -> ModelOutput:
        """Features, logits, and calibration logits for the neighbours.

        Args:
            images: uint8 [B, H, W, channels] in 0..255, or floats [B, channels, H, W] as the backbone takes them.
            neighbor_features_BKV: Stored features; constants.
            usable_BK: Which of them were ever written; the others stay out of the network and its statistics.
        """
        features_BV = self.backbone(normalize(images) if images.dtype == torch.uint8 else images)
        logits_BC = self.classifier(features_BV).float()
        if neighbor_features_BKV is None:
            return ModelOutput(features_BV.float(), logits_BC, None, self._copy_of_centers())
        assert usable_BK is not None, "neighbour features come with their usable mask"
        calibration_BK = self._calibrate(features_BV, neighbor_features_BKV, usable_BK)
        return ModelOutput(features_BV.float(), logits_BC, calibration_BK, self._copy_of_centers())

    def _copy_of_centers(self) -> Tensor | None:
        return self.centers.clone() if hasattr(self, "centers") else None

    def _calibrate(self, features_BV: Tensor, neighbor_features_BKV: Tensor, usable_BK: Tensor) -> Tensor:
        assert hasattr(self, "centers"), "recipe ce takes no neighbours"
        if self.calibration is None:
            return torch.zeros(usable_BK.shape, device=usable_BK.device)
        other_BKV = neighbor_features_BKV.to(features_BV.dtype).where(usable_BK[..., None], 0)
        return self.calibration(features_BV, other_BKV, usable_BK).float()


def noise_joint(num_classes: int, noise_rate: float) -> Tensor:
    """Joint probabilities of true and given class where all classes are alike and a share of labels is wrong at random.

    Args:
        num_classes: C, at least 2.
        noise_rate: Share of wrong labels, in (0, 1).

    Returns:
        [C, C] rows are true classes; the sum is 1.
    """
    joint_CC = torch.full((num_classes, num_classes), noise_rate / (num_classes - 1))
    return joint_CC.fill_diagonal_(1 - noise_rate) / num_classes


def normalize(images_BHWc: Tensor) -> Tensor:
    """uint8 [B, H, W, channels] to floats [B, channels, H, W] in [-1, 1]: (x - 127.5) / 127.5.

    The result's memory is channels-last without a copy, and so is every feature map after it. The weights stay
    row-major: DeepSpeed flattens them, and the convolutions reorder them on the way for next to nothing.
    """
    return images_BHWc.permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5)
