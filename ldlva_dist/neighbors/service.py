"""The neighbour service: a run's bank as actors over id ranges, and the client that every training worker holds.

b = rows of one rank, K = neighbours, S = shards.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray import ObjectRef

from ldlva_dist.data.manifest import read_info
from ldlva_dist.errors import LdlvaError, SettingError
from ldlva_dist.messages import BankUpdate, Neighbors
from ldlva_dist.neighbors.answers import get_all
from ldlva_dist.neighbors.bank import BankRows, BankShard, ShardFacts, load_rows
from ldlva_dist.neighbors.graph import require_graph
from ldlva_dist.neighbors.outputs import BankSpec, read_header

BankActor: Any = ray.remote(BankShard)

START_TIMEOUT_S = 120.0
MAX_WRITES_IN_FLIGHT = 2
CLIENT_PATIENCE = 1.25  # times the limit of a shard: one that waits for a rank gives up first, as it can name the rank


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborService:
    """Handles to the shards of one run's bank; travels to the workers."""

    shards: tuple[Any, ...]
    """Actor handles."""
    bounds: tuple[int, ...]
    """[S + 1] shard i holds the ids bounds[i]..bounds[i + 1] - 1."""
    dtype: str
    """What outputs are sent and stored in."""
    num_bytes: int
    """Memory of all shards' arrays."""

    def stop(self) -> None:
        """End the actors of this service."""
        _kill(self.shards)


