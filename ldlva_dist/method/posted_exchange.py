"""Rows that the ranks send each other, whose receives are posted before anybody sends.

gloo keeps a message until its receiver has said that it waits for it, which takes a way through the network, and
collectives say so when they are called. A receive posted a while before saves that way (docs/concepts/traffic.md).
"""

from collections.abc import Sequence
from enum import IntEnum

import torch.distributed as dist
from torch import Tensor


class Tag(IntEnum):
    """What messages between two ranks of a group are for; those of one tag come in the order in which they are sent."""

    PARTS = 1
    MEANS = 2
    COUNTS = 3
    IDS = 4
    ROWS = 5
    LETTERS = 6


class PostedExchange:
    """One message from each rank to each other; all ranks make the same exchanges of a tag in the same order."""

    def __init__(
        self, result: Tensor, received_W: Sequence[int], *, tag: Tag, rank: int, group: dist.ProcessGroup | None = None
    ) -> None:
        """Post the receives; nobody is waited for.

        Args:
            result: [sum of received_W, ...] where the rows come to lie, by the rank they come from, on the CPU.
            received_W: Rows that come from each of the W ranks, this one among them.
            tag: What they are for.
            rank: This one.
            group: A gloo group over all ranks; None: the default one.
        """
        self.is_sent = False
        self._result, self._rank, self._tag, self._group = result, rank, tag, group
        self._parts = result.split(list(received_W))
        self._under_way = [
            _work(dist.irecv(part, other, tag=tag, group=group))
            for other, part in enumerate(self._parts)
            if other != rank and len(part)
        ]

    def send(self, values: Tensor, sent_W: Sequence[int]) -> None:
        """Begin to send each rank its rows of ``values``, which are to stay as they are until :meth:`wait` returns."""
        self.is_sent = True
        for other, part in enumerate(values.split(list(sent_W))):
            if other == self._rank:
                self._parts[other].copy_(part)
            elif len(part):
                self._under_way.append(_work(dist.isend(part, other, tag=self._tag, group=self._group)))

    def wait(self) -> Tensor:
        """The rows of all ranks, once they are here and this rank's are gone."""
        for work in self._under_way:
            work.wait()
        self._under_way.clear()
        return self._result


def _work(work: dist.Work | None) -> dist.Work:
    assert work is not None, "this rank is one of the group"
    return work
