"""``model.json``: everything about a trained network but its weights."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ldlva_dist.errors import DataError
from ldlva_dist.values.settings import Resize
from ldlva_dist.values.typed_json import Rule, Text, build_dataclass, parse_object, require_format

FORMAT_VERSION = 1
FILE = "model.json"
Width = Annotated[int, Rule("a number from 1 to 65,535", lambda value: 0 < value < 1 << 16)]

_RESIZED = {
    "reference": "bilinear with half-pixel centres, no anti-aliasing",
    "antialias": "blocks of 8, 4 or 2 pixels a side averaged where both sides still cover it, then bilinear with "
    "half-pixel centres and anti-aliasing",
}


@dataclass(frozen=True, kw_only=True)
class Description:
    """What must be known to build the network, to feed it, and to judge whether to use it."""

    format_version: int = FORMAT_VERSION
    name: str
    """Name of the run."""
    backbone: str
    """resnet10, resnet18, resnet34, resnet50, or timm:NAME."""
    width: Width
    stem: str
    channels: Annotated[int, Rule("1 or 3", lambda value: value in (1, 3))]
    """1 grey, 3 RGB."""
    image_size: Annotated[int, Rule("a number from 16 to 4,096", lambda value: 16 <= value <= 4096)]
    """Side of the square images, in pixels."""
    resize: Resize = "reference"
    """``data.resize`` of the run; of models that do not say it reference."""
    feature_width: Width
    class_names: Annotated[tuple[Text, ...], Rule("different names, one at least", lambda a: 0 < len(a) == len(set(a)))]
    """In the order of the outputs."""
    data: Mapping[str, Any]
    """Data that it was trained on: dataset, content_hash, num_train."""
    training: Mapping[str, Any]
    """Steps, and the settings of the run that shape a network."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """``holdout_accuracy`` where the run measured it; ``evaluation``: what jobs/evaluate.py wrote of the checkpoint."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the files beside it."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How an image file becomes the network's input, for people and other programs."""
        return {
            "color": "grey" if self.channels == 1 else "RGB",
            "orientation": "upright, as EXIF's tag asks; model.onnx and model.pt2 take pixels that are upright already",
            "resize": f"{self.image_size} x {self.image_size}, {_RESIZED[self.resize]}, "
            "rounded to whole numbers; the aspect ratio is not kept",
            "input": "uint8 0..255, axes image, row, column, channel",
            "normalize": "(x - 127.5) / 127.5, inside the network",
        }

    def to_json(self) -> str:
        """The text of the file; :func:`parse` reads it back."""
        return json.dumps({**dataclasses.asdict(self), "preprocessing": self.preprocessing}, indent=1) + "\n"


def parse_description(text: bytes | str, uri: str) -> Description:
    """Read the file that lies at ``uri``; a damaged one, or one of another format, is a DataError."""
    raw = parse_object(text, uri)
    require_format(raw, FORMAT_VERSION, uri)
    asked = raw.pop("preprocessing", None)
    description = build_dataclass(Description, raw, uri)
    if not isinstance(asked, dict):
        raise DataError(f"{uri} is damaged: it does not say how images are prepared")
    for name, value in asked.items():
        if description.preprocessing.get(name) != value:
            raise DataError(
                f"{uri} asks for a preprocessing that this program does not have: {name} {str(value)[:100]!r}"
            )
    return description
