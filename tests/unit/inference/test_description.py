"""model.json and the weights beside it, whatever somebody wrote there: a network that is right, or one sentence."""

import json
import pickle
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.saved_files import write_saved_file
from ldlva_dist.checkpoint.state_file import write_state
from ldlva_dist.config import DataConfig, LossConfig, ModelConfig, RunConfig, to_json
from ldlva_dist.errors import DataError, LdlvaError, SettingError
from ldlva_dist.inference import description as descriptions
from ldlva_dist.inference.description import Description
from ldlva_dist.inference.export import card, export
from ldlva_dist.inference.face_model import Portable, load_exported, read_exported
from ldlva_dist.inference.trained import read_model
from ldlva_dist.models.backbone import build_backbone
from ldlva_dist.models.classifier import Classifier
from ldlva_dist.training import build

NETWORK = Classifier(build_backbone("resnet10", width=4, channels=1, stem="small"), 3)
MODEL = Portable(
    description=Description(
        name="x",
        backbone="resnet10",
        width=4,
        stem="small",
        channels=1,
        image_size=32,
        feature_width=32,
        class_names=("a", "b", "c"),
        data={"dataset": "d", "content_hash": "0", "num_train": 1},
        training={
            "steps": 1,
            "batch_size": 1,
            "epochs": 1,
            "precision": "fp32",
            "seed": 0,
            "loss": {"recipe": "ce"},
        },
        figures={"holdout_accuracy": None},
    ),
    weights=save(NETWORK.state_dict()),
)
RAW = json.loads(MODEL.description.to_json())


