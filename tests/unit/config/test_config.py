"""Settings: what is refused, and that the saved JSON gives the same settings back."""

from dataclasses import replace

import pytest

from ldlva_dist.config import (
    BankConfig,
    IndexConfig,
    NeighborConfig,
    PlacementConfig,
    RunConfig,
    SweepConfig,
    TrainingConfig,
    from_json,
    to_json,
)
from ldlva_dist.config.presets import PRESETS
from ldlva_dist.errors import SettingError
from ldlva_dist.run.cli import parse_run


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_survives_its_json(preset: str) -> None:
    config = PRESETS[preset]()
    assert from_json(to_json(config)) == config


def test_settings_that_this_version_does_not_know_are_named() -> None:
    text = to_json(RunConfig()).replace('"gamma"', '"gama"', 1)
    with pytest.raises(SettingError, match=r"settings must be known to this version, got 'loss\.gama'"):
        from_json(text)


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    config = parse_run(["demo", "--loss.gamma", "0.5", "--sweep.num-neighbors", "2", "4"], description="")
    demo = PRESETS["demo"]()
    expected = replace(demo, loss=replace(demo.loss, gamma=0.5), sweep=replace(demo.sweep, num_neighbors=(2, 4)))
    assert config == expected


def test_workers_are_one_number_or_two_bounds_and_both_survive_their_json() -> None:
    for words, workers in ((("3",), 3), (("2", "4"), (2, 4))):
        config = parse_run(["demo", "--placement.num-workers", *words], description="")
        assert config.placement.num_workers == workers
        assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: RunConfig(name="a/b"), r"name must be a plain folder name .* got 'a/b'"),
        (lambda: SweepConfig(lr=(1.0, 0.1)), r"sweep\.lr must be LOW HIGH with LOW <= HIGH, got 1\.0 0\.1"),
        (lambda: TrainingConfig(epochs=0), r"training\.epochs must be a number > 0 and <= 1000000, got 0"),
        (
            lambda: RunConfig(training=TrainingConfig(gradient_accumulation_steps=64)),
            r"data\.batch_size must be >= .* \(64\), got 32",
        ),
        (
            lambda: RunConfig(index=IndexConfig(space="feature"), neighbors=NeighborConfig(source="exact")),
            r"neighbors\.source must be bank for index\.space=feature",
        ),
        (
            lambda: RunConfig(index=IndexConfig(space="feature"), bank=BankConfig(on_loss="continue")),
            r"bank\.on_loss must be rollback for index\.space=feature",
        ),
        (
            lambda: RunConfig(index=IndexConfig(space="feature"), bank=BankConfig(place="workers")),
            r"bank\.place must be actors for index\.space=feature, .* got workers",
        ),
        (
            lambda: RunConfig(neighbors=NeighborConfig(source="exact"), bank=BankConfig(place="workers")),
            r"bank\.place must be actors for neighbors\.source=exact, .* got workers",
        ),
        (
            lambda: BankConfig(place="workers", num_shards=2),
            r"bank\.num_shards must be 1 for bank\.place=workers, .* got 2",
        ),
        (
            lambda: BankConfig(place="workers", on_loss="continue"),
            r"bank\.on_loss must be rollback for bank\.place=workers, .* got continue",
        ),
        (
            lambda: PlacementConfig(gpus_per_worker=0.5),
            r"placement\.gpus_per_worker must be a number > 0\.5 and <= 1, got 0\.5",
        ),
        (lambda: PlacementConfig(num_workers=(4, 2)), r"placement\.num_workers must be N, or MIN MAX .* got 4 2"),
        (
            lambda: PlacementConfig(num_workers=0),
            r"num_workers must be a whole number >= 1 or a list of 2, .* got 0",
        ),
        (
            lambda: RunConfig(placement=PlacementConfig(num_workers=(1, 64))),
            r"data\.batch_size must be >= .* \(64\), got 32",
        ),
        (lambda: IndexConfig(space="feature", backend="kdtree"), r"index\.backend must be auto, .* got kdtree"),
    ],
)
def test_a_value_that_breaks_a_rule_is_named_with_the_rule(build, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        build()


@pytest.mark.parametrize("text", ["{}", '{"data": {}}', '{"data": {"image_size": 48}}'])
def test_saved_settings_that_do_not_name_a_resize_mean_the_references(text: str) -> None:
    assert from_json(text).data.resize == "reference"
    assert from_json('{"data": {"resize": "antialias"}}').data.resize == "antialias"
    assert RunConfig().data.resize == PRESETS["demo"]().data.resize == "antialias"
    assert {PRESETS[name]().data.resize for name in PRESETS if name.startswith(("rafdb", "affectnet"))} == {"reference"}
    with pytest.raises(SettingError, match=r"data\.resize must be antialias or reference, got 'box'"):
        from_json('{"data": {"resize": "box"}}')
