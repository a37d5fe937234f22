"""Rules of settings: every value in its declared type and range, whatever a JSON file says."""

import dataclasses
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldlva_dist.config import DataConfig, RunConfig, SweepConfig, TrainingConfig, from_json, to_json
from ldlva_dist.config.presets import PRESETS
from ldlva_dist.errors import SettingError
from ldlva_dist.run.cli import parse_run
from ldlva_dist.values.settings import check_name, check_options, kinds_of

SECTIONS = {name: kind for name, kind in kinds_of(RunConfig).items() if dataclasses.is_dataclass(kind)}
FIELDS = [(section, field.name) for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)]
CHOICES = sorted({c for kind in SECTIONS.values() for k in kinds_of(kind).values() if get_origin(k) is Literal
                  for c in get_args(k)}, key=str)  # fmt: skip
NUMBERS = [0, -1, 1, 2, 2.0, 2.5, -0.5, 0.5, 10**6, 2**63, 10**400, math.inf, -math.inf, math.nan]
LISTS = [[], [2], [2, 4], [4, 2], [2, 4, 8], [math.nan, 1], ["2", "4"], [[2]]]
ODD = [None, True, False, "", "2", "a\nb", "\0", "\ud800", {}, {"a": 1}, *NUMBERS, *LISTS, *CHOICES]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.integers(0, 9).map(float) | st.text(max_size=4)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=2), SCALARS, max_size=2)


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value is of exactly the declared type; written apart from the checks that it judges."""
    text = str(kind)
    if kind in (bool, int, float, str):
        return type(value) is kind and not (kind is float and not math.isfinite(value))
    if get_origin(kind) is Literal:
        return any(value is choice or (value == choice and type(value) is type(choice)) for choice in get_args(kind))
    if text.startswith("typing.Annotated"):
        return has_type(value, get_args(kind)[0])
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        long = inner[1:] == (...,) or len(inner) == len(value) if isinstance(value, tuple) else False
        return long and all(has_type(element, inner[0]) for element in value)
    if kind is type(None):
        return value is None
    return any(has_type(value, part) for part in get_args(kind))


def hold(section: str, field: str, value: Any) -> None:
    """Read settings with this value: an error that names the setting, or the value in the declared type."""
    try:
        config = from_json(json.dumps({section: {field: value}}))
    except SettingError as error:
        sentence = str(error)
    else:
        got = getattr(getattr(config, section), field)
        assert has_type(got, kinds_of(SECTIONS[section])[field])
        assert got == (tuple(value) if isinstance(value, list) else value)
        assert from_json(to_json(config)) == config
        return
    assert f"{section}.{field}" in sentence


def test_an_odd_value_of_any_setting_is_refused_by_its_name_or_has_the_declared_type() -> None:
    for section, field in FIELDS:
        for value in ODD:
            hold(section, field, value)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.sampled_from(FIELDS), VALUES)
def test_any_json_value_of_any_setting_is_refused_by_its_name_or_has_the_declared_type(place, value) -> None:
    hold(*place, value)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20))
def test_any_text_is_settings_or_an_error_of_ours(text: bytes) -> None:
    with suppress(SettingError):
        # Of what is drawn here only an empty object is settings.
        assert from_json(text) == RunConfig(data=DataConfig(resize="reference"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"optim": {"schedule": "linear"}}', "optim.schedule must be step, cosine or constant, got 'linear'"),
        (
            '{"loss": {"recipe": "Official"}}',
            "loss.recipe must be official, paper, ce, posterior, elr, sop, gce, sce or mixup, got 'Official'",
        ),
        ('{"data": {"flip": "false"}}', "data.flip must be true or false, got 'false'"),
        ('{"data": {"flip": 1}}', "data.flip must be true or false, got 1"),
        ('{"data": {"batch_size": "32"}}', "data.batch_size must be a whole number >= 1 and <= 1048576, got '32'"),
        ('{"data": {"batch_size": 32.5}}', "data.batch_size must be .* got 32.5"),
        ('{"data": {"channels": 7}}', "data.channels must be 1 or 3, got 7"),
        ('{"data": {"channels": true}}', "data.channels must be 1 or 3, got True"),
        ('{"data": null}', "data must be an object of names and values, got None"),
        ("[]", r"settings must be an object of names and values, got \[\]"),
        ("not json", "settings must be JSON, got what is none"),
        ("[" * 100_000, "settings must be JSON, got one that is nested too deep"),
        ("1" * 5000, "settings must be JSON, got what is none"),
        ('{"data": {"pad": 1}, "data": {}}', "settings must be named once, got twice: 'data'"),
        ('{"training": {"seed": -1}}', "training.seed must be .* got -1"),
        ('{"training": {"seed": 18446744073709551616}}', "training.seed must be .* <= 9223372036854775807, got 1844"),
        ('{"training": {"epochs": Infinity}}', "training.epochs must be .* got inf"),
        ('{"training": {"timeout_s": 1e999}}', "training.timeout_s must be .* got inf"),
        ('{"optim": {"lr": Infinity}}', "optim.lr must be a number > 0, got inf"),
        ('{"optim": {"momentum": -5}}', "optim.momentum must be a number >= 0 and < 1, got -5"),
        ('{"optim": {"decay_factor": -1}}', "optim.decay_factor must be a number >= 0 and <= 1, got -1"),
        ('{"optim": {"decay_epochs": [1, NaN]}}', r"optim.decay_epochs must be .* got \[1, nan\]"),
        ('{"optim": {"warmup_epochs": Infinity}}', "optim.warmup_epochs must be .* got inf"),
        ('{"uncertainty": {"initial_logit": NaN}}', "uncertainty.initial_logit must be .* got nan"),
        ('{"model": {"calibration_hidden": [-1, 2]}}', r"calibration_hidden must be a list of 2, .* got \[-1, 2\]"),
        ('{"bank": {"num_shards": 1000000}}', "bank.num_shards must be .* <= 4096, got 1000000"),
        ('{"sweep": {"gamma": [0.1, NaN]}}', r"sweep.gamma must be .* got \[0.1, nan\]"),
        ('{"name": "a\\u0000b"}', "name must be one line of text, got"),
    ],
)  # fmt: skip
def test_saved_settings_of_other_kinds_are_refused_by_name(text: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        from_json(text)


def test_numbers_may_be_written_in_another_way_and_have_the_declared_type() -> None:
    config = from_json('{"data": {"batch_size": 64.0, "channels": 1.0}, "training": {"epochs": 3}}')
    values = (config.data.batch_size, config.data.channels, config.training.epochs)
    assert values == (64, 1, 3.0)
    assert [type(value) for value in values] == [int, int, float]
    assert TrainingConfig(epochs=3).epochs == 3.0
    assert type(TrainingConfig(epochs=3).epochs) is float
    assert SweepConfig(num_neighbors=[2, 4]).num_neighbors == (2, 4)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_settings_may_have_any_encoding_of_json(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(to_json(PRESETS["ferplus"]()).encode(encoding))
    assert parse_run(["--config", str(tmp_path / "c.json")], description="") == PRESETS["ferplus"]()


def test_a_file_that_is_wrong_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"optim": {"lr": 0}}')
    with pytest.raises(SettingError, match=r"optim.lr must be a number > 0, got 0 \(in .*c.json\)"):
        parse_run(["--config", str(tmp_path / "c.json")], description="")


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_the_command_line_is_held_to_the_same_rules(value: str) -> None:
    with pytest.raises(SettingError, match=f"loss.gamma must be a number >= 0, got {float(value)}"):
        parse_run(["demo", "--loss.gamma", value], description="")


@pytest.mark.parametrize(
    "name", ["", "a/b", "a\nb", "a\0b", "a b", "a\u2028b", ".", "..", ".a", "-a", "a\\b", "n" * 201]
)
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match="--name must be a plain folder name"):
        check_name("--name", name)


def test_plain_names_are_taken() -> None:
    for name in ("run", "Été-2026_v1.2", "n" * 200, "表情"):
        check_name("name", name)


def test_options_are_named_as_they_are_given() -> None:
    @dataclasses.dataclass
    class Options:
        batch_size: int = 1

    with pytest.raises(SettingError, match=r"--batch-size must be a whole number, got 1.5"):
        check_options(Options(batch_size=1.5))  # pyright: ignore[reportArgumentType]


def test_a_sweep_refuses_what_no_search_can_have() -> None:
    demo = PRESETS["demo"]()
    short = dataclasses.replace(demo, training=dataclasses.replace(demo.training, epochs=1.0))
    with pytest.raises(SettingError, match=r"sweep.grace_epochs must be <= training.epochs \(1\), got 3"):
        short.check_search()
    seeded = dataclasses.replace(demo, training=dataclasses.replace(demo.training, seed=2**32))
    with pytest.raises(SettingError, match=r"training.seed must be < 2\^32 for a sweep"):
        seeded.check_search()
    demo.check_search()
