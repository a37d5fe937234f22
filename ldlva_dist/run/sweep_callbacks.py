"""What a sweep does while Tune runs its trials: it follows the nodes, holds its folder, and tells what happens."""

import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter

from ldlva_dist.config import RunConfig
from ldlva_dist.run.lease import BEAT_S, Claim
from ldlva_dist.run.news import News
from ldlva_dist.runtime import growth, placement
from ldlva_dist.runtime.head_watch import require_head


def bundles_of_trials(config: RunConfig, trials: int) -> list[dict[str, float]]:
    """What so many trials of a sweep need at once."""
    return trials * placement.trial_bundles(config.placement, config.bank_shards, config.index_shards)


class ShowNews(tune.Callback):
    """Shows what trials tell and wait for."""

    def __init__(self, news: News) -> None:
        """``news`` is what the trials tell it."""
        self._news = news

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Several times a second."""
        self._news.show()


class SweepTrial(TuneTrial):
    """A trial of Tune's that is tried again where its process was lost, as with a node; no error of its own is."""

    def handle_error(self, exc: Any = None) -> None:
        """Count it; Tune tries again what failed no more than ``max_failures`` times."""
        super().handle_error(exc)
        if not isinstance(exc, RayActorError):
            self.max_failures = 0


class FollowNodes(tune.Callback):
    """As many trials at a time as the nodes hold that are there now; one more is asked for while some are left.

    Trials on a node that left go on with the nodes that are there, as their runs do.
    """

    def __init__(
        self,
        config: RunConfig,
        search_alg: BasicVariantGenerator | ConcurrencyLimiter,
        request: growth.NodeRequest,
    ) -> None:
        """Look at the nodes now.

        Args:
            config: The sweep's settings.
            search_alg: What draws the trials, at most ``max_concurrent`` at a time.
            request: What the sweep asks the autoscaler for.
        """
        self.search_alg, self._config, self._request = search_alg, config, request
        self._looked = time.monotonic()
        self._most: int | None = None
        """Trials that the autoscaler refused more of."""
        self.look([])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial that begins may be lost as often as a run's workers."""
        if not isinstance(trial, SweepTrial):
            trial.__class__, trial.max_failures = SweepTrial, self._config.placement.max_failures

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Several times a second."""
        require_head()
        if time.monotonic() - self._looked > BEAT_S:
            self._looked = time.monotonic()
            self.look(trials)

    def look(self, trials: list[Any]) -> None:
        """Let as many trials run as fit, of those that are left at most."""
        sweep, place = self._config.sweep, self._config.placement
        fits = placement.count_trials(place, self._config.bank_shards, self._config.index_shards)
        left = sweep.num_samples - sum(trial.is_finished() for trial in trials)
        wanted = max(1, min(left, sweep.max_concurrent_trials or left))
        self.search_alg.max_concurrent = max(1, min(fits, wanted))
        if growth.can_grow():
            if self._request.is_refused(alone=False):
                self._most = fits
            self._request.renew(bundles_of_trials(self._config, min(fits + 1, wanted, max(fits, self._most or wanted))))


class RequireLease(tune.Callback):
    """Ends a sweep whose folder was deleted or taken over."""

    def __init__(self, claim: Claim) -> None:
        """``claim`` is the sweep's own on its folder."""
        self._claim, self._asked = claim, time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Several times a second."""
        if time.monotonic() - self._asked > BEAT_S:
            self._asked = time.monotonic()
            self._claim.require()


class TellResults(tune.Callback):
    """Tells the caller of every evaluation of every trial, by the name of its run."""

    def __init__(
        self, on_result: Callable[[str, dict[str, Any]], None], name_of: Callable[[dict[str, Any]], str]
    ) -> None:
        """``name_of`` gives the name of a trial's run, from the trial's values."""
        self._on_result, self._name_of = on_result, name_of

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """At every evaluation."""
        self._on_result(self._name_of(trial.config), result)
