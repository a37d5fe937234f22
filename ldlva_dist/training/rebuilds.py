"""When neighbours in feature space are found anew: at steps that follow from the plan alone, so that runs repeat."""

from bisect import bisect_right
from dataclasses import dataclass

from ldlva_dist.data.plan import Plan
from ldlva_dist.errors import SettingError

MIN_STEPS = 4


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
        (plan.steps_for(n * every_epochs), plan.steps_for((n + 0.5) * every_epochs))
        for n in range(1, int(epochs / every_epochs) + 1)
    ]
    total = plan.steps_for(epochs)
    kept = [(begin, effect) for begin, effect in steps if effect < total]
    return Rebuilds(begins=tuple(b for b, _ in kept), takes_effect=tuple(e for _, e in kept))
