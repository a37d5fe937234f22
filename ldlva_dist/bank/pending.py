"""What a client has asked the bank, and not been answered yet. b = rows of one rank, K = neighbours."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import ObjectRef

from ldlva_dist.bank.wire import BankAnswer, BankCall


@dataclass(kw_only=True)
class Round:
    """Calls to some shards, one each, and what comes of them."""

    calls: dict[int, BankCall]
    """By shard."""
    refs: dict[int, ObjectRef[Any]]
    step: int | None
    """The first step whose read is not answered yet; None where the calls have nothing to do with steps."""
    is_read: bool
    what: str
    answers: dict[int, BankAnswer] | None = None
    """By shard; None until they were waited for."""


@dataclass(kw_only=True)
class PendingIds:
    """A question for neighbours' ids; it travels with the next call."""

    samples: NDArray[np.int64]
    """[b]"""
    owner: NDArray[np.int64]
    """[b] the shard of each."""
    graph: int = 0
    """The graph asked."""
    sent: Round | None = None


@dataclass(frozen=True, kw_only=True)
class PendingRows:
    """Rows of the bank that were asked for, each once."""

    ids: NDArray[np.int64]
    """[b, K] neighbour ids."""
    place: NDArray[np.int64]
    """[b K] where each id stands among the distinct ones."""
    graph: int
    """The graph that the ids are from."""
    sent: Round
