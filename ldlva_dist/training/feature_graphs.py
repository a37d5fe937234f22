"""Neighbours found anew in feature space beside the training; the bank changes to them whole, at a step set before."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ldlva_dist.neighbors.client import NeighborClient
from ldlva_dist.neighbors.index_client import IndexClient
from ldlva_dist.reporting.console import say
from ldlva_dist.training.rebuilds import Rebuilds


@dataclass(frozen=True)
class Builder:
    """Passes references between bank and index; the features and graphs themselves stay with their actors."""

    client: NeighborClient
    index: IndexClient
    k: int
    """Neighbours found for each sample."""

    def build(self, version: int, features: Sequence[Any]) -> None:
        """Index the features of all shards, find every sample's neighbours, give each shard its rows."""
        bounds = self.client.bounds
        facts = self.index.build_from_rows(bounds, features, k=self.k)
        self.client.put_graph(version, self.index.graph(list(pairwise(bounds)), self.k))
        say(f"graph {version} in feature space: recall {facts.recall:.4f}")


class FeatureGraphs:
    """One rank's view of the rebuilds of a run; rank 0 has a builder.

    Lookups of a step whose graph is not there yet wait for it, so a run repeats however fast the index is.
    """

    def __init__(self, rebuilds: Rebuilds, builder: Builder | None = None) -> None:
        self._rebuilds, self._builder = rebuilds, builder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="graphs")
        self._work: Future[None] | None = None

    def graph_of(self, step: int) -> int:
        """The graph that the neighbours of a step come from."""
        return self._rebuilds.graph_of(step)

    def go_on(self, step: int) -> None:
        """Begin a graph where one is due; to be called between the write of step - 1 and the question for step + 1.

        An error of the graph that is being built comes out here.
        """
        if self._work and self._work.done():
            self._work.result()
        version = self._rebuilds.begun_at(step)
        if version and self._builder:
            features = self._builder.client.take_features(step, version)
            self._work = self._thread.submit(self._builder.build, version, features)
