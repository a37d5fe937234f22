"""What is kept of a trained network to use it: images to class probabilities and features.

n = images, H W = height and width in pixels, s = side, c = channels, C = classes, V = feature width.
"""

import torch
from torch import Tensor, nn

from ldlva_dist.models.ldlva import normalize
from ldlva_dist.values.settings import Resize

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

    def __init__(self, classifier: Classifier, size: int, resize: Resize) -> None:
        super().__init__()
        self.classifier, self.size = classifier, size
        self.resize: Resize = resize

    def forward(self, images_nHWc: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images of any one size to probabilities and features."""
        return self.classifier(resize_batch(images_nHWc, self.size, self.resize))


def resize_batch(images_nHWc: Tensor, size: int, resize: Resize) -> Tensor:
    """[n, size, size, c] floats that are whole numbers: ``Preparation.fit`` in torch.

    Equal up to ties of rounding for reference, to 2 levels for antialias, where Pillow rounds on the way. Two products
    with matrices: ``F.interpolate`` computes the places in float32, and averages no blocks before.
    """
    _, height, width, channels = images_nHWc.shape
    if resize == "reference":
        rows_sH, columns_sW = _taps(_pixels(height), size), _taps(_pixels(width), size)
    else:
        pixels_H, pixels_W = _pixels(height), _pixels(width)
        factor_1 = _shrink_factor(torch.minimum(pixels_H[-1:], pixels_W[-1:]) + 1, size)
        rows_sH, columns_sW = (_antialiased_taps(pixels, size, factor_1) for pixels in (pixels_H, pixels_W))
    mixed = rows_sH @ images_nHWc.float().reshape(-1, height, width * channels)
    return (columns_sW @ mixed.reshape(-1, size, width, channels)).round()


def _pixels(source: int) -> Tensor:
    """Numbers of a side's pixels; lengths are taken from it: plain numbers of a graph become float32 in ONNX."""
    return torch.arange(source, dtype=torch.float64)


def _taps(pixels_s: Tensor, target: int) -> Tensor:
    """[target, source] rows of the two taps of half-pixel bilinear interpolation; edges repeat."""
    ratio = pixels_s[-1:].add(1).div(target)
    place_t = ((torch.arange(target, dtype=torch.float64) + 0.5) * ratio - 0.5).clamp(min=0).minimum(pixels_s[-1:])
    return (1 - (place_t[:, None] - pixels_s).abs()).clamp(min=0).float()


def _shrink_factor(sides_1: Tensor, target: int) -> Tensor:
    """[1] ``dataset.images.shrink_factor`` of the smaller side."""
    covers_3 = torch.ceil(sides_1 / torch.tensor([2.0, 4.0, 8.0], dtype=torch.float64)) >= target
    return 1 + (covers_3 * torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).sum(dim=0, keepdim=True)


def _antialiased_taps(pixels_s: Tensor, target: int, factor_1: Tensor) -> Tensor:
    """[target, source] rows of a triangle over the averages of blocks of pixels; the last block may be cut."""
    source_1 = pixels_s[-1:] + 1
    ratio_1 = source_1 / factor_1 / target
    block_s = torch.floor(pixels_s / factor_1)
    share_s = 1 / torch.minimum(factor_1, source_1 - block_s * factor_1)
    centre_t = (torch.arange(target, dtype=torch.float64) + 0.5) * ratio_1
    distance_ts = (block_s + 0.5 - centre_t[:, None]).abs() / ratio_1.clamp(min=1)
    taps_ts = (1 - distance_ts).clamp(min=0) * share_s
    return (taps_ts / taps_ts.sum(dim=1, keepdim=True)).float()
