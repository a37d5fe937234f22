"""ResNets with torchvision's parameter names, without its classifier. B = batch, V = feature width."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}

_conv3x3 = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
_conv1x1 = partial(nn.Conv2d, kernel_size=1, bias=False)
NARROW = 8
"""Channels below which oneDNN (3.12, AVX2) writes past its memory in the weights' gradient of a strided 1x1."""


class NarrowShortcut(nn.Conv2d):
    """A strided 1x1 convolution that leaves out the rows and columns first: the same values, no stride in oneDNN."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        down, right = self.stride
        return functional.conv2d(input[:, :, ::down, ::right], self.weight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(inputs, width, stride=stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3x3(width, width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, width, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the stride is the 3x3's, as in torchvision."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = _conv1x1(inputs, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3x3(width, width, stride=stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv1x1(width, outputs), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, 4 width, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Images to features, the mean over the last stage's map."""

    def __init__(self, depth: int, *, width: int = 64, channels: int = 3, stem: str = "imagenet") -> None:
        """Build a ResNet.

        Args:
            depth: 10, 18, 34 or 50.
            width: Channels of the first stage; each next one has twice as many.
            channels: Of the images.
            stem: ``imagenet`` (7x7 stride 2, max-pool) or ``small`` (3x3 stride 2), for faces of about 48 pixels.
        """
        super().__init__()
        block = _block(depth)
        self.conv1 = (
            nn.Conv2d(channels, width, kernel_size=7, stride=2, padding=3, bias=False)
            if stem == "imagenet"
            else _conv3x3(channels, width, stride=2)
        )
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        stages = _stages(block, BLOCKS[depth], width)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.feature_width = width_of_features(depth, width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, V]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))


def width_of_features(depth: int, width: int) -> int:
    """V of a ResNet."""
    return 8 * width * _block(depth).expansion


def _block(depth: int) -> type[BasicBlock] | type[Bottleneck]:
    return Bottleneck if depth >= 50 else BasicBlock


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    conv = NarrowShortcut if stride > 1 and inputs < NARROW else nn.Conv2d
    return nn.Sequential(conv(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def _stages(block: type[BasicBlock] | type[Bottleneck], counts: Sequence[int], width: int) -> list[nn.Sequential]:
    stages, inputs = [], width
    for stage, count in enumerate(counts):
        blocks = []
        for index in range(count):
            blocks.append(block(inputs, width << stage, 2 if stage and not index else 1))
            inputs = (width << stage) * block.expansion
        stages.append(nn.Sequential(*blocks))
    return stages
