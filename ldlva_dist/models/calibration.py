"""The calibration network g: how much a neighbour's say should count. B = samples, K = neighbours, V = feature width.

Nothing here depends on how many pairs count: no shape, no branch. So a GPU is never waited for, and graphs of the step
can be captured.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

BN_EPS, BN_MOMENTUM = 1e-3, 0.01  # the reference's BatchNorm; its momentum .99 is PyTorch's .01
FEWEST = 2
"""Pairs that batch statistics need."""


class PairLinear(nn.Linear):
    """W [u, v] + b for pairs of features, without writing the pairs down: a sample's half is computed once."""

    def forward(self, own_BV: Tensor, other_BKV: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[B, K, out]; a pair is a sample with one of its neighbours."""
        for_own, for_other = self.weight.chunk(2, dim=1)
        return F.linear(own_BV, for_own, self.bias)[:, None] + F.linear(other_BKV, for_other)


class MaskedBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm whose batch statistics are those of the rows that count; all rows are normalised by them."""

    def forward(self, rows: Tensor, counts_n1: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[n, width]; ``counts_n1`` is 1 where a row counts and 0 elsewhere, None: all count.

        Fewer rows than FEWEST leave the running statistics as they are.
        """
        if not self.training or counts_n1 is None:
            return super().forward(rows)
        wide = rows.to(self.weight.dtype)
        number = counts_n1.sum()
        mean = (wide * counts_n1).sum(dim=0) / number.clamp(min=1)
        centered = wide - mean
        variance = (centered.square() * counts_n1).sum(dim=0) / number.clamp(min=1)
        self._follow(mean.detach(), variance.detach(), number)
        return (centered * ((variance + self.eps).rsqrt() * self.weight) + self.bias).to(rows.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, number: Tensor) -> None:
        """Move the running statistics, of which the variance is the unbiased one."""
        running_mean, running_var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        is_enough = number >= FEWEST
        rate = is_enough * cast(float, self.momentum)
        running_mean.mul_(1 - rate).add_(rate * mean)
        running_var.mul_(1 - rate).add_(rate * variance * (number / (number - 1).clamp(min=1)))
        cast(Tensor, self.num_batches_tracked).add_(is_enough)


class Calibration(nn.Sequential):
    """Linear BN ReLU, Linear BN ReLU, Linear, on a sample's and its neighbour's features."""

    def __init__(self, feature_width: int, hidden: tuple[int, int] = (512, 256)) -> None:
        first, second = hidden
        super().__init__(
            PairLinear(2 * feature_width, first),
            MaskedBatchNorm1d(first, eps=BN_EPS, momentum=BN_MOMENTUM),
            nn.ReLU(inplace=True),
            nn.Linear(first, second),
            MaskedBatchNorm1d(second, eps=BN_EPS, momentum=BN_MOMENTUM),
            nn.ReLU(inplace=True),
            nn.Linear(second, 1),
        )
        for module in self:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, own_BV: Tensor, other_BKV: Tensor, counts_BK: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Logits [B, K] of samples with their neighbours, before any clamp.

        Args:
            own_BV: Features of the samples.
            other_BKV: Features of their neighbours, of the same type.
            counts_BK: Which pairs count; None: all. What the others hold does not matter, as long as it is finite.

        Returns:
            0 where a pair does not count, and everywhere if too few count for batch statistics.
        """
        first, *rest = cast(list[nn.Module], list(self))
        if counts_BK is None:
            counts_n1, is_given_BK = None, None
        else:
            counts_n1, is_given_BK = counts_BK.reshape(-1, 1).float(), counts_BK
            if any(isinstance(norm, MaskedBatchNorm1d) and norm.training for norm in rest):
                is_given_BK = counts_BK & (counts_BK.sum() >= FEWEST)
        hidden = first(own_BV, other_BKV).flatten(0, 1)
        for module in rest:
            hidden = module(hidden, counts_n1) if isinstance(module, MaskedBatchNorm1d) else module(hidden)
        logits_BK = hidden.view(other_BKV.shape[:2])
        return logits_BK if is_given_BK is None else logits_BK.where(is_given_BK, 0)
