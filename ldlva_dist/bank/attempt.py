"""The attempt that a shard serves, and the calls that wait for something in it. n = rows held, K = neighbours.

An attempt is one start of the worker group. Its token is part of every message, so that messages of workers that were
ended are refused.
"""

import asyncio
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.graph_versions import GraphVersions
from ldlva_dist.bank.timed_rows import TimedRows
from ldlva_dist.errors import NeighborServiceError, StateLost


class ServedAttempt:
    """A shard's rows and graphs in the attempt that it serves, given only to messages of that attempt."""

    def __init__(self, name: str, dataset_nK: NDArray[np.int32], timeout_s: float) -> None:
        """No attempt has begun.

        Args:
            name: Of the shard, for errors.
            dataset_nK: The data set's neighbour ids.
            timeout_s: Longest wait of a call, in seconds.
        """
        self._name, self._dataset_nK, self._timeout_s = name, dataset_nK, timeout_s
        self.rows: TimedRows | None = None
        """Rows of the attempt; None before one has begun."""
        self.graphs = GraphVersions(dataset_nK)
        """Neighbour ids, the data set's own also before an attempt has begun."""
        self._is_drained = False
        self._changed = asyncio.Event()

    def start(self, rows: TimedRows, graphs: Mapping[str, NDArray[np.int32]]) -> None:
        """Serve another attempt: waiting calls of the one before are refused.

        Args:
            rows: As its first read must see them.
            graphs: [n, K] graphs found anew that a checkpoint kept, by their names there.
        """
        self.graphs, self.rows = GraphVersions.restored(self._dataset_nK, graphs), rows
        self.notify()

    def drain(self) -> None:
        """Refuse every call from now on, also those that wait."""
        self._is_drained = True
        self.notify()

    def require_service(self) -> None:
        """Refuse a call if the service was drained."""
        if self._is_drained:
            raise NeighborServiceError(f"{self._name} takes nothing more: its service was drained")

    def require(self, token: str) -> TimedRows:
        """The rows of the attempt of that token; StateLost if none has begun, as after a restart."""
        self.require_service()
        if self.rows is None:
            raise StateLost(f"{self._name} does not know attempt {token!r}: it restarted and lost its state")
        if self.rows.token != token:
            raise NeighborServiceError(
                f"{self._name} does not know attempt {token!r}: the message belongs to an earlier attempt"
            )
        return self.rows

    def notify(self) -> None:
        """Let waiting calls look again whether what they wait for is there."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, token: str, ready: Callable[[TimedRows], bool], what: str) -> TimedRows:
        """The rows of an attempt as soon as they are ready; NeighborServiceError that names late ranks at the limit."""
        if ready(rows := self.require(token)):
            return rows
        try:
            async with asyncio.timeout(self._timeout_s):
                while not ready(rows := self.require(token)):
                    await self._changed.wait()
        except TimeoutError as e:
            raise NeighborServiceError(
                f"{self._name} held {what} for {self._timeout_s:g} s: {self.require(token).missing()}"
            ) from e
        return rows

    async def until_written_before(self, token: str, step: int, what: str) -> TimedRows:
        """The rows of an attempt as soon as all writes of the steps before one have come, for ``what`` of it."""
        return await self.until(token, lambda now: now.has_writes_before(step), f"the {what} of step {step}")

    async def graph(self, token: str, version: int) -> NDArray[np.int32]:
        """[n, K] of a graph; waits, within the limit, for one that is being built."""
        if self.graphs.has(version):
            return self.graphs.rows(version)
        try:
            async with asyncio.timeout(self._timeout_s):
                while not self.graphs.has(version):
                    self.require(token)
                    await self._changed.wait()
        except TimeoutError as e:
            raise NeighborServiceError(
                f"{self._name} waited {self._timeout_s:g} s for graph {version}: the index takes longer than half of "
                "index.rebuild_every_epochs"
            ) from e
        return self.graphs.rows(version)
