"""The search: what trials are made of."""

from dataclasses import replace
from typing import Any

import pytest
from ray.tune.search.optuna import OptunaSearch

from ldlva_dist.config import LossConfig, RunConfig, SweepConfig
from ldlva_dist.tuning import METRIC, _own_params, _search, apply, search_space

CONFIG = RunConfig(sweep=SweepConfig(search="optuna", num_samples=6))


def suggestions(config: RunConfig, count: int) -> list[dict[str, Any]]:
    searcher = _search(config, 1)
    assert isinstance(searcher, OptunaSearch)
    assert searcher.set_search_properties(METRIC, "max", search_space(config))
    drawn = []
    for number in range(count):
        params = searcher.suggest(str(number))
        assert params is not None
        searcher.on_trial_complete(str(number), {METRIC: number / count})
        drawn.append(params)
    return drawn


def test_optuna_begins_with_the_settings_themselves_and_stays_in_the_space() -> None:
    first, *others = suggestions(CONFIG, 6)
    assert first == _own_params(CONFIG)
    for params in others:
        assert set(params) == {"lr", "num_neighbors", "gamma", "uncertainty_lr", "kernel_width"}
        assert params["num_neighbors"] in CONFIG.sweep.num_neighbors
        for name in ("lr", "gamma", "uncertainty_lr", "kernel_width"):
            low, high = getattr(CONFIG.sweep, name)
            assert low <= params[name] <= high


def test_optuna_draws_the_same_again_from_the_same_seed_and_results() -> None:
    assert suggestions(CONFIG, 4) == suggestions(CONFIG, 4)
    other = replace(CONFIG, training=replace(CONFIG.training, seed=1))
    assert suggestions(other, 4)[1:] != suggestions(CONFIG, 4)[1:]


@pytest.mark.parametrize("recipe", ["official", "ce"])
def test_a_trials_values_stand_in_its_settings(recipe: str) -> None:
    config = replace(CONFIG, loss=LossConfig(recipe=recipe))
    params = suggestions(config, 2)[1]
    assert _own_params(apply(config, params)) == params
