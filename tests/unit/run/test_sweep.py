"""The search: what trials are made of."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search.optuna import OptunaSearch

from ldlva_dist.config import LossConfig, RunConfig, SweepConfig, to_json
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.run.preflight import as_begun, require_same_settings
from ldlva_dist.run.sweep import METRIC, _own_params, _require_own_folder, _search, apply, search_space

RECIPES: Any = ("official", "posterior", "ce")
CONFIG = RunConfig(sweep=SweepConfig(search="optuna", num_samples=6))


def suggestions(config: RunConfig, count: int) -> list[dict[str, Any]]:
    searcher = _search(config).searcher
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


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_trials_values_stand_in_its_settings(recipe: Any) -> None:
    config = replace(CONFIG, loss=LossConfig(recipe=recipe))
    params = suggestions(config, 2)[1]
    assert _own_params(apply(config, params)) == params


def test_only_what_a_recipe_reads_is_searched() -> None:
    searched = {recipe: set(search_space(replace(CONFIG, loss=LossConfig(recipe=recipe)))) for recipe in RECIPES}
    assert searched["official"] - searched["posterior"] == {"gamma"}
    assert searched["ce"] == {"lr"}


def _notes(folder: Path) -> None:
    (folder / "tune").mkdir(parents=True)
    (folder / "tune" / "notes.txt").write_text("precious")


def _run(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(to_json(CONFIG))
    (folder / "metrics.jsonl").touch()


def _checkpoint(folder: Path) -> None:
    (folder / "step-00000010").mkdir(parents=True)
    (folder / "config.json").write_text(to_json(CONFIG))


@pytest.mark.parametrize(("make", "what"), [(_notes, "tune"), (_run, "metrics.jsonl"), (_checkpoint, "step-00000010")])
def test_a_folder_that_is_no_sweeps_is_refused_by_what_it_holds(
    make: Callable[[Path], None], what: str, tmp_path: Path
) -> None:
    make(tmp_path / "mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SettingError, match=rf"mine is no sweep's folder, it holds {what};"):
        _require_own_folder(CONFIG, str(tmp_path / "mine"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda c: replace(c, sweep=replace(c.sweep, lr=(1e-4, 1e-3))),
            r"sweep\.lr was .0\.0003, 0\.003. and is",
        ),
        (lambda c: replace(c, sweep=replace(c.sweep, search="random")), r"sweep\.search was optuna and is random"),
        (lambda c: replace(c, training=replace(c.training, seed=1)), r"training\.seed was 0 and is 1"),
        (lambda c: replace(c, data=replace(c.data, dataset="other")), r"data\.dataset was  and is other"),
        (lambda c: replace(c, sweep=replace(c.sweep, num_samples=12, max_concurrent_trials=1)), None),
        (lambda c: replace(c, placement=replace(c.placement, num_workers=2)), None),
    ],
)
def test_a_sweep_goes_on_with_its_own_settings_and_space_only(
    change: Callable[[RunConfig], RunConfig], sentence: str | None, tmp_path: Path
) -> None:
    _require_own_folder(CONFIG, str(tmp_path / "new"))
    (tmp_path / "config.json").write_text(to_json(CONFIG))
    (tmp_path / "trials").mkdir()
    _require_own_folder(CONFIG, str(tmp_path))
    if sentence is None:
        _require_own_folder(change(CONFIG), str(tmp_path))
    else:
        with pytest.raises(SettingError, match=sentence):
            _require_own_folder(change(CONFIG), str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["sweep"]["search"] == "optuna"


@pytest.mark.parametrize("text", [b"\xff", b"{", b"[]", b'{"loss": {"recipe": "x"}}'])
def test_settings_that_are_damaged_are_named_by_their_file(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes(text)
    with pytest.raises(DataError, match=r"run/config\.json is damaged: "):
        _require_own_folder(CONFIG, str(tmp_path / "run"))
    with pytest.raises(DataError, match=r"run/config\.json is damaged: "):
        require_same_settings(replace(CONFIG, name="run", storage_path=str(tmp_path)))


def test_a_run_that_began_before_there_was_a_choice_of_resize_keeps_the_references(tmp_path: Path) -> None:
    config = RunConfig(name="old", storage_path=str(tmp_path))
    assert config.data.resize == "antialias"
    assert as_begun(config) == config  # nothing there
    saved = json.loads(to_json(config))
    del saved["data"]["resize"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text(json.dumps(saved))
    resumed = as_begun(config)
    assert resumed == replace(config, data=replace(config.data, resize="reference"))
    require_same_settings(resumed)
    with pytest.raises(SettingError, match=r"another data\.resize"):
        require_same_settings(config)
    (tmp_path / "old" / "config.json").write_text(to_json(config))
    assert as_begun(config) == config
