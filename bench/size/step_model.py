"""Seconds of a step, from what the ranks say to each other and what each message costs: docs/concepts/traffic.md."""

import math
from dataclasses import dataclass

AHEAD = "route", "table"
"""Of the next step, one after the other, from the beginning of this one: counts, ids, and uncertainties."""
AHEAD_WAYS = 4
"""From host to host: ids are not waited for when they are sent, and take it twice."""
HIDDEN = *AHEAD, "centers", "votes"
"""Begun before the gradients, which take longer; nobody waits for them."""
COUNTED_RANKS = 2
"""Of the run whose messages were counted."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What one rank says in a step, to one purpose, by one kind of collective, in messages of about one size."""

    cause: str
    kind: str
    calls: float
    """A step."""
    num_bytes: float
    """A step, of all calls, as the rank hands them over."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Parameters of the model, in seconds and bytes; each is measured alone."""

    step_s: float
    """A step of a rank that has no others, with its share of the batch."""
    hop_s: float
    """One message of a collective between processes of one machine."""
    bytes_per_s: float
    """Of one connection."""
    actor_call_s: float
    """A round trip to an actor."""


def step_seconds(exchanges: list[Exchange], costs: Costs, *, ranks: int, delay_s: float) -> float:
    """Seconds of a step of ranks that do not share cores.

    What is asked a step ahead, of the table or the bank, is waited for only where it takes longer than all else.
    """
    said_s = said_seconds(exchanges, costs, ranks=ranks, delay_s=delay_s)
    ahead_s = AHEAD_WAYS * delay_s + sum(
        each.calls * _leaving_s(each, costs, ranks) for each in exchanges if each.cause in AHEAD
    )
    return max(costs.step_s + said_s, ahead_s, costs.actor_call_s + 2 * delay_s)


def said_seconds(exchanges: list[Exchange], costs: Costs, *, ranks: int, delay_s: float) -> float:
    """Seconds of a step in which a rank waits for what others say."""
    return sum(exchange_seconds(each, costs, ranks=ranks, delay_s=delay_s) for each in exchanges)


def exchange_seconds(exchange: Exchange, costs: Costs, *, ranks: int, delay_s: float) -> float:
    """Seconds of a step that a rank waits for it."""
    if exchange.cause in HIDDEN or ranks == 1 or not exchange.calls:
        return 0.0
    size = exchange.num_bytes / exchange.calls
    if exchange.kind in ("isend", "all_to_all_single"):
        # An all-to-all waits until the receiver has said that it waits; of isend somebody waits already.
        once = (1 if exchange.kind == "isend" else 2) * delay_s + _leaving_s(exchange, costs, ranks)
    else:
        hops = {"all_reduce": 2 * (ranks - 1), "broadcast": math.ceil(math.log2(ranks))}.get(exchange.kind, ranks - 1)
        part = size if exchange.kind in ("broadcast", "all_gather", "all_gather_into_tensor") else size / ranks
        # A ring: each hop hands on a part to the neighbour.
        once = hops * (delay_s + costs.hop_s + part / costs.bytes_per_s)
    return exchange.calls * once


def _leaving_s(exchange: Exchange, costs: Costs, ranks: int) -> float:
    """Seconds until a rank's messages to all others, which leave by one card, are on their way.

    Those of an all-to-all are a part of its bytes; those of isend were counted one by one, of two ranks.
    """
    size = exchange.num_bytes / exchange.calls
    part = COUNTED_RANKS * size / ranks if exchange.kind == "isend" else size / ranks
    return (ranks - 1) * (costs.hop_s + part / costs.bytes_per_s)
