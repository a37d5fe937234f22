"""MobileFaceNet, a million parameters for faces of 112 pixels. B = batch, V = feature width.

Source: Chen et al., "MobileFaceNets: Efficient CNNs for accurate real-time face verification on mobile devices", 2018,
table 1, in the width that ArcFace's PyTorch code trains; its parameter names are kept, so that face weights made by it
load. The feature is what comes before the embedding is brought to length 1.
"""

from torch import Tensor, nn

PIXELS = 112
"""Side of the images: the last convolution takes the whole map, 7 x 7."""
FEATURES = 512


class ConvNorm(nn.Module):
    """Convolution and BatchNorm, with a PReLU unless it is a linear one."""

    def __init__(
        self, inputs: int, outputs: int, side: int = 1, *, stride: int = 1, padding: int = 0, linear: bool = False
    ) -> None:
        """A convolution of more than a pixel keeps channels apart, but for the image's own."""
        super().__init__()
        groups = inputs if side > 1 and inputs == outputs else 1
        self.conv = nn.Conv2d(inputs, outputs, side, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = None if linear else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, ...]."""
        x = self.bn(self.conv(x))
        return x if self.prelu is None else self.prelu(x)


class InvertedBottleneck(nn.Module):
    """Widened by 1x1, filtered by 3x3 channel by channel, narrowed by a linear 1x1."""

    def __init__(self, inputs: int, outputs: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.conv = ConvNorm(inputs, hidden)
        self.conv_dw = ConvNorm(hidden, hidden, 3, stride=stride, padding=1)
        self.project = ConvNorm(hidden, outputs, linear=True)
        self.is_residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]; without a stride x is added."""
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.is_residual else y


class BottleneckRow(nn.Module):
    """Bottlenecks in a row."""

    def __init__(self, width: int, hidden: int, count: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(InvertedBottleneck(width, width, hidden, 1) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] to the same shape."""
        return self.model(x)


class MobileFaceNet(nn.Module):
    """Faces of 112 pixels to features."""

    def __init__(self, channels: int = 3) -> None:
        """``channels`` are those of the images."""
        super().__init__()
        self.conv1 = ConvNorm(channels, 64, 3, stride=2, padding=1)
        self.conv2_dw = ConvNorm(64, 64, 3, padding=1)
        self.conv_23 = InvertedBottleneck(64, 64, 128, 2)
        self.conv_3 = BottleneckRow(64, 128, 4)
        self.conv_34 = InvertedBottleneck(64, 128, 256, 2)
        self.conv_4 = BottleneckRow(128, 256, 6)
        self.conv_45 = InvertedBottleneck(128, 128, 512, 2)
        self.conv_5 = BottleneckRow(128, 256, 2)
        self.conv_6_sep = ConvNorm(128, 512)
        self.conv_6_dw = ConvNorm(512, 512, PIXELS // 16, linear=True)
        self.linear = nn.Linear(512, FEATURES, bias=False)
        self.bn = nn.BatchNorm1d(FEATURES)
        self.feature_width = FEATURES
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", a=0.25, nonlinearity="leaky_relu")

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, 112, 112] to [B, V]."""
        x = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(images))))
        x = self.conv_5(self.conv_45(self.conv_4(self.conv_34(x))))
        return self.bn(self.linear(self.conv_6_dw(self.conv_6_sep(x)).flatten(1)))
