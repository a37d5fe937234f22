"""The client that every training worker holds: its only way to the bank. S = shards, K = neighbours."""

import time
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import ObjectRef

from ldlva_dist.bank.channel import PATIENCE, ShardChannel
from ldlva_dist.bank.ledger import StepOrder
from ldlva_dist.bank.records import as_bytes, encode_records
from ldlva_dist.bank.service import NeighborService
from ldlva_dist.bank.session import PendingIds, StepContext
from ldlva_dist.bank.wire import Traffic
from ldlva_dist.runtime.waiting import get_all
from ldlva_dist.storage.checksums import Entry, Files


class NeighborClient:
    """One training worker's door to the bank. A step begins with ``find``; what it returns leads on (session.py).

    The first rank's ``begin`` must have returned before any rank fills or asks.
    """

    def __init__(
        self, service: NeighborService, *, rank: int, world_size: int, token: str, k: int, timeout_s: float
    ) -> None:
        """Nothing is asked yet.

        Args:
            service: Shards of the bank.
            rank: This worker's.
            world_size: Workers that ask the bank.
            token: Name of the attempt, the same for all workers, at most 32 bytes.
            k: Neighbours asked for of each sample.
            timeout_s: Longest wait of a shard for other ranks, in seconds; the client waits a little longer.
        """
        self.num_shards = len(service.shards)
        self._channel = ShardChannel(service, rank=rank, world_size=world_size, token=token, timeout_s=timeout_s)
        self._rank, self._world_size, self._k, self._order = rank, world_size, k, StepOrder()

    @property
    def bounds(self) -> list[int]:
        """[S + 1] shard i holds the ids bounds[i]..bounds[i + 1] - 1."""
        return self._channel.bounds.tolist()

    @property
    def traffic(self) -> Traffic:
        """Costs of the lookups, counted since they were last drained."""
        return self._channel.traffic

    def begin(
        self,
        step: int,
        files: Files = MappingProxyType({}),
        limit_s: float | None = None,
        known_rows: int | None = None,
    ) -> None:
        """Start the attempt whose next step is ``step`` on all shards: as a new bank, or from a checkpoint's files.

        The first rank's call does it; those of others do nothing. With ``known_rows`` the files are of another run, and
        the ids below it are taken over. Each shard reads what it needs, which may take ``limit_s`` in place of the
        limit of all other questions.
        """
        channel, self._order = self._channel, StepOrder()
        if self._rank:
            return

        def begin(i: int) -> ObjectRef[Any]:
            return channel.shards[i].begin.remote(channel.token, self._world_size, step, dict(files), known_rows)

        # A shard may just have been lost: that is why there is a new attempt.
        refs = {i: begin(i) for i in range(self.num_shards)}
        channel.get(refs, f"to begin at step {step}", begin, again=True, limit_s=limit_s)

    def fill(self, ids: NDArray[np.int64], probs: NDArray[np.floating], features: NDArray[np.floating]) -> None:
        """Give distinct rows [n] their first outputs, [n, C] and [n, V], as if the first step's weights wrote them.

        All ranks' calls must have returned before any rank asks.
        """
        channel = self._channel
        rows = as_bytes(encode_records(probs, features, channel.spec, version=0))
        owner = channel.owner(ids)
        names = np.unique(owner).tolist()
        refs = [channel.shards[i].fill.remote(channel.token, ids[owner == i], rows[owner == i]) for i in names]
        get_all(refs, channel.timeout_s, "to be filled", names)

    def find(self, step: int, ids: NDArray[np.int64], graph: int = 0) -> PendingIds:
        """Begin a step: ask a graph for the neighbours' ids of its batch [b]; travels with the next call."""
        with self._channel.busy():
            query = self._channel.thread.soon(self._channel.post_ids, ids, graph)
        context = StepContext(channel=self._channel, order=self._order, k=self._k)
        return PendingIds(step=step, query=query, context=context)

    def take_snapshot(self, step: int, shard_indices: Sequence[int]) -> None:
        """Let some shards keep their rows as of ``step``, the next one, which no rank has written, for a checkpoint.

        Every rank calls it between its write of step - 1 and its question for step + 1, also with no shards to save.
        """
        self._order.stand_before(step)
        self._channel.thread.soon(self._take_snapshot, step, shard_indices).result()

    def write_snapshot(
        self, step: int, shard_indices: Sequence[int], uri: str, limit_s: float
    ) -> Callable[[], dict[str, Entry]]:
        """Let some shards write their snapshots into the folder of a checkpoint; may be called in any thread.

        Returns:
            What waits for the entries of the files, by their names in the checkpoint; it gives up a while before
            ``limit_s`` from now on are over, as it can name the shard.
        """

        def write(i: int) -> ObjectRef[Any]:
            return self._channel.shards[i].write_snapshot.remote(self._channel.token, step, uri)

        limit_s /= PATIENCE
        refs, deadline = {i: write(i) for i in shard_indices}, time.monotonic() + limit_s
        what = f"to write its part of {uri} within {limit_s:.3g} s"

        def wait() -> dict[str, Entry]:
            entries = self._channel.get(refs, what, write, limit_s=max(0.0, deadline - time.monotonic()))
            return {name: entry for some in entries.values() for name, entry in some.items()}

        return wait

    def keep_features(self, step: int, graph: int) -> "KeptFeatures":
        """Let all shards keep their rows as of ``step``, for graph number ``graph``, until the features are handed out.

        To be called by one rank, when a snapshot may be taken.
        """
        self._order.stand_before(step)
        channel = self._channel
        channel.thread.soon(channel.settle).result()
        refs = [shard.keep_features.remote(channel.token, step, graph) for shard in channel.shards]
        get_all(refs, channel.timeout_s, f"for the features of step {step}")
        return KeptFeatures(channel, step)

    def put_graph(self, version: int, first: int, rows: ObjectRef[Any]) -> None:
        """Give a shard rows [m, K] of its ids first, first + 1, ... of a graph; may be called from another thread.

        Its rows must come in the order of their ids.
        """
        channel = self._channel
        owner = int(channel.owner(np.array([first]))[0])
        given = channel.shards[owner].put_graph.remote(channel.token, version, first, rows)
        get_all([given], channel.timeout_s, f"to take graph {version}", [owner])

    def _take_snapshot(self, step: int, shard_indices: Sequence[int]) -> None:
        channel = self._channel
        channel.flush_write()

        def take(i: int) -> ObjectRef[Any]:
            return channel.shards[i].take_snapshot.remote(channel.token, step)

        channel.get({i: take(i) for i in shard_indices}, f"to keep the rows of step {step}", take, step)


class KeptFeatures:
    """The features of all samples as of one step, handed out range by range; for the index (index/client.py).

    May be used in another thread than its client.
    """

    def __init__(self, channel: ShardChannel, step: int) -> None:
        self._channel, self._step = channel, step
        spec = channel.spec
        kind = np.dtype("float32" if spec.features_dtype == "int8" else spec.features_dtype)
        self.bounds = channel.bounds.tolist()
        """[S + 1] no piece may go over one of these ids."""
        self.row_bytes = spec.feature_width * kind.itemsize
        """Bytes of one sample's features."""

    def piece(self, first: int, stop: int) -> ObjectRef[Any]:
        """A reference to the features [stop - first, V] of the ids first..stop-1, which one shard holds."""
        channel = self._channel
        owner = int(channel.owner(np.array([first]))[0])
        return channel.shards[owner].features.remote(channel.token, self._step, first, stop)

    def drop(self) -> None:
        """Let the shards keep them no longer."""
        channel = self._channel
        get_all([shard.drop_features.remote(channel.token) for shard in channel.shards], channel.timeout_s, "to go on")
