"""What is kept of a trained network to use it: images to class probabilities and features.

n = images, H W = height and width in pixels, s = side, c = channels, C = classes, V = feature width.
"""

import torch
from torch import Tensor, nn

from ldlva_dist.models.ldlva import normalize

PARTS = ("backbone.", "classifier.")
"""How the names of its weights begin, in a whole LDLVA network too."""


class Classifier(nn.Module):
    """Backbone and classifier, with the names that they have in :class:`ldlva_dist.models.ldlva.LDLVA`."""

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_width = int(backbone.feature_width)  # pyright: ignore[reportArgumentType]
        self.classifier = nn.Linear(self.feature_width, num_classes)

    def forward(self, images_nHWc: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images of the size trained on to probabilities [n, C] and features [n, V], float32."""
        features_nV = self.backbone(normalize(images_nHWc)).float()
        return self.classifier(features_nV).float().softmax(dim=1), features_nV


class AnySizeClassifier(nn.Module):
    """The same with the resizing inside: what an exported graph is made of."""

    def __init__(self, classifier: Classifier, size: int) -> None:
        super().__init__()
        self.classifier, self.size = classifier, size

    def forward(self, images_nHWc: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images of any one size to probabilities and features."""
        return self.classifier(resize_batch(images_nHWc, self.size))


def resize_batch(images_nHWc: Tensor, size: int) -> Tensor:
    """[n, size, size, c] floats that are whole numbers: ``dataset.images.resize`` in torch, up to ties of rounding.

    Two products with matrices, as there. ``F.interpolate`` is less exact: it computes the places in float32.
    """
    _, height, width, channels = images_nHWc.shape
    rows_sH, columns_sW = _taps(height, size), _taps(width, size)
    mixed = rows_sH @ images_nHWc.float().reshape(-1, height, width * channels)
    return (columns_sW @ mixed.reshape(-1, size, width, channels)).round()


def _taps(source: int, target: int) -> Tensor:
    """[target, source] rows of the two taps of half-pixel bilinear interpolation; edges repeat."""
    pixels_s = torch.arange(source, dtype=torch.float64)
    ratio = pixels_s[-1:].add(1).div(target)  # as a tensor: plain numbers of a graph become float32 in ONNX
    place_t = ((torch.arange(target, dtype=torch.float64) + 0.5) * ratio - 0.5).clamp(min=0).minimum(pixels_s[-1:])
    return (1 - (place_t[:, None] - pixels_s).abs()).clamp(min=0).float()
