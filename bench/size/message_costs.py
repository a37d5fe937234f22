"""What messages between ranks cost, measured alone: one rank of a group of gloo; the first prints a line of JSON.

Ranks are processes of one machine, or of hosts, whose lines then are a part of what is measured.
"""

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
import tyro

TURNS = 100
SMALL, LARGE = 16, 1 << 15
"""Numbers of a message: of 64 bytes, and of 128 KiB, as a part of a small network's gradients."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which rank, and where it meets the others."""

    rank: int
    ranks: int
    meet: str
    """``file://PATH`` on one machine, ``tcp://HOST:PORT`` of the first rank else."""


def main(arguments: Arguments) -> None:
    """Measure."""
    rank, ranks = arguments.rank, arguments.ranks
    dist.init_process_group("gloo", init_method=arguments.meet, rank=rank, world_size=ranks)
    hop_s = median_s(all_to_alls(ranks)) / (ranks - 1)
    small_s, large_s = (median_s(messages(rank, ranks, numbers)) / (ranks - 1) for numbers in (SMALL, LARGE))
    if rank == 0:
        print(json.dumps({"hop_s": hop_s, "bytes_per_s": 4 * (LARGE - SMALL) / (large_s - small_s)}))
    dist.destroy_process_group()


def command(rank: int, ranks: int, meet: str) -> list[str]:
    """What starts a rank."""
    return ["python", "-m", "bench.size.message_costs", "--rank", str(rank), "--ranks", str(ranks), "--meet", meet]


def all_to_alls(ranks: int) -> Iterator[None]:
    """Small ones."""
    few = torch.zeros(SMALL - SMALL % ranks)
    for _ in range(TURNS):
        dist.all_to_all_single(torch.empty_like(few), few)
        yield


def messages(rank: int, ranks: int, numbers: int) -> Iterator[None]:
    """One to each other rank and one from each, which is waited for a turn ahead."""
    others = [other for other in range(ranks) if other != rank]
    sent, received = torch.zeros(numbers), torch.empty(2, ranks, numbers)

    def expect(turn: int) -> list[dist.Work | None]:
        return [dist.irecv(received[turn % 2, other], other, tag=turn % 2) for other in others]

    coming = expect(0)
    for turn in range(TURNS):
        ahead = expect(turn + 1) if turn + 1 < TURNS else []
        for work in [*(dist.isend(sent, other, tag=turn % 2) for other in others), *coming]:
            assert work, "this rank is one of the group"
            work.wait()
        coming = ahead
        yield


def median_s(turns: Iterator[None]) -> float:
    """Seconds of a turn."""
    moments = [time.perf_counter() for _ in turns]
    return statistics.median(end - begun for begun, end in pairwise(moments))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