def start_service(
    dataset_uri: str, *, k: int, num_shards: int, spec: BankSpec, actor_options: dict[str, Any]
) -> NeighborService:
    """Start the shards of one run's bank and wait until they have loaded; the caller's process owns them.

    Args:
        dataset_uri: A data set with its neighbour graph.
        k: Neighbours of each sample, at most the graph's K.
        num_shards: Actors; each holds an equal range of ids.
        spec: What they store.
        actor_options: Ray's options for each of them (resources, scheduling, restarts).
    """
    num_samples = read_info(dataset_uri).num_train
    if not 0 < num_shards <= num_samples:
        raise SettingError(
            f"bank.num_shards must be > 0 and <= the number of training samples ({num_samples}), got {num_shards}"
        )
    require_graph(dataset_uri, k)
    bounds = tuple(num_samples * i // num_shards for i in range(num_shards + 1))
    loads = [partial(load_rows, dataset_uri, bounds[i], bounds[i + 1], k) for i in range(num_shards)]
    shards = tuple(BankActor.options(**actor_options).remote(load, spec) for load in loads)
    try:
        facts = cast(list[ShardFacts], get_all([shard.facts.remote() for shard in shards], START_TIMEOUT_S, "to start"))
    except LdlvaError:
        _kill(shards)
        raise
    num_bytes = sum(fact.num_bytes for fact in facts)
    return NeighborService(shards=shards, bounds=bounds, dtype=spec.dtype, num_bytes=num_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingIds:
    """Neighbour ids that were asked for."""

    refs: list[ObjectRef[Any]]
    shards: list[int]
    """Which shard each answer comes from."""
    order: NDArray[np.int64]
    """[b] where each row's answer stands when the answers are put in a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRows:
    """Rows of the bank that were asked for, each once."""

    step: int
    ids: NDArray[np.int64]
    """[b, K] neighbour ids."""
    place: NDArray[np.int64]
    """[b, K] where each id stands among the distinct ones."""
    refs: list[ObjectRef[Any]]
    """One per shard."""


class NeighborClient:
    """One training worker's door to the bank. In every step: ask, collect and write once each, in this order per step.

    ``begin`` is called by one rank, and must have returned before any rank asks.
    """

    def __init__(
        self, service: NeighborService, *, rank: int, world_size: int, token: str, k: int, timeout_s: float
    ) -> None:
        self.num_shards = len(service.shards)
        self._shards, self._bounds, self._dtype = service.shards, np.asarray(service.bounds), service.dtype
        self._rank, self._world_size, self._token, self._k = rank, world_size, token, k
        self._timeout_s = CLIENT_PATIENCE * timeout_s
        self._acks: deque[list[ObjectRef[Any]]] = deque()

    def begin(self, step: int, parts: Sequence[bytes] = ()) -> None:
        """Start the attempt on all shards: empty, or from the parts of a checkpoint whose next step is ``step``."""
        headers = [read_header(part) for part in parts]
        refs = []
        for shard, start, stop in zip(self._shards, self._bounds[:-1], self._bounds[1:], strict=True):
            own = [part for part, header in zip(parts, headers, strict=True) if header.overlaps(start, stop)]
            refs.append(shard.begin.remote(self._token, self._world_size, step, own))
        get_all(refs, self._timeout_s, "to begin")

    def find(self, ids: NDArray[np.int64]) -> PendingIds:
        """Ask the graph for the neighbours' ids of a batch; does not wait."""
        owner = self._owner(ids)
        shards = np.unique(owner).tolist()
        refs = [self._shards[i].neighbors.remote(ids[owner == i], self._k) for i in shards]
        order = np.empty(len(ids), dtype=np.int64)
        order[np.argsort(owner, kind="stable")] = np.arange(len(ids))
        return PendingIds(refs=refs, shards=shards, order=order)

    def ask(self, step: int, found: PendingIds) -> PendingRows:
        """Ask the bank for the neighbours' rows as of ``step``; waits for the ids only, which need no rank."""
        parts = get_all(found.refs, self._timeout_s, "for neighbour ids", found.shards)
        empty = np.empty((0, self._k), dtype=np.int64)
        ids = np.concatenate([empty, *parts])[found.order]
        distinct, place = np.unique(ids, return_inverse=True)
        refs = [
            shard.read.remote(self._token, step, self._rank, part)
            for shard, part in zip(self._shards, self._split(distinct), strict=True)
        ]
        return PendingRows(step=step, ids=ids, place=place.reshape(ids.shape), refs=refs)

    def collect(self, asked: PendingRows) -> Neighbors:
        """Wait for the answer to a question."""
        parts = cast(list[BankRows], get_all(asked.refs, self._timeout_s, f"for step {asked.step}"))

        def rows(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])[asked.place]

        return Neighbors(
            ids=asked.ids,
            va=rows("va"),
            labels=rows("labels"),
            probs=rows("probs"),
            features=rows("features"),
            versions=rows("versions"),
        )

    def write(self, update: BankUpdate) -> None:
        """Store the rank's outputs of a step; waits only where the writes of two steps before were not taken yet."""
        while len(self._acks) >= MAX_WRITES_IN_FLIGHT:
            self._settle()
        order = np.argsort(update.ids, kind="stable")
        cuts = np.searchsorted(update.ids[order], self._bounds[1:-1])
        self._acks.append(
            [
                shard.write.remote(self._token, self._rank, _rows_of(update, rows, self._dtype))
                for shard, rows in zip(self._shards, np.split(order, cuts), strict=True)
            ]
        )

    def snapshot(self, step: int, shard_indices: Sequence[int]) -> dict[str, bytes]:
        """Checkpoint parts of some shards, by file name, as of ``step``: the next one, which no rank has written.

        Every rank calls it between its write of step - 1 and its question for step + 1, also with no shards to save.
        """
        while self._acks:
            self._settle()
        refs = [self._shards[i].snapshot.remote(self._token, step) for i in shard_indices]
        parts = cast(list[bytes], get_all(refs, self._timeout_s, f"for a snapshot of step {step}", shard_indices))
        return {
            f"ids-{self._bounds[i]:012d}-{self._bounds[i + 1]:012d}.safetensors": part
            for i, part in zip(shard_indices, parts, strict=True)
        }

    def _settle(self) -> None:
        get_all(self._acks.popleft(), self._timeout_s, "to take a write")

    def _owner(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._bounds, ids, side="right") - 1

    def _split(self, ascending_ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return np.split(ascending_ids, np.searchsorted(ascending_ids, self._bounds[1:-1]))


def _rows_of(update: BankUpdate, rows: NDArray[np.int64], dtype: str) -> BankUpdate:
    return BankUpdate(
        step=update.step,
        positions=update.positions[rows],
        ids=update.ids[rows],
        probs=update.probs[rows].astype(dtype),
        features=update.features[rows].astype(dtype),
    )


def _kill(shards: Sequence[Any]) -> None:
    for shard in shards:
        ray.kill(shard, no_restart=True)
