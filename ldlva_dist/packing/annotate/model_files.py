"""Model files made runnable, ONNX and TorchScript: float32 images in, named outputs out."""

import io
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.annotate.onnx_weights import INSTALL, require_whole, with_weights

Outputs = dict[str, NDArray[Any]]
Run = Callable[[NDArray[np.float32]], Outputs]


def read_regressor_model(uri: str) -> bytes:
    """The file of a model; an ONNX file comes with the weights that lie beside it."""
    model = storage.read_bytes(uri)
    return with_weights(model, uri) if uri.endswith(".onnx") else model


def load_torchscript(model: bytes, name: str, threads: int, use_gpu: bool) -> Run:
    """The program in a TorchScript file: it is the user's own, and is run as one. SettingError for any other file."""
    device = torch.device("cuda" if use_gpu else "cpu")
    torch.set_num_threads(threads)
    try:
        module = torch.jit.load(io.BytesIO(model), map_location=device).eval()
    except (RuntimeError, ValueError, LookupError) as error:
        raise SettingError(
            f"--model must be TorchScript as torch.jit.save writes it (weights alone are not enough), got {name}: "
            f"{_reason(error)}"
        ) from error

    def run(pixels: NDArray[np.float32]) -> Outputs:
        try:
            with torch.inference_mode():
                found = module(torch.from_numpy(pixels).to(device))
        except RuntimeError as error:
            raise SettingError(_refused(name, pixels, error)) from error
        listed = found if isinstance(found, tuple | list) else [found]
        named = found if isinstance(found, dict) else dict(enumerate(listed))
        return {str(key): value.float().cpu().numpy() for key, value in named.items()}

    return run


def load_onnx(model: bytes, name: str, threads: int, use_gpu: bool) -> Run:
    """The network in an ONNX file, by onnxruntime; SettingError where that is not installed, or for any other file.

    A file whose weights lie in another one is refused: :func:`read_model` puts them inside.
    """
    try:
        import onnxruntime

        state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")  # where its errors are
    except ImportError as error:
        raise SettingError(f"--model {name} needs onnxruntime, which is not installed: {INSTALL}") from error
    provider = "CUDAExecutionProvider" if use_gpu else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise SettingError("--gpus-per-actor must be 0 for ONNX unless onnxruntime-gpu is installed")
    failures = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    failures += (state.RuntimeException, state.NoSuchFile)
    require_whole(model, name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what fails is raised
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[provider])
        inputs, names = session.get_inputs(), [output.name for output in session.get_outputs()]
    except (*failures, ValueError) as error:  # names that are no text
        raise SettingError(f"--model must be a whole ONNX file, got {name}: {_reason(error)}") from error
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        kinds = ", ".join(f"{entry.name} {entry.type}" for entry in inputs)
        raise SettingError(f"--model must have one input, of float32 images, got {name} with {kinds}")

    def run(pixels: NDArray[np.float32]) -> Outputs:
        try:
            found = session.run(names, {inputs[0].name: pixels})
        except failures as error:
            raise SettingError(_refused(name, pixels, error)) from error
        return {key: np.asarray(value) for key, value in zip(names, found, strict=True)}

    return run


def _refused(name: str, pixels: NDArray[np.float32], error: Exception) -> str:
    shape = " x ".join(map(str, pixels.shape))
    settings = "--input-size, --channels, --layout and --batch-size"
    return f"--model must take what {settings} say ({shape}), {name} does not: {_reason(error)}"


def _reason(error: Exception) -> str:
    """The last line of a message that says something: TorchScript puts a traceback before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ~^<>-=.")]
    return lines[-1][:300] if lines else type(error).__name__
