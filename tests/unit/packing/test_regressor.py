"""A user's model: what it is given, what is taken from its outputs, and what is said of one that does not fit."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.annotate.model_files import read_regressor_model
from ldlva_dist.packing.annotate.regressor import Regressor
from ldlva_dist.packing.annotate.settings import RegressorSettings

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
SETTINGS = RegressorSettings(input_size=16)


class ChannelMeans(nn.Module):
    """[n, 3]: the mean of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Named(nn.Module):
    """As EmoNet answers."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"expression": x[:, :, 0, 0], "valence": x.mean((1, 2, 3)), "arousal": x.amax((1, 2, 3)).unsqueeze(1)}


class Pair(nn.Module):
    """Two outputs without names."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((1, 2, 3)), x[:, 0, 0, 0]


class Fixed(nn.Module):
    """Takes 16 x 16 pixels only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16 * 16 * 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class OneMean(nn.Module):
    """[1, 2], whatever the number of images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((0, 2, 3)).unsqueeze(0)


def torchscript(module: nn.Module) -> bytes:
    """The file of a scripted module."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def onnx_means(layout: str = "nchw", kind: int = TensorProto.FLOAT) -> bytes:
    """An ONNX file: the mean of each channel, [n, 3], named Means:0."""
    n, axes = "n", [2, 3] if layout == "nchw" else [1, 2]
    shape = [n, 3, 16, 16] if layout == "nchw" else [n, 16, 16, 3]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float"], ["Means:0"], axes=axes, keepdims=0),
        ],
        "means",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("Means:0", TensorProto.FLOAT, [n, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def linear(path: Path, weight: float, location: str, **place: str) -> None:
    """An ONNX file at ``path`` that gives ``weight`` times the mean of all pixels, twice; its weights lie elsewhere."""
    values = np.full((768, 2), weight / 768, np.float32)
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[768, 2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "length": str(values.nbytes), **place}.items():
        tensor.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "W"], ["va"])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])
    va = helper.make_tensor_value_info("va", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "linear", [image], [va], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    if "/" not in location:
        begin = int(place.get("offset", "0"))
        (path.parent / location).write_bytes(bytes(begin) + values.tobytes() + bytes(100))


def _load(model: bytes, settings: RegressorSettings, name: str = "model.pt") -> Regressor:
    return Regressor(model, name, settings, threads=1, use_gpu=False)


def _means(images: np.ndarray = IMAGES) -> np.ndarray:
    """[n, 3] of the pixels on the reference's scale."""
    return ((images.astype(np.float64) - 127.5) / 127.5).mean(axis=(1, 2))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_an_onnx_model_sees_the_images_in_its_layout(layout: str) -> None:
    settings = RegressorSettings(input_size=16, layout=layout, valence="Means:0:2", arousal="0:1")
    found = _load(onnx_means(layout), settings, "model.onnx")(IMAGES)
    np.testing.assert_allclose(found, _means()[:, [2, 1]], atol=1e-6)
    assert found.dtype == np.float32


def test_a_torchscript_model_sees_the_channels_in_its_order() -> None:
    for order, columns in (("rgb", [0, 1]), ("bgr", [2, 1])):
        settings = RegressorSettings(input_size=16, order=order)
        np.testing.assert_allclose(
            _load(torchscript(ChannelMeans()), settings)(IMAGES), _means()[:, columns], atol=1e-6
        )


def test_pixels_are_normalised_by_channel_in_the_models_order() -> None:
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    settings = RegressorSettings(input_size=16, order="bgr", mean=mean[::-1], std=std[::-1])
    expected = ((IMAGES - np.asarray(mean)) / np.asarray(std)).mean(axis=(1, 2))[:, [2, 1]]
    np.testing.assert_allclose(_load(torchscript(ChannelMeans()), settings)(IMAGES), expected, atol=1e-5)


def test_outputs_are_found_by_name_and_by_place() -> None:
    pixels = (IMAGES.astype(np.float64) - 127.5) / 127.5
    by_name = _load(torchscript(Named()), RegressorSettings(input_size=16, valence="valence", arousal="arousal"))
    expected = np.stack([pixels.mean(axis=(1, 2, 3)), pixels.max(axis=(1, 2, 3))], axis=1)
    np.testing.assert_allclose(by_name(IMAGES), expected, atol=1e-6)
    by_place = _load(torchscript(Pair()), RegressorSettings(input_size=16, valence="1", arousal="0"))
    expected = np.stack([pixels[:, 0, 0, 0], pixels.mean(axis=(1, 2, 3))], axis=1)
    np.testing.assert_allclose(by_place(IMAGES), expected, atol=1e-6)


