"""Asking all shards of an index for the neighbours of samples it holds, block by block, without touching the answers.

S = shards, n = samples of a block, k = neighbours.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayError

from ldlva_dist.errors import LdlvaError, NeighborServiceError
from ldlva_dist.index.nearest import Floats, Ids
from ldlva_dist.runtime.waiting import get_all

KIND = "index shards"
BLOCKS_IN_FLIGHT = 3

Then = Callable[..., Any]
"""What a shard does with the neighbour ids [n, k] and squared distances [n, k] of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    ids: ObjectRef[Any]
    then: Then
    local: list[ObjectRef[Any]]
    """Local answer of each shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    local: list[ObjectRef[Any]]
    border: list[ObjectRef[Any]]
    """Border answers of each shard."""
    finisher: int
    done: ObjectRef[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleQueries:
    """Questions to one version of an index."""

    shards: Sequence[Any]
    version: int
    num_samples: int
    bounds: Floats
    """[S, 2, d]"""
    timeout_s: float
    """Longest wait for a block of answers."""

    def ask(self, blocks: Iterable[tuple[Ids, Then]], k: int, *, exact: bool = False) -> list[ObjectRef[Any]]:
        """References to what ``then`` made of each block of ascending ids; returns when all is done.

        Shards begin the next block before the border queries of this one, so that none waits for the slowest.
        """
        bounds, answers = ray.put(self.bounds), []
        begun: deque[_Block] = deque()
        running: deque[_Running] = deque()
        for ids_n, then in blocks:
            ids = ray.put(ids_n)
            local = [shard.search_local.remote(self.version, ids, k, bounds, exact) for shard in self.shards]
            begun.append(_Block(ids=ids, then=then, local=local))
            if len(begun) > 1:
                running.append(self._finish(begun.popleft(), k, exact, answers))
            if len(running) == BLOCKS_IN_FLIGHT:
                self._wait(running.popleft())
        running.extend(self._finish(block, k, exact, answers) for block in begun)
        for block in running:
            self._wait(block)
        return answers

    def _finish(self, block: _Block, k: int, exact: bool, answers: list[ObjectRef[Any]]) -> _Running:
        """Let the shards answer each other's border queries, and one of them, each in turn, finish the block."""
        border = [shard.search_border.remote(self.version, k, exact, *block.local) for shard in self.shards]
        finisher = len(answers) % len(self.shards)
        finish = self.shards[finisher].finish.options(num_returns=2)
        answer, done = finish.remote(block.then, block.ids, self.num_samples, *block.local, *border)
        answers.append(answer)
        return _Running(local=block.local, border=border, finisher=finisher, done=done)

    def _wait(self, block: _Running) -> None:
        """An error names the shard that is late or lost, not those that wait for it."""
        everyone = range(len(self.shards))
        for stage, names in ((block.local, everyone), (block.border, everyone), ([block.done], [block.finisher])):
            _, late = ray.wait(stage, num_returns=len(stage), timeout=self.timeout_s, fetch_local=False)
            if late:
                slow = [name for name, ref in zip(names, stage, strict=True) if ref in late]
                raise NeighborServiceError(
                    f"{KIND} {slow} did not answer in {self.timeout_s:g} s when asked for neighbours"
                )
        try:
            get_all([block.done], self.timeout_s, "for neighbours", [block.finisher], KIND)
        except (LdlvaError, RayError):  # its own, or one that came down to it
            for stage in (block.local, block.border):
                get_all(stage, self.timeout_s, "for neighbours", kind=KIND)
            raise
