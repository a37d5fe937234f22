"""Neighbours found anew in feature space beside the training; the bank changes to them whole.

The steps at which they are found anew follow from the plan alone, so that runs repeat.
"""

from bisect import bisect_right
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ldlva_dist.bank.client import KeptFeatures, NeighborClient
from ldlva_dist.errors import SettingError
from ldlva_dist.index.client import IndexClient
from ldlva_dist.records.console import say
from ldlva_dist.stream.plan import Plan

MIN_STEPS = 4
EFFECT = 0.5
"""A graph takes effect so much of an interval after its features were taken."""
FIRST_GRAPH = 1 + EFFECT
"""Intervals before the first graph takes effect."""


@dataclass(frozen=True, kw_only=True)
class Rebuilds:
    """Graph 0 is the data set's; graph n = 1, 2, ... comes from the features as they are at its ``begins`` step."""

    begins: tuple[int, ...]
    """Step before which the features of graph n = index + 1 are taken."""
    takes_effect: tuple[int, ...]
    """First step whose neighbours come from it; half an interval later."""

    def begun_at(self, step: int) -> int | None:
        """The graph whose features are to be taken before this step."""
        n = bisect_right(self.begins, step)
        return n if n and self.begins[n - 1] == step else None

    def graph_of(self, step: int) -> int:
        """The graph that the neighbours of a step come from."""
        return bisect_right(self.takes_effect, step)


def plan_rebuilds(plan: Plan, epochs: float, every_epochs: float) -> Rebuilds:
    """All rebuilds of a run of so many epochs that take effect before its end."""
    if plan.steps_for(every_epochs) < MIN_STEPS:
        raise SettingError(
            f"index.rebuild_every_epochs must span at least {MIN_STEPS} steps, got {every_epochs} epochs, "
            f"which are {plan.steps_for(every_epochs)} steps of {plan.batch_size} samples"
        )
    steps = [
        (plan.steps_for(n * every_epochs), plan.steps_for((n + EFFECT) * every_epochs))
        for n in range(1, int(epochs / every_epochs) + 1)
    ]
    total = plan.steps_for(epochs)
    kept = [(begin, effect) for begin, effect in steps if effect < total]
    return Rebuilds(begins=tuple(b for b, _ in kept), takes_effect=tuple(e for _, e in kept))


@dataclass(frozen=True)
class GraphBuilder:
    """Passes references between bank and index; the features and graphs themselves never come here."""

    client: NeighborClient
    index: IndexClient
    k: int
    """Neighbours found for each sample."""

    def build(self, version: int, features: KeptFeatures) -> None:
        """Index all features, find every sample's neighbours, give each shard its rows: piece by piece both ways."""
        facts = self.index.build_from_rows(features, k=self.k)
        features.drop()
        for first, rows in self.index.graph_pieces(features.bounds, self.k):
            self.client.put_graph(version, first, rows)
        how = ", everything compared" if facts.compares_everything else ""
        say(f"graph {version} in feature space: recall {facts.recall:.4f}{how}")


class FeatureGraphs:
    """One rank's view of the rebuilds of a run; rank 0 has a builder.

    Lookups of a step whose graph is not there yet wait for it, so a run repeats however fast the index is.
    """

    def __init__(self, rebuilds: Rebuilds, builder: GraphBuilder | None = None) -> None:
        self._rebuilds, self._builder = rebuilds, builder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="graphs")
        self._work: Future[None] | None = None

    def graph_of(self, step: int) -> int:
        """The graph that the neighbours of a step come from."""
        return self._rebuilds.graph_of(step)

    def rebuild_if_due(self, step: int) -> None:
        """Begin the graph whose features are due before ``step``, in the background.

        To be called between the write of step - 1 and the question for step + 1: the client refuses it elsewhere.

        Raises:
            LdlvaError: of the graph that is being built, as soon as it has failed.
        """
        if self._work and self._work.done():
            self._work.result()
        version = self._rebuilds.begun_at(step)
        if version and self._builder:
            features = self._builder.client.keep_features(step, version)
            self._work = self._thread.submit(self._builder.build, version, features)
