"""The calibration network g: how much a neighbour's say should count. M = pairs, B = samples, V = feature width."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

BN_EPS, BN_MOMENTUM = 1e-3, 0.01  # the reference's BatchNorm; its momentum .99 is PyTorch's .01


class PairLinear(nn.Linear):
    """W [u, v] + b for pairs of features, without writing the pairs down: a sample's half is computed once."""

    def forward(self, own_BV: Tensor, other_MV: Tensor, row_M: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[M, out]; pair m is sample ``row_M[m]`` with ``other_MV[m]``."""
        for_own, for_other = self.weight.chunk(2, dim=1)
        return F.linear(own_BV, for_own, self.bias)[row_M] + F.linear(other_MV, for_other)


class Calibration(nn.Sequential):
    """Linear BN ReLU, Linear BN ReLU, Linear, on a sample's and its neighbour's features."""

    def __init__(self, feature_width: int, hidden: tuple[int, int] = (512, 256)) -> None:
        first, second = hidden
        super().__init__(
            PairLinear(2 * feature_width, first),
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

    def forward(self, own_BV: Tensor, other_MV: Tensor, row_M: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Logits [M] of the pairs (``own_BV[row_M]``, ``other_MV``), before any clamp."""
        first, *rest = cast(list[nn.Module], list(self))
        hidden = first(own_BV, other_MV, row_M)
        for module in rest:
            hidden = module(hidden)
        return hidden.squeeze(-1)
