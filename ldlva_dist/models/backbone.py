"""Backbones by name, and weights for them from a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.models.mobilefacenet import MobileFaceNet
from ldlva_dist.models.resnet import BLOCKS, ResNet, width_of_features
from ldlva_dist.models.weights_file import fits, form, not_finite, read_weights, shown_name

NAMES = (*(f"resnet{depth}" for depth in BLOCKS), "mobilefacenet")
PREFIXES = ("", "module.", "backbone.", "model.", "module.backbone.", "module.model.", "model.backbone.")
STEMS = ("imagenet", "small")
NAMES_SHOWN = 4
MIN_SHARE = 0.5
"""Least share of a network's tensors, and of its numbers, that a file of weights must hold. ResNet-18's weights for a
ResNet-34 are just enough."""


def build_backbone(name: str, *, width: int, channels: int, stem: str) -> nn.Module:
    """A network from float images [B, channels, H, W] to features [B, V], with V as its ``feature_width``.

    ``width`` and ``stem`` shape the built-in ResNets; ``mobilefacenet``, for 112 pixels, and a ``timm:NAME`` model have
    their own.
    """
    if stem not in STEMS:
        raise SettingError(f"model.stem must be one of {', '.join(STEMS)}, got {stem!r}")
    if name == "mobilefacenet":
        return MobileFaceNet(channels)
    if name in NAMES:
        return ResNet(int(name.removeprefix("resnet")), width=width, channels=channels, stem=stem)
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), channels)
    raise SettingError(f"model.name must be one of {', '.join(NAMES)} or timm:NAME, got {name!r}")


def feature_width(name: str, *, width: int, channels: int, stem: str) -> int:
    """V of the network that :func:`build_backbone` makes of the same arguments, with its errors.

    A ResNet is not built for it, not even without memory: torch's meta device imports for 2 s of CPU.
    """
    if name in NAMES and name.startswith("resnet") and stem in STEMS:
        return width_of_features(int(name.removeprefix("resnet")), width)
    with torch.device("meta"):
        return int(build_backbone(name, width=width, channels=channels, stem=stem).feature_width)  # pyright: ignore[reportArgumentType]


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
    """Both have them, in other shapes or as another kind of numbers; each with the two."""
    share: float
    """Share of the network's numbers that were loaded."""

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.misshapen)
        parts = [f"{self.source}: loaded {len(self.loaded)} of {total} tensors, {self.share:.1%} of the numbers"]
        for what, names in (
            ("of another shape", self.misshapen),
            ("not in the file", self.missing),
            ("not in the network", self.unexpected),
        ):
            if names:
                rest = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
                parts.append(f"{what}: {', '.join(map(shown_name, names[:NAMES_SHOWN]))}{rest}")
        return "; ".join(parts) + "."


def load_pretrained(backbone: nn.Module, source: str | bytes) -> LoadReport:
    """Load what fits of a ``.pth`` or ``.safetensors`` file into a network; what does not fit keeps its values.

    Weights under ``state_dict`` or ``model``, or with prefixes such as ``module.`` and ``backbone.``, are found.

    Args:
        backbone: The network.
        source: A path, or the bytes of such a file.

    Raises:
        SettingError: if the file is missing, holds anything but tensors, or less than half of the network fits.
    """
    if isinstance(source, bytes):
        return load_weights(backbone, source, "the given weights")
    if not Path(source).is_file():
        raise SettingError(f"model.pretrained must be a file, got {source!r}")
    return load_weights(backbone, Path(source).read_bytes(), source)


def load_weights(backbone: nn.Module, data: bytes, source: str) -> LoadReport:
    """:func:`load_pretrained` of the bytes of a file that is called ``source``.

    A network on the meta device is compared with the file, and keeps having no values.
    """
    own = backbone.state_dict()
    given, unexpected = _without_prefix(_read(data, source), own)
    fitting = {name: value for name, value in given.items() if name in own and fits(value, own[name])}
    report = LoadReport(
        source=source,
        loaded=tuple(fitting),
        missing=tuple(name for name in own if name not in given),
        unexpected=unexpected,
        misshapen=tuple(
            f"{name} {form(given[name])} for {form(own[name])}" for name in given if name in own and name not in fitting
        ),
        share=sum(own[name].numel() for name in fitting) / sum(value.numel() for value in own.values()),
    )
    learnt = [name for name, value in own.items() if value.is_floating_point()]  # a count of batches says nothing
    if sum(name in fitting for name in learnt) < MIN_SHARE * len(learnt) or report.share < MIN_SHARE:
        raise SettingError(
            "model.pretrained must hold weights of this network, at least half of its tensors and of its numbers, "
            f"got {report}"
        )
    if broken := not_finite(fitting):
        raise SettingError(f"model.pretrained must hold finite numbers, got {source!r} with others in {broken[0]}")
    if not any(value.is_meta for value in own.values()):
        backbone.load_state_dict(fitting, strict=False)
    return report


def _read(data: bytes, source: str) -> dict[str, Tensor]:
    try:
        return read_weights(data, source)
    except DataError as error:
        raise SettingError(f"model.pretrained must be a file of tensors only: {error}") from error


def _without_prefix(given: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors below the prefix that fits the network best, without it; and the names that the network lacks."""
    below = {
        prefix: {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
        for prefix in PREFIXES
    }
    best = max(PREFIXES, key=lambda prefix: len(below[prefix].keys() & own.keys()))
    elsewhere = [name for name in given if not name.startswith(best)]
    return below[best], tuple([name for name in below[best] if name not in own] + elsewhere)


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
