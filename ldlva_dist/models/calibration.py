"""The calibration network g: how much a neighbour's say should count. M = pairs, V = feature width."""

from torch import Tensor, nn

BN_EPS, BN_MOMENTUM = 1e-3, 0.01  # the reference's BatchNorm; its momentum .99 is PyTorch's .01


class Calibration(nn.Sequential):
    """Linear BN ReLU, Linear BN ReLU, Linear, on a sample's and its neighbour's features."""

    def __init__(self, feature_width: int, hidden: tuple[int, int] = (512, 256)) -> None:
        first, second = hidden
        super().__init__(
            nn.Linear(2 * feature_width, first),
            nn.BatchNorm1d(first, eps=BN_EPS, momentum=BN_MOMENTUM),
            nn.ReLU(inplace=True),
            nn.Linear(first, second),
            nn.BatchNorm1d(second, eps=BN_EPS, momentum=BN_MOMENTUM),
            nn.ReLU(inplace=True),
            nn.Linear(second, 1),
        )
        for module in self:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, input: Tensor) -> Tensor:
        """[M, 2V] to logits [M], before any clamp."""
        return super().forward(input).squeeze(-1)