def test_the_models_own_range_becomes_minus_one_to_one() -> None:
    settings = RegressorSettings(input_size=16, mean=(0.0,), std=(255.0,), output_range=(0.0, 1.0))
    np.testing.assert_allclose(_load(torchscript(ChannelMeans()), settings)(IMAGES), _means()[:, :2], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "name", "settings", "sentence"),
    [
        (b"weights", "model.h5", SETTINGS, r"ONNX file .* or TorchScript, got model\.h5"),
        (b"weights", "model.onnx", SETTINGS, r"whole ONNX file, got model\.onnx"),
        (onnx_means()[:-40], "model.onnx", SETTINGS, r"whole ONNX file, got model\.onnx"),
        (b"PK\x03\x04 and no more", "model.pt", SETTINGS, r"TorchScript as torch\.jit\.save writes it .*model\.pt"),
        (
            torchscript(Fixed()),
            "model.pt",
            RegressorSettings(input_size=20),
            r"\(4 x 3 x 20 x 20\), model\.pt does not",
        ),
        (onnx_means(), "model.onnx", RegressorSettings(input_size=20), r"\(4 x 3 x 20 x 20\), model\.onnx does not"),
        (onnx_means(), "m.onnx", RegressorSettings(input_size=16, layout="nhwc"), r"\(4 x 16 x 16 x 3\), m\.onnx does"),
        (onnx_means(kind=TensorProto.UINT8), "model.onnx", SETTINGS, r"one input, of float32 .*image tensor\(uint8\)"),
        (torchscript(OneMean()), "model.pt", SETTINGS, r"--valence must be one number for each of the 4 .*0 \[1, 3\]"),
        (torchscript(Pair()), "model.pt", SETTINGS, r"--valence must be one number .*got '0:0' of outputs 0 \[4\]"),
        (
            torchscript(Named()),
            "model.pt",
            RegressorSettings(input_size=16, valence="valence", arousal="excitement"),
            r"--arousal must name an output .*'excitement'; its outputs: expression \[4, 3\], valence \[4\]",
        ),
        (
            torchscript(ChannelMeans()),
            "model.pt",
            RegressorSettings(input_size=16, arousal="0:3"),
            r"--arousal must be one number .*'0:3'",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_one_sentence(
    model: bytes, name: str, settings: RegressorSettings, sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence) as caught:
        _load(model, settings, name).check(4)
    assert "\n" not in str(caught.value)


def test_weights_without_a_network_are_said_to_be_that() -> None:
    buffer = io.BytesIO()
    torch.save(Fixed().state_dict(), buffer)
    with pytest.raises(SettingError, match="weights alone are not enough"):
        _load(buffer.getvalue(), SETTINGS)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"input_size": 0}, "--input-size must be in"),
        ({"mean": (1.0, 2.0)}, "--mean must be 1 or 3 finite numbers"),
        ({"channels": 1, "std": (1.0, 2.0, 3.0)}, "--std must be 1 or 1 finite"),
        ({"std": (0.0,)}, "--std must be > 0"),
        ({"output_range": (1.0, 1.0)}, "--output-range must be LOW HIGH"),
        ({"output_range": (float("nan"), 1.0)}, "--output-range must be LOW HIGH"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        RegressorSettings(**values)


@pytest.mark.parametrize("place", [{}, {"offset": "4096"}])
def test_an_onnx_model_has_the_weights_beside_it_wherever_the_job_is_started(
    place: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, weight in (("asked", -0.5), ("other", 0.5)):
        linear(tmp_path / folder / "m.onnx", weight, "m.onnx.data", **place)
    monkeypatch.chdir(tmp_path / "other")
    for uri in (str(tmp_path / "asked" / "m.onnx"), "../asked/m.onnx"):
        found = _load(read_regressor_model(uri), SETTINGS, "m.onnx")(IMAGES)
        np.testing.assert_allclose(found, np.repeat(-0.5 * _means().mean(axis=1)[:, None], 2, axis=1), atol=1e-6)
    monkeypatch.chdir(tmp_path / "asked")
    assert read_regressor_model("m.onnx") == read_regressor_model(str(tmp_path / "asked" / "m.onnx"))
    with pytest.raises(SettingError, match=r"got m\.onnx whose weights lie in another file, 'm\.onnx\.data'"):
        _load((tmp_path / "asked" / "m.onnx").read_bytes(), SETTINGS, "m.onnx")


@pytest.mark.parametrize("location", ["/etc/hostname", "../other/m.onnx.data", "sub/w", "..", "", "*/_ORT_MEM_ADDR_/*"])
def test_weights_elsewhere_than_beside_the_model_are_refused(location: str, tmp_path: Path) -> None:
    linear(tmp_path / "m.onnx", 1.0, location if "/" in location else f"/{location}")
    model = onnx.load_model(str(tmp_path / "m.onnx"), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SettingError, match="must have its weights inside or in a file beside it"):
        read_regressor_model(str(tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), r"m\.onnx\.data, which is not there"),
        (lambda path: path.write_bytes(path.read_bytes()[:6000]), r"should have 6144 bytes at 0, and has 6000 in all"),
        (lambda path: (path.unlink(), os.mkfifo(path)), r"which is not there"),
    ],
)
def test_weights_beside_the_model_that_are_damaged_are_a_sentence(
    damage: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    linear(tmp_path / "m.onnx", 1.0, "m.onnx.data")
    damage(tmp_path / "m.onnx.data")
    with pytest.raises(DataError, match=sentence):
        read_regressor_model(str(tmp_path / "m.onnx"))


@pytest.mark.parametrize("place", [{"offset": "-1"}, {"length": "99999999"}, {"offset": "x"}, {"length": "9" * 30}])
def test_places_of_weights_that_cannot_be_are_a_sentence(place: dict[str, str], tmp_path: Path) -> None:
    linear(tmp_path / "m.onnx", 1.0, "m.onnx.data")
    linear(tmp_path / "m.onnx", 1.0, "/elsewhere", **place)
    model = onnx.load_model(str(tmp_path / "m.onnx"), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "m.onnx.data"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="is damaged"):
        read_regressor_model(str(tmp_path / "m.onnx"))


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # how Python marks what cannot be imported
    with pytest.raises(SettingError, match=r"model\.onnx needs onnxruntime.*pip install 'ldlva-dist\[onnx\]'"):
        _load(onnx_means(), SETTINGS, "model.onnx")
