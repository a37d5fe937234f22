"""A user's own regressor of valence-arousal, ONNX or TorchScript. n = images of a batch, s = side, c = channels."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.errors import SettingError
from ldlva_dist.packing.annotate.model_files import Outputs, load_onnx, load_torchscript

ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True, kw_only=True)
class RegressorSettings:
    """What the model wants to be given, and what it answers."""

    input_size: int = 112
    """Side of the square the images are resized to, in pixels (bilinear, as for training)."""
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


class Regressor:
    """The model, ready to be called on one machine."""

    def __init__(self, model: bytes, name: str, settings: RegressorSettings, *, threads: int, use_gpu: bool) -> None:
        """Load a model from its file's bytes; ``name`` is the file's, for its ending and for messages.

        A TorchScript file is a program of the user's own, and is run as one.
        """
        self._settings, self._name = settings, name
        if name.endswith(".onnx"):
            self._run = load_onnx(model, name, threads, use_gpu)
        elif model.startswith(ZIP_MAGIC):
            self._run = load_torchscript(model, name, threads, use_gpu)
        else:
            raise SettingError(f"--model must be an ONNX file (its name ends in .onnx) or TorchScript, got {name}")

    def __call__(self, images_nssc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[n, 2] valence and arousal, on the scale where they should be in [-1, 1]; may be NaN or outside.

        An input that the model does not take, or outputs that are not as the settings say, are a SettingError.
        """
        outputs = self._run(self._prepare(images_nssc))
        settings, n = self._settings, len(images_nssc)
        columns = [
            _pick(outputs, setting, wanted, n)
            for setting, wanted in (("--valence", settings.valence), ("--arousal", settings.arousal))
        ]
        va_n2 = np.stack(columns, axis=1).astype(np.float32)
        low, high = settings.output_range
        return va_n2 if (low, high) == (-1, 1) else ((va_n2 - low) * (2 / (high - low)) - 1).astype(np.float32)

    def check(self, batch_size: int) -> None:
        """Call the model once, on black images; SettingError where it does not fit the settings."""
        s, c = self._settings.input_size, self._settings.channels
        self(np.zeros((batch_size, s, s, c), dtype=np.uint8))

    def _prepare(self, images_nssc: NDArray[np.uint8]) -> NDArray[np.float32]:
        settings = self._settings
        pixels = images_nssc[..., ::-1] if settings.order == "bgr" else images_nssc
        mean, std = (np.asarray(values, dtype=np.float32) for values in (settings.mean, settings.std))
        scaled = (pixels.astype(np.float32) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2) if settings.layout == "nchw" else scaled)


def model_fingerprint(model: bytes) -> str:
    """SHA-256 of a model's file."""
    return hashlib.sha256(model).hexdigest()


def _pick(outputs: Outputs, setting: str, wanted: str, n: int) -> NDArray[Any]:
    """[n] the column of the outputs that NAME, PLACE, NAME:COLUMN or PLACE:COLUMN means."""
    there = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
    name, column = (wanted, None) if wanted in outputs else _split(wanted)
    found = outputs.get(name)
    if found is None and name.isdecimal() and int(name) < len(outputs):
        found = list(outputs.values())[int(name)]
    if found is None:
        raise SettingError(f"{setting} must name an output of the model, got {wanted!r}; its outputs: {there}")
    if column is None and found.shape in ((n,), (n, 1)):
        return found.reshape(n)
    if column is None or found.ndim != 2 or len(found) != n or column >= found.shape[1]:
        raise SettingError(
            f"{setting} must be one number for each of the {n} images of a batch, got {wanted!r} of outputs {there}"
        )
    return found[:, column]


def _split(wanted: str) -> tuple[str, int | None]:
    name, colon, column = wanted.rpartition(":")
    return (name, int(column)) if colon and column.isdecimal() else (wanted, None)
