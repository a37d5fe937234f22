"""A user's own regressor of valence-arousal, ONNX or TorchScript. n = images of a batch, s = side, c = channels."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.errors import SettingError
from ldlva_dist.packing.annotate.model_files import Outputs, load_onnx, load_torchscript
from ldlva_dist.packing.annotate.settings import RegressorSettings

ZIP_MAGIC = b"PK\x03\x04"


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
