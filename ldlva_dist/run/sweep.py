"""The search: a space around a preset, each trial one distributed run, the best settings as JSON.

A trial's run is named after its values. A sweep that is started again draws the same values, tells Tune what each run
told before, and resumes the runs that were not at their end; Tune's own state, a pickle, is never read.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from ldlva_dist import storage
from ldlva_dist.checkpoint.checkpoint import CONFIG
from ldlva_dist.checkpoint.saved_files import CHECKPOINT_PREFIX
from ldlva_dist.checkpoint.saver import METRIC
from ldlva_dist.config import RunConfig, read_back, to_json
from ldlva_dist.errors import ClusterError, DataError, LdlvaError, SettingError
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.run import launch, preflight
from ldlva_dist.run.lease import Holder, leased
from ldlva_dist.run.news import shared_news, show_through
from ldlva_dist.run.outcome import recorded
from ldlva_dist.run.paths import with_absolute_paths
from ldlva_dist.run.sweep_callbacks import FollowNodes, RequireLease, ShowNews, TellResults, bundles_of_trials
from ldlva_dist.runtime import growth, placement
from ldlva_dist.runtime.waiting import last_line, own_error

TUNE = "tune"
"""Tune's own records of the sweep, a folder for each start. Nothing is deleted: who knows what else lies there."""
OF_A_RUN = ("metrics.jsonl", CHECKPOINT_PREFIX)
CHANGEABLE = ("sweep.num_samples", "sweep.max_concurrent_trials")
"""Settings of a search that may change when it resumes."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial as it ended."""

    params: dict[str, float]
    accuracy: float | None
    """On the given labels of the holdout, at its last evaluation; None if it failed before."""
    epochs: float
    status: str
    """finished, stopped early, or failed."""
    run_uri: str
    """The trial's run; one that finished is a whole run like any other."""
    error: str | None
    """Why it failed, in one line."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep found."""

    trials: tuple[Trial, ...]
    best: RunConfig
    best_config_uri: str
    best_run_uri: str


def sweep(config: RunConfig, *, on_result: Callable[[str, dict[str, Any]], None] | None = None) -> SweepResult:
    """Search ``config.sweep`` around ``config``; the first trial is ``config`` itself.

    Trials are compared by accuracy on the given labels of the holdout, a split cut from the training data. An
    interrupted sweep of the same name is resumed.

    Raises:
        SettingError: if the data set has no holdout, the settings do not fit it, or the name is that of another sweep
            or of anything else.
        LdlvaError: if every trial failed, of the kind that a trial failed with, or ClusterError.
    """
    config = preflight.as_begun(_with_absolute_weights(with_absolute_paths(config)))
    config.check_search()
    folder = storage.join(config.storage_path, config.name)
    _require_own_folder(config, folder)
    dataset = launch.prepare(config)
    if dataset.info.splits["holdout"].rows == 0:
        raise SettingError("sweep needs a holdout to compare trials on; pack the data set with --holdout > 0")
    with leased(folder) as lease, recorded(folder) as say_done:
        launch.write_settings(config)
        printers = [TellResults(on_result, lambda params: _run_of(config, params).name)] if on_result else []
        result = _choose_best(config, _search_runs(config, [RequireLease(lease.claim), *printers]))
        say_done(f"{len(result.trials)} trials; best settings: {result.best_config_uri}")
        return result


def _choose_best(config: RunConfig, results: tune.ResultGrid) -> SweepResult:
    """The winner, whose settings are written down."""
    trials = tuple(_trial(result, config) for result in results)
    finished = [trial for trial in trials if trial.status == "finished" and trial.accuracy is not None]
    if not finished:
        raise _failure([result.error for result in results if result.error])
    winner = max(finished, key=lambda trial: trial.accuracy or 0.0)
    best = apply(config, winner.params)
    uri = storage.join(config.storage_path, config.name, "best_config.json")
    storage.write_bytes(uri, to_json(best).encode())
    return SweepResult(trials=trials, best=best, best_config_uri=uri, best_run_uri=winner.run_uri)


def _failure(errors: Sequence[Exception]) -> LdlvaError:
    """What a sweep of failed trials says: damaged data keep their exit code."""
    cause = own_error(*errors)
    kind = next((kind for kind in (SettingError, DataError) if isinstance(cause, kind)), ClusterError)
    return kind(f"all {len(errors)} trials failed; the first said: {cause or last_line(errors[0])}")


def _with_absolute_weights(config: RunConfig) -> RunConfig:
    """The same settings; a trial runs in a folder of Tune's."""
    pretrained = config.model.pretrained and storage.absolute(config.model.pretrained)
    return replace(config, model=replace(config.model, pretrained=pretrained))


def _require_own_folder(config: RunConfig, folder: str) -> None:
    """SettingError for a folder that is there, unless a sweep with the same settings and the same space began it."""
    names = [name for name in storage.list_folder(folder) if not name.startswith(".")]
    of_a_run = [name for name in names if name.startswith(OF_A_RUN)]
    if names and (CONFIG not in names or of_a_run):
        raise SettingError(
            f"name must be new for a sweep: {folder} is no sweep's folder, it holds {(of_a_run or names)[0]}; "
            "choose another --name"
        )
    if not names:
        return
    uri = storage.join(folder, CONFIG)
    began = read_back(storage.read_bytes(uri), uri)
    there, here = (preflight.flat(asdict(each)) for each in (began, config))
    fixed = [name for name in here if name.startswith("sweep.") or not name.startswith(preflight.CHANGEABLE)]
    other = [name for name in fixed if here[name] != there[name] and name not in CHANGEABLE]
    if other:
        differs = "; ".join(f"{name} was {there[name]} and is {here[name]}" for name in other)
        raise SettingError(f"name must be new for another search: {folder} was begun with others ({differs})")