def test_a_description_is_read_back_as_it_was_written() -> None:
    assert descriptions.parse_description(MODEL.description.to_json(), "model.json") == MODEL.description
    before = {name: value for name, value in RAW.items() if name != "resize"}
    assert descriptions.parse_description(json.dumps(before), "model.json").resize == "reference"
    older = {**RAW, "preprocessing": {"resize": RAW["preprocessing"]["resize"]}}
    assert descriptions.parse_description(json.dumps(older), "model.json") == MODEL.description


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"class_names": "Neutral"}, "class_names must be a list"),
        ({"class_names": ["a", "a", "b"]}, "class_names must be different names"),
        ({"class_names": []}, "class_names must be different names"),
        ({"class_names": ["a", 1, "b"]}, r"class_names\[1\] must be a text"),
        ({"width": True}, "width must be a whole number"),
        ({"width": 4.0}, "width must be a whole number"),
        ({"width": 10**30}, "width must be a number from 1 to 65,535"),
        ({"image_size": 1_000_000}, "image_size must be a number from 16 to 4,096"),
        ({"image_size": 8}, "image_size must be a number from 16 to 4,096"),
        ({"resize": "box"}, "resize must be antialias or reference"),
        ({"resize": "antialias"}, r"does not have: resize '32 x 32, bilinear"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"files": ["model.safetensors"]}, "files must be an object"),
        ({"training": None}, "training must be an object"),
        ({"more": 1}, "does not know its field 'more'"),
        ({"format_version": True}, "has format_version"),
        ({"preprocessing": None}, "does not say how images are prepared"),
        ({"preprocessing": {**RAW["preprocessing"], "color": "RGB"}}, r"does not have: color 'RGB'"),
        ({"preprocessing": {**RAW["preprocessing"], "crop": "centre"}}, r"does not have: crop 'centre'"),
    ],
)
def test_what_a_description_cannot_be_is_a_sentence_with_the_field(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=rf"^model\.json .*{sentence}"):
        descriptions.parse_description(json.dumps({**RAW, **change}), "model.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_description_is_one_that_builds_or_a_sentence(data: st.DataObject) -> None:
    raw = json.loads(json.dumps(RAW))
    for name in data.draw(st.lists(st.sampled_from([*RAW, "training.loss", "figures.evaluation"]), max_size=3)):
        outer, _, inner = name.partition(".")
        if inner and isinstance(raw.get(outer), dict):
            raw[outer][inner] = data.draw(VALUES)
        elif data.draw(st.booleans()):
            raw[outer] = data.draw(VALUES)
        else:
            raw.pop(outer, None)
    with suppress(DataError, SettingError):
        found = descriptions.parse_description(json.dumps(raw), "model.json")
        assert replace(MODEL, description=found).build().description.class_names == found.class_names
        assert card(found)


@given(content=st.binary(max_size=40) | st.just(b"[" * 100_000) | st.just(b'{"format_version": ' + b"9" * 5000 + b"}"))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_any_bytes_for_a_description_are_a_sentence(content: bytes) -> None:
    with pytest.raises(DataError, match=r"model\.json"):
        descriptions.parse_description(content, "model.json")


def _described(**change: Any) -> Portable:
    return replace(MODEL, description=replace(MODEL.description, **change))


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Portable:
    state = dict(NETWORK.state_dict())
    change(state)
    return replace(MODEL, weights=save(state))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (_described(width=30_000), r"width 30000.* backbone\.conv1\.weight \[4, 1, 3, 3\] for \[30000, 1, 3, 3\], and"),
        (_described(backbone="resnet50"), r"it has no backbone\.layer1\.0\.conv3\.weight, and \d+ more"),
        (_described(class_names=("a", "b")), r"classifier\.weight \[3, 32\] for \[2, 32\], and 1 more"),
        (_described(channels=3), r"backbone\.conv1\.weight \[4, 1, 3, 3\] for \[4, 3, 3, 3\]"),
        (_described(feature_width=64), r"has features of 32, its description says 64"),
        (_weights(lambda state: state.pop("classifier.bias")), r"it has no classifier\.bias"),
        (_weights(lambda state: state.update(extra=torch.zeros(1))), r"extra is none of the network's"),
        (_weights(lambda state: state.update({"classifier.bias": torch.zeros(3).int()})), r"\[3\] int32 for \[3\]"),
        (
            _weights(lambda state: state.update({"classifier.bias": torch.full((3,), torch.nan)})),
            r"classifier\.bias holds numbers that are not finite",
        ),
        (replace(MODEL, weights=pickle.dumps(NETWORK.state_dict())), "is no safetensors file"),
        (replace(MODEL, weights=b""), "is no safetensors file"),
        (replace(MODEL, weights=struct.pack("<Q", 1 << 40) + b"{}"), "is no safetensors file"),
    ],
)
def test_weights_of_another_network_are_refused_before_memory_is_taken(model: Portable, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        model.build()
    assert "\n" not in str(caught.value)


HEADER = json.loads(MODEL.weights[8 : 8 + int.from_bytes(MODEL.weights[:8], "little")])


@given(data=st.data())
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_header_of_weights_is_the_network_or_a_sentence(data: st.DataObject) -> None:
    header = json.loads(json.dumps(HEADER))
    entry = header[data.draw(st.sampled_from(sorted(HEADER)))]
    numbers = st.integers(-1, 10) | st.sampled_from([1 << 31, 1 << 62, 1 << 64]) | VALUES
    field = data.draw(st.sampled_from(["shape", "dtype", "data_offsets"]))
    entry[field] = data.draw(
        st.lists(numbers, max_size=4) | st.sampled_from(["F16", "F4", "C64", "I64", "BF16", "?"]) | VALUES
    )
    text = json.dumps(header).encode()
    body = MODEL.weights[8 + int.from_bytes(MODEL.weights[:8], "little") :]
    whole = struct.pack("<Q", data.draw(st.just(len(text)) | st.integers(0, 1 << 63))) + text + body
    with suppress(DataError):
        replace(MODEL, weights=whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))]).build()


def test_an_exported_folder_whose_image_size_is_changed_within_the_limits_is_another_model(tmp_path: Path) -> None:
    export(MODEL, str(tmp_path / "away"), [], [])
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1), dtype=np.uint8)
    assert load_exported(str(tmp_path / "away"))(image).probs_nC.shape == (1, 3)
    path = tmp_path / "away" / "model.json"
    path.write_text(path.read_text().replace('"image_size": 32', '"image_size": 48'))
    with pytest.raises(DataError, match="asks for a preprocessing that this program does not have: resize '32 x 32"):
        read_exported(str(tmp_path / "away"))


