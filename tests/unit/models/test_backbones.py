"""Backbones: torchvision's names and shapes, and weights from files that fit well, badly or not at all."""

import copy
import io
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn

from ldlva_dist.config import ModelConfig, RunConfig
from ldlva_dist.errors import SettingError
from ldlva_dist.models.backbone import build_backbone, feature_width, freeze_batchnorm, load_pretrained, load_weights
from ldlva_dist.models.resnet import BLOCKS, NARROW, BasicBlock, NarrowShortcut, ResNet
from ldlva_dist.training.network import say_pretrained


def tiny(channels: int = 3) -> ResNet:
    return ResNet(10, width=4, channels=channels, stem="small")


def torchvision_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """Parameter and buffer shapes of torchvision's resnet{depth}, without fc, from the published architecture."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, out: int, inputs: int, side: int) -> None:
        shapes[f"{name}.weight"] = (out, inputs, side, side)

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    convolution("conv1", 64, 3, 7)
    norm("bn1", 64)
    inputs = 64
    for stage, count in enumerate(BLOCKS[depth], start=1):
        width = 32 << stage
        out = 4 * width if depth == 50 else width
        sides = (1, 3, 1) if depth == 50 else (3, 3)
        for block in range(count):
            name = f"layer{stage}.{block}"
            ins = inputs
            for index, side in enumerate(sides, start=1):
                outs = out if index == len(sides) else width
                convolution(f"{name}.conv{index}", outs, ins, side)
                norm(f"{name}.bn{index}", outs)
                ins = outs
            if block == 0 and (stage > 1 or inputs != out):
                convolution(f"{name}.downsample.0", out, inputs, 1)
                norm(f"{name}.downsample.1", out)
            inputs = out
    return shapes


@pytest.mark.parametrize("inputs", range(1, NARROW))
def test_narrow_shortcut_is_the_strided_convolution_and_does_not_write_past_its_memory(inputs: int) -> None:
    # On a CPU with AVX2 alone the plain convolution ends the process here, after a few steps.
    narrow = NarrowShortcut(inputs, 2 * inputs, kernel_size=1, stride=2, bias=False)
    plain = nn.Conv2d(inputs, 2 * inputs, kernel_size=1, stride=2, bias=False).double()
    plain.load_state_dict(narrow.state_dict())
    for size in (23, 24) * 5:
        x = torch.randn(27, inputs, size, size).contiguous(memory_format=torch.channels_last)
        found, expected = narrow(x), plain(x.double())
        assert torch.allclose(found.double(), expected, atol=1e-5)
        narrow.zero_grad()
        plain.zero_grad()
        found.square().sum().backward()
        expected.square().sum().backward()
        assert narrow.weight.grad is not None
        assert plain.weight.grad is not None
        assert torch.allclose(narrow.weight.grad.double(), plain.weight.grad, rtol=1e-4, atol=1e-2)
    blocks = [module for module in tiny().modules() if isinstance(module, BasicBlock) and module.downsample]
    shortcuts = [type(block.downsample[0]) for block in blocks]
    assert shortcuts == [NarrowShortcut, nn.Conv2d, nn.Conv2d]


@pytest.mark.parametrize(
    ("depth", "count", "width"), [(18, 11_176_512, 512), (34, 21_284_672, 512), (50, 23_508_032, 2048)]
)
def test_resnet_has_the_names_and_shapes_of_torchvision(depth: int, count: int, width: int) -> None:
    backbone = build_backbone(f"resnet{depth}", width=64, channels=3, stem="imagenet")
    assert {name: tuple(value.shape) for name, value in backbone.state_dict().items()} == torchvision_shapes(depth)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == count
    assert backbone.feature_width == width


def test_known_names_and_strides_of_resnet50() -> None:
    state = build_backbone("resnet50", width=64, channels=3, stem="imagenet")
    shapes = {name: tuple(value.shape) for name, value in state.state_dict().items()}
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer2.0.conv2.weight"] == (128, 128, 3, 3)
    assert shapes["layer4.2.bn3.running_var"] == (2048,)
    assert dict(state.named_modules())["layer2.0.conv2"].stride == (2, 2)  # torchvision's place, not the paper's


@pytest.mark.parametrize("name", ["resnet10", "resnet18", "resnet34", "resnet50", "mobilefacenet"])
def test_the_feature_width_is_known_without_the_network(name: str) -> None:
    parts = {"width": 4, "channels": 3, "stem": "small"}
    assert feature_width(name, **parts) == build_backbone(name, **parts).feature_width


@pytest.mark.parametrize("wrong", [("resnet10", "other"), ("resnet11", "small")])
def test_a_network_that_does_not_exist_has_no_feature_width(wrong: tuple[str, str]) -> None:
    name, stem = wrong
    with pytest.raises(SettingError, match=r"model\.(name|stem) must be one of"):
        feature_width(name, width=4, channels=3, stem=stem)


@pytest.mark.parametrize("depth", [10, 50])
def test_features_have_the_feature_width(depth: int) -> None:
    backbone = ResNet(depth, width=8, channels=1, stem="imagenet").eval()
    features = backbone(torch.randn(2, 1, 64, 64))
    assert features.shape == (2, backbone.feature_width)
    assert backbone.feature_width == 8 * 8 * (4 if depth == 50 else 1)


@pytest.mark.parametrize(("stem", "side"), [("small", 3), ("imagenet", 2)])
def test_the_small_stem_keeps_a_3x3_map_of_48_pixels_where_the_imagenet_stem_has_2x2(stem: str, side: int) -> None:
    shapes: list[torch.Size] = []

    def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        shapes.append(output.shape)

    backbone = ResNet(10, width=4, channels=1, stem=stem).eval()
    backbone.layer4.register_forward_hook(keep)
    backbone(torch.randn(1, 1, 48, 48))
    assert shapes == [(1, 32, side, side)]


def test_twice_the_width_has_about_four_times_the_weights() -> None:
    small, large = (sum(p.numel() for p in ResNet(18, width=width).parameters()) for width in (16, 32))
    assert 3.8 < large / small < 4.0


def test_images_in_channels_last_memory_give_the_same_features() -> None:
    backbone, images = tiny().eval(), torch.randn(2, 3, 48, 48)
    features = backbone(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(features, backbone(images), atol=1e-5, rtol=1e-5)


def test_unknown_model_names_those_there_are() -> None:
    with pytest.raises(SettingError, match=r"resnet50, mobilefacenet or timm:NAME, got 'resnet19'"):
        build_backbone("resnet19", width=64, channels=3, stem="imagenet")
    with pytest.raises(SettingError, match=r"model\.stem must be one of imagenet, small, got 'big'"):
        build_backbone("resnet18", width=64, channels=3, stem="big")


def test_timm_model_without_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(SettingError, match=r"install the extra: pip install '\.\[timm\]'"):
        build_backbone("timm:convnext_tiny", width=64, channels=3, stem="imagenet")


def test_timm_model_says_how_wide_its_features_are() -> None:
    pytest.importorskip("timm", reason="needs the extra [timm]")
    for name in ("resnet18", "mobilenetv3_small_100"):  # the second has a hidden layer in its head
        with torch.device("meta"):
            backbone = build_backbone(f"timm:{name}", width=64, channels=3, stem="imagenet")
            assert backbone(torch.zeros(2, 3, 112, 112)).shape == (2, backbone.feature_width)


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module.", "module.backbone.", "safetensors", "bytes"])
def test_weights_load_however_they_are_wrapped(wrap: str, tmp_path: Path) -> None:
    given, backbone = tiny(), tiny()
    state = given.state_dict() | {"fc.weight": torch.zeros(7, 32)}
    prefix = wrap if wrap.endswith(".") else ""
    state = {prefix + name: value for name, value in state.items()}
    path = tmp_path / ("weights.safetensors" if wrap == "safetensors" else "weights.pth")
    if wrap == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if wrap == "state_dict" else state, path)

    report = load_pretrained(backbone, path.read_bytes() if wrap == "bytes" else str(path))

    assert len(report.loaded) == len(given.state_dict())
    assert report.missing == report.misshapen == ()
    assert report.unexpected == ("fc.weight",)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, given.state_dict()[name])


def test_a_whole_model_of_ours_gives_its_backbone(tmp_path: Path) -> None:
    given, backbone = tiny(), tiny()
    state = {f"backbone.{name}": value for name, value in given.state_dict().items()}
    save_file(state | {"classifier.weight": torch.zeros(7, 32)}, tmp_path / "model.safetensors")
    report = load_pretrained(backbone, str(tmp_path / "model.safetensors"))
    assert torch.equal(backbone.conv1.weight, given.conv1.weight)
    assert report.unexpected == ("classifier.weight",)


def test_the_report_says_in_one_paragraph_what_did_not_fit(tmp_path: Path) -> None:
    state = tiny(channels=3).state_dict() | {"fc.weight": torch.zeros(7, 32), "fc.bias": torch.zeros(7)}
    del state["bn1.bias"]
    torch.save(state, tmp_path / "rgb.pth")
    grey = tiny(channels=1)
    before = grey.conv1.weight.clone()

    report = str(load_pretrained(grey, str(tmp_path / "rgb.pth")))

    total = len(grey.state_dict())
    assert report == (
        f"{tmp_path}/rgb.pth: loaded {total - 2} of {total} tensors, 99.8% of the numbers; "
        "of another shape: conv1.weight [4, 3, 3, 3] for [4, 1, 3, 3]; "
        "not in the file: bn1.bias; not in the network: fc.weight, fc.bias."
    )
    assert torch.equal(grey.conv1.weight, before)


def _state(change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> dict[str, torch.Tensor]:
    changed = {name: change(name, value) for name, value in tiny().state_dict().items()}
    return {name: value for name, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "loaded"),
    [
        ({"bn1.bias": torch.zeros(4), "conv1.weight": torch.zeros(64, 3, 7, 7)}, r"1 of 72 tensors, 0\.0%"),
        (_state(lambda name, value: value if "bn" in name else None), r"45 of 72 tensors, 2\.5%"),
        (_state(lambda name, value: value if value.dim() == 4 else None), r"12 of 72 tensors, 96\.3%"),
        (_state(lambda name, value: value[None] if value.dim() == 1 else value), r"24 of 72 .* \[1, 4\] for \[4\]"),
        (
            _state(lambda name, value: (127 * value).to(torch.int8)),
            r"12 of 72 .* \[4, 3, 3, 3\] int8 for \[4, 3, 3, 3\]",
        ),
        (_state(lambda name, value: value.to(torch.complex64)), r"0 of 72 .* complex64 for"),
        (_state(lambda name, value: value.to("meta")), r"0 of 72 "),
        (_state(lambda name, value: value.to_sparse() if value.dim() else value), r"12 of 72 "),
        (ResNet(10, width=8).state_dict(), r"12 of 72 "),
        ({f"encoder.{n}\n{'x' * 500}": torch.zeros(1) for n in range(9)}, r"0 of 72 .* encoder\.0\?x+\.\.\."),
    ],
)
def test_weights_that_hardly_fit_are_refused_by_how_much_does(
    state: dict[str, torch.Tensor], loaded: str, tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "other.pth")
    network = tiny()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(SettingError, match=rf"at least half of its tensors and .*: loaded {loaded}") as caught:
        load_pretrained(network, str(tmp_path / "other.pth"))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def _below(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def _old_torchvision(state: dict[str, torch.Tensor]) -> object:
    """Files before torch 0.4.1 count no batches; the head is of ImageNet."""
    return {name: v for name, v in state.items() if "num_batches" not in name} | {"fc.weight": torch.zeros(1000, 32)}


@pytest.mark.parametrize(
    "change",
    [
        _old_torchvision,
        lambda state: {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
        lambda state: {name: value.double() if value.is_floating_point() else value for name, value in state.items()},
        lambda state: {"epoch": 3, "model": {"state_dict": state, "best": 0.5}},
        lambda state: {
            "state_dict": {"module": torch.zeros(1)} | {f"module.backbone.{n}": v for n, v in state.items()}
        },
        lambda state: state | {0: torch.zeros(1), ("a", 1): torch.zeros(1), "note": "text"},
        lambda state: state | {name: 0 * value for name, value in _below("module.", state).items()},
    ],
)
def test_legitimate_files_load_whole(change: Callable[[dict[str, torch.Tensor]], object], tmp_path: Path) -> None:
    given, network = tiny(), tiny()
    state = {n: v.half().to(v.dtype) if v.is_floating_point() else v for n, v in given.state_dict().items()}
    torch.save(change(state), tmp_path / "weights.pth")
    report = load_pretrained(network, str(tmp_path / "weights.pth"))
    assert report.share > 0.999
    assert all(torch.equal(v, state[n]) for n, v in network.state_dict().items() if v.is_floating_point())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    state = {n: v.double() if v.is_floating_point() else v for n, v in tiny().state_dict().items()}
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = value
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(SettingError, match=r"finite numbers, got .*broken\.pth' with others in layer1\.0\.conv1"):
        load_pretrained(tiny(), str(tmp_path / "broken.pth"))


def test_a_network_without_values_is_compared_and_not_loaded() -> None:
    with torch.device("meta"):
        network = tiny()
    assert load_weights(network, save(tiny().state_dict()), "here").share == 1
    assert network.conv1.weight.is_meta


def _saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


WHOLE = (_saved(tiny().state_dict()), save(tiny().state_dict()), pickle.dumps({"conv1.weight": [1.0]}))


@hypothesis.given(data=st.data())
@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_weights_or_a_sentence(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=20))
    with suppress(SettingError):
        assert load_pretrained(tiny(), bytes(whole[: data.draw(st.integers(0, 2 * len(whole)))])).share >= 0.5


def test_weights_of_which_nothing_fits_are_refused(tmp_path: Path) -> None:
    torch.save({f"encoder.{index}": torch.zeros(1) for index in range(9)}, tmp_path / "other.pth")
    with pytest.raises(SettingError, match=r"model\.pretrained must hold weights of this network.* and 5 more"):
        load_pretrained(tiny(), str(tmp_path / "other.pth"))


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Malicious(tmp_path / "executed")}, tmp_path / "weights.pth")
    with pytest.raises(SettingError, match="must be a file of tensors only"):
        load_pretrained(tiny(), str(tmp_path / "weights.pth"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_damaged_or_missing_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    with pytest.raises(SettingError, match=r"model\.pretrained must be a file, got"):
        load_pretrained(tiny(), path)
    for content in (b"not weights at all", b"", b"conv1.weight: 1\n" * 9, b"\x80\x02", bytes(100), b"PK\x03\x04"):
        Path(path).write_bytes(content)
        with pytest.raises(SettingError, match="must be a file of tensors only") as caught:
            load_pretrained(tiny(), path)
        assert "\n" not in str(caught.value)


def pickled(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_frozen_batchnorm_keeps_its_statistics_and_trains_its_scale_also_in_a_copy(
    copied: Callable[[ResNet], ResNet],
) -> None:
    original = tiny()
    freeze_batchnorm(original)
    backbone = copied(original)
    assert backbone.bn1.train() is backbone.bn1
    backbone.train()
    assert backbone.training
    assert not any(part.training for part in backbone.modules() if isinstance(part, nn.BatchNorm2d))

    backbone(torch.randn(4, 3, 48, 48)).square().mean().backward()

    assert torch.equal(backbone.get_buffer("bn1.running_mean"), torch.zeros(4))
    assert backbone.bn1.weight.grad is not None
    assert backbone.bn1.weight.grad.abs().sum() > 0


def test_a_run_that_begins_says_what_it_loads_and_one_that_goes_on_does_not_need_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ModelConfig(name="resnet10", width=4, stem="small", pretrained=str(tmp_path / "weights.pth"))
    config = RunConfig(storage_path=str(tmp_path), name="run", model=model)
    with pytest.raises(SettingError, match=r"model\.pretrained must be a file, got .*weights\.pth"):
        say_pretrained(config)
    torch.save(tiny().state_dict(), tmp_path / "weights.pth")
    say_pretrained(config)
    assert "weights.pth: loaded 72 of 72 tensors, 100.0% of the numbers." in capsys.readouterr().out
    (tmp_path / "weights.pth").unlink()
    (tmp_path / "run" / "step-00000010").mkdir(parents=True)
    (tmp_path / "run" / "step-00000010" / "state.json").touch()
    say_pretrained(config)
    assert not capsys.readouterr().out


def arcface_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the MobileFaceNet that ArcFace's PyTorch code saves, written out from its published layers."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    def block(name: str, weight: tuple[int, ...], prelu: bool = True) -> None:
        shapes[f"{name}.conv.weight"] = weight
        norm(f"{name}.bn", weight[0])
        if prelu:
            shapes[f"{name}.prelu.weight"] = (weight[0],)

    def bottleneck(name: str, inputs: int, outputs: int, hidden: int) -> None:
        block(f"{name}.conv", (hidden, inputs, 1, 1))
        block(f"{name}.conv_dw", (hidden, 1, 3, 3))
        block(f"{name}.project", (outputs, hidden, 1, 1), prelu=False)

    block("conv1", (64, 3, 3, 3))
    block("conv2_dw", (64, 1, 3, 3))
    for name, inputs, outputs, hidden, count in (
        ("conv_23", 64, 64, 128, 0),
        ("conv_3", 64, 64, 128, 4),
        ("conv_34", 64, 128, 256, 0),
        ("conv_4", 128, 128, 256, 6),
        ("conv_45", 128, 128, 512, 0),
        ("conv_5", 128, 128, 256, 2),
    ):
        names = [f"{name}.model.{place}" for place in range(count)] or [name]
        for one in names:
            bottleneck(one, inputs, outputs, hidden)
    block("conv_6_sep", (512, 128, 1, 1))
    block("conv_6_dw", (512, 1, 7, 7), prelu=False)
    shapes["linear.weight"] = (512, 512)
    norm("bn", 512)
    return shapes


def test_mobilefacenet_takes_the_weights_of_arcface_whole() -> None:
    network = build_backbone("mobilefacenet", width=64, channels=3, stem="imagenet")
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == arcface_shapes()
    assert 0.9e6 < sum(parameter.numel() for parameter in network.parameters()) < 1.3e6
    given = {f"module.{name}": torch.rand(shape) + 0.5 for name, shape in arcface_shapes().items() if shape}
    report = load_pretrained(network, save(given | {"module.head.weight": torch.zeros(3, 512)}))
    assert report.share == pytest.approx(1, abs=1e-4)  # all but the counts of batches
    assert report.unexpected == ("module.head.weight",) or report.unexpected == ("head.weight",)
    torch.testing.assert_close(
        network.state_dict()["conv_4.model.5.conv_dw.prelu.weight"], given["module.conv_4.model.5.conv_dw.prelu.weight"]
    )


def test_mobilefacenet_gives_one_feature_a_face_and_only_for_its_pixels() -> None:
    network = build_backbone("mobilefacenet", width=64, channels=1, stem="imagenet").eval()
    assert network(torch.randn(2, 1, 112, 112)).shape == (2, network.feature_width)
    config = RunConfig()
    with pytest.raises(SettingError, match=r"data\.image_size must be 112 for model\.name=mobilefacenet, got 96"):
        replace(config, model=ModelConfig(name="mobilefacenet"), data=replace(config.data, image_size=96))
