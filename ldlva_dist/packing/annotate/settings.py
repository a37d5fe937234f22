"""Settings of a user's own regressor of valence-arousal; the command line reads them before anything is imported."""

import math
from dataclasses import dataclass
from typing import Literal

from ldlva_dist.errors import SettingError
from ldlva_dist.values.settings import Resize


@dataclass(frozen=True, kw_only=True)
class RegressorSettings:
    """What the model wants to be given, and what it answers."""

    input_size: int = 112
    """Side of the square the images are resized to, in pixels."""
    resize: Resize = "antialias"
    """antialias averages the pixels that become one; reference takes two of them a side. See data.resize."""
    channels: Literal[1, 3] = 3
    """1 decodes to grey, 3 to colour."""
    order: Literal["rgb", "bgr"] = "rgb"
    """Order of three channels."""
    layout: Literal["nchw", "nhwc"] = "nchw"
    """Axes of the input: images, channels, rows, columns; or the channels last."""
    mean: tuple[float, ...] = (127.5,)
    """Subtracted from the pixels 0..255: one number, or one for each channel in the model's order. The default is the
    reference's (x - 127.5) / 127.5; ImageNet's is 123.675 116.28 103.53."""
    std: tuple[float, ...] = (127.5,)
    """Divisor after the mean is taken away; ImageNet's is 58.395 57.12 57.375; 255 with a mean of 0 gives [0, 1]."""
    valence: str = "0:0"
    """Output that is valence: its name or place, and the column where it has several (logits:8, 0:1)."""
    arousal: str = "0:1"
    """Output that is arousal."""
    output_range: tuple[float, float] = (-1.0, 1.0)
    """The scale of the outputs: LOW and HIGH become -1 and 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.input_size <= 4096:
            raise SettingError(f"--input-size must be in 1..4096 pixels, got {self.input_size}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels) or not all(map(math.isfinite, values)):
                raise SettingError(f"--{name} must be 1 or {self.channels} finite numbers, got {values}")
        if not all(value > 0 for value in self.std):
            raise SettingError(f"--std must be > 0, got {self.std}")
        low, high = self.output_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise SettingError(f"--output-range must be LOW HIGH with LOW < HIGH, got {low} {high}")
