"""``model.json``: everything about a trained network but its weights."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ldlva_dist.errors import DataError

FORMAT_VERSION = 1
FILE = "model.json"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What must be known to build the network, to feed it, and to judge whether to use it."""

    format_version: int = FORMAT_VERSION
    name: str
    """Of the run."""
    backbone: str
    """resnet10, resnet18, resnet34, resnet50, or timm:NAME."""
    width: int
    stem: str
    channels: int
    """1 grey, 3 RGB."""
    image_size: int
    """Side of the square images, in pixels."""
    feature_width: int
    class_names: tuple[str, ...]
    """In the order of the outputs."""
    data: Mapping[str, Any]
    """What it was trained on: dataset, content_hash, num_train."""
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
            "resize": f"{self.image_size} x {self.image_size}, bilinear with half-pixel centres, no anti-aliasing, "
            "rounded to whole numbers; the aspect ratio is not kept",
            "input": "uint8 0..255, axes image, row, column, channel",
            "normalize": "(x - 127.5) / 127.5, inside the network",
        }

    def to_json(self) -> str:
        """The text of the file; :func:`parse` reads it back."""
        return json.dumps({**dataclasses.asdict(self), "preprocessing": self.preprocessing}, indent=1) + "\n"


def parse(text: bytes | str, uri: str) -> Description:
    """Read the file that lies at ``uri``; a damaged one, or one of another format, is a DataError."""
    try:
        raw = json.loads(text)
        if raw["format_version"] != FORMAT_VERSION:
            raise DataError(f"{uri} has format_version {raw['format_version']}, this program reads {FORMAT_VERSION}")
        del raw["preprocessing"]
        description = Description(**{**raw, "class_names": tuple(raw["class_names"])})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri} is damaged: {error!r}") from error
    sizes = (description.width, description.image_size, description.feature_width)
    if description.channels not in (1, 3) or not all(isinstance(size, int) and 0 < size < 1 << 16 for size in sizes):
        raise DataError(f"{uri} is damaged: its sizes are no sizes of a network")
    return description
