"""The uncertainty table: one logit per training sample, sharded over the ranks by id range.

Uncertainty is sigmoid(logit), the weight of the neighbours in a sample's target: high = do not trust the label.
Ids are born on the CPU and the gradient is one float per sample, so the traffic is small and runs over gloo; every
call is a collective. The table is its own optimiser: SGD on each sample's own loss, with lazy momentum (only the rows
of the batch move), so a row's path depends on neither batch size, ranks nor accumulation (METHOD.md, section 3).
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


class UncertaintyTable:
    """This rank's rows [start, stop) of the table, and the way to everybody else's."""

    def __init__(
        self,
        num_rows: int,
        *,
        initial_logit: float,
        lr: float,
        momentum: float = 0.0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Start every row at ``initial_logit``; ``group`` is a gloo group over all ranks, or None for a single rank."""
        self._group = group
        rank, self._world_size = (group.rank(), group.size()) if group else (0, 1)
        self._rows_per_rank = -(-num_rows // self._world_size)
        self.start = min(num_rows, rank * self._rows_per_rank)
        self.stop = min(num_rows, self.start + self._rows_per_rank)
        self._lr, self._momentum = lr, momentum
        self._logits = torch.full((self.stop - self.start,), initial_logit, dtype=torch.float32)
        self._velocity = torch.zeros_like(self._logits)

    def read(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The logits of ``ids`` [n], in their order. Collective: every rank calls it, with any n."""
        order, asked, counts = self._route(torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64)))
        found = self._exchange(self._logits[asked[0] - self.start], asked[1], counts)
        logits = torch.empty_like(found)
        logits[order] = found
        return logits.numpy()

    def apply(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """Take one step down ``gradients`` [n] of the samples' own losses. Collective.

        Gradients of an id that stands more than once, on whatever ranks, add up.
        """
        rows = torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64))
        values = torch.from_numpy(np.ascontiguousarray(gradients, dtype=np.float32))
        order, (owned, back), counts = self._route(rows)
        received = self._exchange(values[order], counts, back)
        unique, where = torch.unique(owned, return_inverse=True)
        # Sums of the same few numbers in another order differ in the last bit: add in the order of their values.
        ascending = torch.argsort(received)
        total = torch.zeros(len(unique)).index_add_(0, where[ascending], received[ascending])
        local = unique - self.start
        velocity = self._momentum * self._velocity[local] + total
        self._velocity[local] = velocity
        self._logits[local] -= self._lr * velocity

    def state(self) -> dict[str, Tensor]:
        """This rank's rows, and where they begin, as tensors to save."""
        return {"first_id": torch.tensor([self.start]), "logits": self._logits, "velocity": self._velocity}

    def restore(self, parts: Iterable[Mapping[str, Tensor]]) -> None:
        """Take this rank's rows out of the parts that any number of ranks saved.

        Raises:
            ValueError: if the parts do not cover them all.
        """
        covered = 0
        for part in parts:
            first = int(part["first_id"])
            begin, end = max(first, self.start), min(first + len(part["logits"]), self.stop)
            if begin >= end:
                continue
            mine, theirs = slice(begin - self.start, end - self.start), slice(begin - first, end - first)
            self._logits[mine] = part["logits"][theirs]
            self._velocity[mine] = part["velocity"][theirs]
            covered += end - begin
        if covered != self.stop - self.start:
            raise ValueError(f"the saved table covers {covered} of the rows {self.start}..{self.stop}")

    def uncertainties(self) -> NDArray[np.float32]:
        """Those of this rank's rows [start, stop), in [0, 1]."""
        return self._logits.sigmoid().numpy()

    def mean(self) -> float:
        """Mean uncertainty over all rows. Collective."""
        total = torch.stack(
            [torch.sigmoid(self._logits).sum(dtype=torch.float64), torch.tensor(float(len(self._logits)))]
        )
        if self._group:
            dist.all_reduce(total, group=self._group)
        return float(total[0] / total[1])

    def _route(self, ids: Tensor) -> tuple[Tensor, tuple[Tensor, list[int]], list[int]]:
        """Send each id to the rank that owns it.

        Returns:
            The order in which ids were sent; the ids this rank was asked for, with the count from each rank; the count
            this rank sent to each rank.
        """
        owner = ids // self._rows_per_rank
        order = torch.argsort(owner, stable=True)
        counts = torch.bincount(owner, minlength=self._world_size)
        if self._group is None:
            return order, (ids[order], [len(ids)]), [len(ids)]
        back = torch.empty_like(counts)
        dist.all_to_all_single(back, counts, group=self._group)
        sent, received = counts.tolist(), back.tolist()
        return order, (self._exchange(ids[order], sent, received), received), sent

    def _exchange(self, values: Tensor, sent: list[int], received: list[int]) -> Tensor:
        if self._group is None:
            return values
        result = values.new_empty(sum(received))
        dist.all_to_all_single(result, values.contiguous(), received, sent, group=self._group)
        return result
