"""The uncertainty table: one logit per training sample, sharded over the ranks by id range.

Uncertainty is sigmoid(logit), the weight of the neighbours in a sample's target: high = do not trust the label. Recipe
``sop`` keeps what it says of a sample's label in the same table, F numbers a sample in the place of one logit.
Ids are born on the CPU and the gradient is one float per sample, so the traffic is small and runs over gloo; every
call is a collective. The table is its own optimiser: SGD on each sample's own loss, with lazy momentum (only the rows
of the batch move), so a row's path depends on neither batch size, ranks nor accumulation (METHOD.md, section 3).

A step makes two exchanges, of values alone: what a read gives, and what is applied. Who asks whom for which rows is the
step's route (row_routes.py), which is found while the steps before it are trained on. The rows of the next step set
out as soon as this step's gradients are applied: on CPUs at ZeRO stage 0 while the network's own gradients travel, else
after the optimiser's step.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist.method.posted_exchange import PostedExchange, Tag
from ldlva_dist.method.row_routes import Route, RowRoutes

NOISE_ROWS = 1 << 14
"""Rows whose noise is drawn at a time."""


@dataclass(frozen=True, kw_only=True)
class StartNoise:
    """Normal noise on what the rows of a table start with, the same on any number of ranks."""

    deviation: float
    """Standard deviation, > 0."""
    seed: int

    def of_rows(self, start: int, stop: int, width: int) -> Tensor:
        """[stop - start, width] that of the rows start..stop-1, whichever rows are asked for with them."""
        blocks = range(start // NOISE_ROWS, -(-stop // NOISE_ROWS))
        drawn = [
            np.random.default_rng([self.seed, block]).standard_normal((NOISE_ROWS, width), np.float32)
            for block in blocks
        ]
        whole, first = np.concatenate([np.empty((0, width), np.float32), *drawn]), blocks.start * NOISE_ROWS
        return self.deviation * torch.from_numpy(whole[start - first : stop - first])


class UncertaintyTable:
    """This rank's rows [start, stop) of the table, and the way to everybody else's."""

    def __init__(
        self,
        num_rows: int,
        *,
        initial_logit: float,
        lr: float | Sequence[float],
        momentum: float = 0.0,
        noise: StartNoise | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Start every row, the same on any number of ranks.

        Args:
            num_rows: Of all ranks.
            initial_logit: What every row starts with.
            lr: Rate of the descent, >= 0; one for each of F columns, where a row has several numbers.
            momentum: In [0, 1).
            noise: On what rows start with.
            group: A gloo group over all ranks, which nothing else uses; None for a single rank.
        """
        self._routes = RowRoutes(num_rows, group)
        self.start, self.stop = self._routes.start, self._routes.stop
        self._lr, self._momentum = torch.tensor(lr, dtype=torch.float32), momentum
        self._logits = torch.full((self.stop - self.start, *self._lr.shape), initial_logit, dtype=torch.float32)
        if noise:
            self._logits += noise.of_rows(self.start, self.stop, self._lr.numel()).view_as(self._logits)
        self._velocity = torch.zeros_like(self._logits)
        self._is_alone = self._routes.world_size == 1
        self._to_read: deque[Route] = deque()
        self._settle: Callable[[], Tensor] | None = None

    def route(self, ids: NDArray[np.int64], batch_rows: int | None = None) -> Route:
        """Begin to find the way of a step's rows; nobody is waited for. Collective, in the order of the steps.

        Args:
            ids: [n] ids to read; any n.
            batch_rows: The first so many of them may be applied to; None: all.
        """
        route = self._routes.begin(ids, batch_rows)
        self.expect(route)
        return route

    def expect(self, route: Route) -> None:
        """Wait for a route's rows, which are read next; it may be the bank's. Collective, in the order of the steps."""
        if not self._is_alone:
            route.answer = self._routes.post(self._logits, route.sent_W2[:, 0], Tag.ROWS)
            self._to_read.append(route)

    def read(self, route: Route) -> Tensor:
        """The logits of a route's ids, [n] or [n, F], in their order, after all applied gradients. Collective."""
        self.settle()
        if self._is_alone:
            return self._logits[route.ids_n]
        answer, expected = self._answer(route), self._to_read.popleft()
        assert route is expected, "what was expected first is read first"
        found_n = answer.wait()
        logits_n = torch.empty_like(found_n)
        logits_n[route.order_n] = found_n
        return logits_n

    def apply(self, route: Route, gradients_b: Tensor | None, said_F: Tensor | None = None) -> Callable[[], Tensor]:
        """Begin to send the gradients of the samples' own losses to the rows' owners. Collective.

        Gradients of an id that stands more than once, on whatever ranks, add up.

        Args:
            route: The step's, which was read.
            gradients_b: [b] or [b, F] those of the batch's ids, float32; None, on all ranks, where no row is to move.
            said_F: [F] what this rank has to tell all others, float32; the same F on all ranks.

        Returns:
            Gives [W, F] what every rank says, after :meth:`settle`.
        """
        said_F = torch.empty(0) if said_F is None else said_F
        come = (lambda: (gradients_b, said_F[None])) if self._is_alone else self._send(route, gradients_b, said_F)

        @cache
        def settle() -> Tensor:
            owned_gradients, said_WF = come()
            if owned_gradients is not None:
                self._descend(route.asked_of_batch() - self.start, owned_gradients)
            if self._to_read:
                self._answer(self._to_read[0])
            return said_WF

        self._settle = settle
        return settle

    def settle(self) -> None:
        """Wait for the gradients that all ranks sent last, take one step down them, and send the next route's rows.

        Collective, after each :meth:`apply` and before the next read; a second call does nothing.
        """
        if self._settle:
            self._settle()

    def _send(
        self, route: Route, gradients_b: Tensor | None, said_F: Tensor
    ) -> Callable[[], tuple[Tensor | None, Tensor]]:
        """Begin what :meth:`apply` says; what is returned waits for this rank's rows' gradients, and what all say."""
        route.routes.send_ids()  # of the next step: the counts came during the forward
        width = 0 if gradients_b is None else self._lr.numel()
        sent_W, received_W = (width * counts[:, 1] for counts in (route.sent_W2, route.received_W2))
        own_b = said_F[:0] if gradients_b is None else gradients_b[route.order_n[route.order_n < route.batch_rows]]
        parts = own_b.flatten().split(sent_W.tolist())
        letter = torch.cat([part for own in parts for part in (own, said_F)])
        coming = route.routes.post(letter, received_W + len(said_F), Tag.LETTERS)
        coming.send(letter, (sent_W + len(said_F)).tolist())

        def take() -> tuple[Tensor | None, Tensor]:
            parts = coming.wait().split([n for numbers in received_W.tolist() for n in (numbers, len(said_F))])
            owned = torch.cat(parts[::2]).view(-1, *self._lr.shape) if width else None
            return owned, torch.stack(parts[1::2])

        return take

    def _answer(self, route: Route) -> PostedExchange:
        """Send the rows that the ranks ask for, unless they were sent; theirs are coming."""
        assert route.answer, "a route is expected before it is read"
        if not route.answer.is_sent:
            route.routes.finish(route)
            route.answer.send(self._logits[route.asked - self.start], route.received_W2[:, 0].tolist())
        return route.answer

    def _descend(self, rows: Tensor, gradients: Tensor) -> None:
        """Move this rank's rows down their gradients, which come in any order."""
        unique, total = _sums_by_row(rows, gradients)
        velocity = self._momentum * self._velocity[unique] + total
        self._velocity[unique] = velocity
        self._logits[unique] -= self._lr * velocity

    def state(self) -> dict[str, Tensor]:
        """This rank's rows, and where they begin, as tensors to save."""
        return {"first_id": torch.tensor([self.start]), "logits": self._logits, "velocity": self._velocity}

    def restore(self, parts: Iterable[Mapping[str, Tensor]], known_rows: int | None = None) -> None:
        """Take this rank's rows out of the parts that any number of ranks saved.

        Args:
            parts: Rows of the saved table.
            known_rows: The ids below it are saved, the others stay as they are; None: all are.

        Raises:
            ValueError: if the parts do not cover them all, or hold another number of columns.
        """
        covered = 0
        for part in parts:
            first = int(part["first_id"])
            begin, end = max(first, self.start), min(first + len(part["logits"]), self.stop)
            if begin >= end:
                continue
            if part["logits"].shape[1:] != self._lr.shape:
                raise ValueError(f"the saved table has {part['logits'].shape[1:].numel()} numbers of each sample")
            mine, theirs = slice(begin - self.start, end - self.start), slice(begin - first, end - first)
            self._logits[mine] = part["logits"][theirs]
            self._velocity[mine] = part["velocity"][theirs]
            covered += end - begin
        stop = self.stop if known_rows is None else max(self.start, min(self.stop, known_rows))
        if covered != stop - self.start:
            raise ValueError(f"the saved table covers {covered} of the rows {self.start}..{stop}")

    def uncertainties(self) -> NDArray[np.float32]:
        """Those of this rank's rows [start, stop), in [0, 1]."""
        return self._logits.sigmoid().numpy()

    def mean(self) -> float:
        """Mean uncertainty over all rows. Collective."""
        total = torch.stack(
            [torch.sigmoid(self._logits).sum(dtype=torch.float64), torch.tensor(float(len(self._logits)))]
        )
        if self._routes.group:
            dist.all_reduce(total, group=self._routes.group)
        return float(total[0] / total[1])


def _sums_by_row(rows_n: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows, and the sums of their gradients [n] or [n, F], the same in whatever order these come.

    Sums of the same few numbers in another order differ in the last bit, so the smallest is added first.
    """
    unique, where_n = torch.unique(rows_n, return_inverse=True)
    total = gradients.new_zeros(len(unique), *gradients.shape[1:])
    width = gradients.shape[1:].numel()
    for sums, column_n in zip(total.view(-1, width).T, gradients.view(-1, width).T, strict=True):
        ascending_n = torch.argsort(column_n)
        sums.index_add_(0, where_n[ascending_n], column_n[ascending_n])
    return unique, total
