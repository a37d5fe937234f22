"""Backbones by name, and weights for them from a file."""

import io
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ldlva_dist.errors import SettingError
from ldlva_dist.models.resnet import BLOCKS, ResNet

NAMES = tuple(f"resnet{depth}" for depth in BLOCKS)
WRAPPERS = ("state_dict", "model", "model_state_dict")
PREFIXES = ("", "module.", "backbone.", "model.", "module.backbone.", "module.model.", "model.backbone.")
STEMS = ("imagenet", "small")
NAMES_SHOWN = 4


def build_backbone(name: str, *, width: int, channels: int, stem: str) -> nn.Module:
    """A network from float images [B, channels, H, W] to features [B, V], with V as its ``feature_width``.

    ``width`` and ``stem`` shape the built-in ResNets; a ``timm:NAME`` model has its own.
    """
    if stem not in STEMS:
        raise SettingError(f"model.stem must be one of {', '.join(STEMS)}, got {stem!r}")
    if name in NAMES:
        return ResNet(int(name.removeprefix("resnet")), width=width, channels=channels, stem=stem)
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), channels)
    raise SettingError(f"model.name must be one of {', '.join(NAMES)} or timm:NAME, got {name!r}")


def _timm(name: str, channels: int) -> nn.Module:
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SettingError(f"model.name=timm:{name} needs timm; install the extra: pip install '.[timm]'") from error
    if name not in timm.list_models():
        raise SettingError(f"model.name must be a model that timm knows, got timm:{name}")
    model = timm.create_model(name, num_classes=0, in_chans=channels)
    model.feature_width = model.head_hidden_size  # of what comes out; num_features is before a hidden layer of the head
    return model


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Which weights of a file fitted a network; as text, one paragraph."""

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """The network has them, the file does not."""
    unexpected: tuple[str, ...]
    """The file has them, the network does not."""
    misshapen: tuple[str, ...]
    """Both have them, in other shapes; each with the two shapes."""

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.misshapen)
        parts = [f"{self.source}: loaded {len(self.loaded)} of {total} tensors"]
        for what, names in (
            ("of another shape", self.misshapen),
            ("not in the file", self.missing),
            ("not in the network", self.unexpected),
        ):
            if names:
                rest = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
                parts.append(f"{what}: {', '.join(names[:NAMES_SHOWN])}{rest}")
        return "; ".join(parts) + "."


def load_pretrained(backbone: nn.Module, source: str | bytes) -> LoadReport:
    """Load what fits of a ``.pth`` or ``.safetensors`` file into a network; what does not fit keeps its values.

    Weights under ``state_dict`` or ``model``, or with prefixes such as ``module.`` and ``backbone.``, are found.

    Args:
        backbone: The network.
        source: A path, or the bytes of such a file.

    Raises:
        SettingError: if the file is missing, holds anything but tensors, or nothing of it fits.
    """
    shown = source if isinstance(source, str) else "the given weights"
    own = backbone.state_dict()
    given = _without_prefix(_read(source, shown), own)
    fits = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    report = LoadReport(
        source=shown,
        loaded=tuple(fits),
        missing=tuple(name for name in own if name not in given),
        unexpected=tuple(name for name in given if name not in own),
        misshapen=tuple(
            f"{name} {list(value.shape)} for {list(own[name].shape)}"
            for name, value in given.items()
            if name in own and name not in fits
        ),
    )
    if not fits:
        raise SettingError(f"model.pretrained must hold weights of this network, got {report}")
    backbone.load_state_dict(fits, strict=False)
    return report


def _read(source: str | bytes, shown: str) -> dict[str, Tensor]:
    if isinstance(source, str):
        if not Path(source).is_file():
            raise SettingError(f"model.pretrained must be a file, got {source!r}")
        source = Path(source).read_bytes()
    try:
        state = _parse(source, is_safetensors=shown.endswith(".safetensors") or _looks_like_safetensors(source))
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(f"model.pretrained must be a file of tensors only, got {shown!r}: {reason}") from error
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise SettingError(f"model.pretrained must hold a dict of tensors, got {type(state).__name__} in {shown!r}")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _parse(data: bytes, *, is_safetensors: bool) -> object:
    if is_safetensors:
        return load(data)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _looks_like_safetensors(data: bytes) -> bool:
    """Eight bytes of length, then a JSON object."""
    return data[8:9] == b"{"


def _without_prefix(given: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names that fit the network best."""
    candidates = [{name.removeprefix(prefix): value for name, value in given.items()} for prefix in PREFIXES]
    return max(candidates, key=lambda names: len(names.keys() & own.keys()))


def freeze_batchnorm(module: nn.Module) -> None:
    """Make every BatchNorm use its stored statistics and leave them as they are, also after ``train()``.

    Their scales and offsets are still trained.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
            part.train = partial(_stay_in_eval, part)


def _stay_in_eval(part: _BatchNorm, mode: bool = True) -> _BatchNorm:
    return part