CONFIG = RunConfig(
    name="run",
    data=DataConfig(dataset="d", image_size=32, channels=1),
    model=ModelConfig(name="resnet10", width=4, stem="small"),
    loss=LossConfig(recipe="ce"),
)
FACTS = {"step": 20, "class_names": ["a", "b", "c"], "content_hash": "0", "num_train": 1}
FILES = {"model.safetensors": MODEL.weights, "config.json": to_json(CONFIG).encode()}


def _checkpoint(folder: Path, facts: dict[str, Any], files: dict[str, bytes]) -> str:
    uri = str(folder / "run" / "step-00000020")
    write_state(uri, facts, {name: write_saved_file(uri, name, data) for name, data in files.items()})
    return uri


def test_a_checkpoint_is_the_network_it_says(tmp_path: Path) -> None:
    model = read_model(_checkpoint(tmp_path, FACTS, FILES))
    assert model.description.class_names == ("a", "b", "c")
    assert model.build().network.classifier.weight.equal(NETWORK.classifier.weight)


def _config(**change: Any) -> bytes:
    return json.dumps({**json.loads(to_json(CONFIG)), **change}).encode()


@pytest.mark.parametrize(
    ("facts", "files"),
    [
        ({"class_names": None}, {}),
        ({"class_names": "abc"}, {}),
        ({"class_names": ["a", "a", "b"]}, {}),
        ({"class_names": ["a", "b"]}, {}),
        ({"num_train": -1}, {}),
        ({"metrics": []}, {}),
        ({"content_hash": 7}, {}),
        ({}, {"config.json": b"[]"}),
        ({}, {"config.json": b"{"}),
        ({}, {"config.json": b"\xff"}),
        ({}, {"config.json": _config(model={"name": "resnet10", "width": 30_000, "stem": "small"})}),
        ({}, {"config.json": _config(data={"image_size": 10**6})}),
        ({}, {"model.safetensors": pickle.dumps({})}),
        ({}, {"model.safetensors": save({"a": torch.zeros(1)})}),
        ({}, {"model.safetensors": save({"classifier.weight": torch.zeros(3)})}),
    ],
)
def test_a_checkpoint_of_other_shapes_is_a_sentence(
    facts: dict[str, Any], files: dict[str, bytes], tmp_path: Path
) -> None:
    uri = _checkpoint(tmp_path, {**FACTS, **facts}, {**FILES, **files})
    with pytest.raises(LdlvaError) as caught:
        read_model(uri).build()
    assert caught.value.exit_code in (2, 3)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_width_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    wide = replace(CONFIG, model=replace(CONFIG.model, width=4096))
    saved = Checkpoint.open(_checkpoint(tmp_path, FACTS, FILES))
    with pytest.raises(DataError, match=r"does not hold the weights of its network: backbone\.conv1\.weight"):
        build.restored_model(wide, 3, saved)
    assert build.restored_model(CONFIG, 3, saved).classifier.weight.equal(NETWORK.classifier.weight)


@pytest.mark.parametrize("content", ["[]", "{", '{"steps": 20}', json.dumps({"steps": 20, "weights_crc32": 1})])
def test_figures_of_other_weights_are_not_taken(content: str, tmp_path: Path) -> None:
    uri = _checkpoint(tmp_path, FACTS, FILES)
    (tmp_path / "run" / "evaluation.json").write_text(content)
    with suppress(DataError):
        assert "evaluation" not in read_model(uri).description.figures


@pytest.mark.parametrize("evaluation", [{"given": 1}, {"given": {}}, {"split": "test", "given": {"accuracy": "high"}}])
def test_figures_of_another_shape_are_a_sentence(evaluation: dict[str, Any], tmp_path: Path) -> None:
    uri = _checkpoint(tmp_path, FACTS, FILES)
    found = {"steps": 20, "weights_crc32": Checkpoint.open(uri).weights_crc32, **evaluation}
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match="what is said of 'run', or of its evaluation, is damaged"):
        export(read_model(uri), str(tmp_path / "away"), [], [])
    assert not (tmp_path / "away").exists()