def search_space(config: RunConfig) -> dict[str, Any]:
    """What is searched: the settings that the recipe reads. Plain cross-entropy has only a learning rate."""
    sweep = config.sweep
    space: dict[str, Any] = {"lr": tune.loguniform(*sweep.lr)}
    if config.uses_neighbors:
        space |= {
            "num_neighbors": tune.choice(list(sweep.num_neighbors)),
            "gamma": tune.loguniform(*sweep.gamma),
            "uncertainty_lr": tune.loguniform(*sweep.uncertainty_lr),
            "kernel_width": tune.loguniform(*sweep.kernel_width),
        }
    if config.loss.recipe == "posterior":  # it has no discriminative loss
        del space["gamma"]
    return space


def apply(config: RunConfig, params: dict[str, Any]) -> RunConfig:
    """The settings with a trial's values in their places."""
    config = replace(config, optim=replace(config.optim, lr=params["lr"]))
    if not config.uses_neighbors:
        return config
    return replace(
        config,
        neighbors=replace(config.neighbors, num_neighbors=params["num_neighbors"]),
        loss=replace(config.loss, gamma=params.get("gamma", config.loss.gamma), kernel_width=params["kernel_width"]),
        uncertainty=replace(config.uncertainty, lr=params["uncertainty_lr"]),
    )


def _own_params(config: RunConfig) -> dict[str, Any]:
    """The values a config has itself, in the names of the space."""
    own = {
        "lr": config.optim.lr,
        "num_neighbors": config.neighbors.num_neighbors,
        "gamma": config.loss.gamma,
        "uncertainty_lr": config.uncertainty.lr,
        "kernel_width": config.loss.kernel_width,
    }
    return {name: own[name] for name in search_space(config)}


def _run_trial(params: dict[str, Any], config: RunConfig, holder: Holder, control: Any) -> None:
    """One trial is one launch, which ends with the sweep; what its run told before comes first, for ASHA."""
    run = _run_of(config, params)
    show_through(control, f"trial {run.name}")
    for line in read_metrics(run.uri):
        if METRIC in line:
            tune.report(line)
    launch.fit(run, callbacks=[TuneReportCallback()], sound=True, holder=holder)


def _run_of(config: RunConfig, params: dict[str, Any]) -> RunConfig:
    """A trial's run, in the sweep's own folder; it saves when it evaluates, as reports go with checkpoints."""
    values = json.dumps(params, sort_keys=True).encode()
    trial = apply(config, params)
    return replace(
        trial,
        name=hashlib.blake2b(values, digest_size=4).hexdigest(),
        storage_path=storage.join(config.storage_path, config.name, "trials"),
        training=replace(trial.training, checkpoint_every_steps=None),
    )


def _search_runs(config: RunConfig, callbacks: list[tune.Callback]) -> tune.ResultGrid:
    """Run the trials, as many at once as the nodes hold, which are asked for and may come and go."""
    request = growth.NodeRequest(storage.join(config.storage_path, config.name))
    growth.wait_for_nodes(request, bundles_of_trials(config, 1), config.placement.wait_for_workers_s)
    follower = FollowNodes(config, _search(config), request)
    try:
        with shared_news() as (control, news):
            trial = partial(_run_trial, config=config, holder=Holder.here(), control=control)
            return _tuner(config, trial, follower.search_alg, [follower, ShowNews(news), *callbacks]).fit()
    finally:
        request.cancel()


def _tuner(
    config: RunConfig,
    trial: Callable[..., None],
    search_alg: SearchAlgorithm | Searcher,
    callbacks: list[tune.Callback],
) -> tune.Tuner:
    trainable = tune.with_resources(trial, placement.trial())
    folder = storage.join(config.storage_path, config.name)
    records = launch.train_storage(storage.join(folder, TUNE))
    return tune.Tuner(
        trainable,
        param_space=search_space(config),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=config.sweep.num_samples,
            scheduler=_scheduler(config),
            search_alg=search_alg,
        ),
        run_config=tune.RunConfig(
            name=f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}", callbacks=callbacks, verbose=0, **records
        ),
    )


def _scheduler(config: RunConfig) -> TrialScheduler | None:
    if config.sweep.scheduler == "none":
        return None
    return ASHAScheduler(
        time_attr="epoch",
        max_t=math.ceil(2 * config.training.epochs),  # the runs end by themselves
        grace_period=math.ceil(config.sweep.grace_epochs),
        reduction_factor=config.sweep.reduction_factor,
    )


def _search(config: RunConfig) -> BasicVariantGenerator | ConcurrencyLimiter:
    """What draws the trials; :class:`FollowNodes` says how many there are at a time."""
    own, seed = [_own_params(config)], config.training.seed
    if config.sweep.search == "optuna":
        return ConcurrencyLimiter(OptunaSearch(points_to_evaluate=own, seed=seed), max_concurrent=1)
    return BasicVariantGenerator(points_to_evaluate=own, random_state=seed, max_concurrent=1)


def _trial(result: tune.Result, config: RunConfig) -> Trial:
    metrics, params = result.metrics or {}, dict(result.config or {})
    done = metrics.get("epoch", 0.0)
    ended = metrics.get("step", 0) == metrics.get("steps", -1)
    status = "failed" if result.error else "finished" if ended else "stopped early"
    return Trial(
        params=params,
        accuracy=metrics.get(METRIC),
        epochs=done,
        status=status,
        run_uri=_run_of(config, params).uri,
        error=last_line(result.error) if result.error else None,
    )
