"""A network as a graph for other programs: ONNX, or torch.export. Both take uint8 images [n, H, W, c] of any one size.

Resizing and normalisation are inside; turning a picture upright by its EXIF tag is not. Outputs are ``probabilities``
[n, C] and ``features`` [n, V]. n = images, H W = height and width in pixels, c = channels.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from ldlva_dist.dataset.image_files import MAX_SIDE
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.inference.face_model import FaceModel
from ldlva_dist.models.classifier import AnySizeClassifier

TOLERANCE = 1e-4
RESIZED_TOLERANCE = {"reference": 1e-3, "antialias": 2e-2}
"""Largest difference after a resize: a tie of rounding moves a pixel by 1 of 255; Pillow rounds on the way, too."""
INPUT, OUTPUTS = "images", ("probabilities", "features")
OPSET = 20
PREPROCESSING = "preprocessing.json"
"""Name of the extra file in a pt2 that says how images are prepared; ONNX has the same as its metadata."""
Images = NDArray[np.uint8]
Run = Callable[[Images], Sequence[NDArray[np.float32]]]


def to_onnx(model: FaceModel, images: Sequence[Images]) -> bytes:
    """The ONNX file, checked on ``images`` against torch.

    Raises:
        SettingError: where onnx, onnxscript or onnxruntime is not installed.
        DataError: where it differs from torch, see :func:`check`.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    with _quiet():
        program = torch.onnx.export(
            _export(model), input_names=[INPUT], output_names=list(OUTPUTS), opset_version=OPSET, verbose=False
        )
    assert program is not None, "the exporter that returns a program"
    proto = program.model_proto
    for name, value in model.description.preprocessing.items():
        proto.metadata_props.add(key=name, value=value)
    file = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(batch: Images) -> list[NDArray[np.float32]]:
        return [np.asarray(output) for output in session.run(list(OUTPUTS), {INPUT: batch})]

    check_graph(model, images, run, "ONNX")
    return file


def to_pt2(model: FaceModel, images: Sequence[Images]) -> bytes:
    """The file that ``torch.export.load`` reads, checked on ``images`` against torch."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(
            _export(model), buffer, extra_files={PREPROCESSING: json.dumps(model.description.preprocessing)}
        )
        buffer.seek(0)
        module = torch.export.load(buffer).module()

    def run(batch: Images) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            return [output.numpy() for output in module(torch.from_numpy(batch))]

    check_graph(model, images, run, "torch.export")
    return buffer.getvalue()


def check_graph(model: FaceModel, images: Sequence[Images], run: Run, what: str) -> None:
    """Compare a graph with torch: on all images at the network's size, in a batch and alone, and on each as it is.

    Raises:
        DataError: where they differ by more than 1e-4; where the graph had to resize :data:`RESIZED_TOLERANCE`.
    """
    size, resize = model.description.image_size, model.description.resize
    prepared = np.stack([model.preparation.fit(image) for image in images])
    for batch in (prepared, prepared[:1], *(image[None] for image in images)):
        allowed = TOLERANCE if batch.shape[1:3] == (size, size) else RESIZED_TOLERANCE[resize]
        found = _difference(model, batch, run)
        if not found <= allowed:
            shape = " x ".join(map(str, batch.shape))
            raise DataError(
                f"{what} must give what torch gives within {allowed:g}, it differs by {found:.2g} on {shape}"
            )


def _difference(model: FaceModel, batch: Images, run: Run) -> float:
    ours = model(np.stack([model.preparation.fit(image) for image in batch]))
    probs_nC, features_nV = run(batch)
    scale = max(1.0, float(np.abs(ours.features_nV).max()))  # features have no scale of their own
    pairs = ((probs_nC, ours.probs_nC, 1.0), (features_nV, ours.features_nV, scale))
    return max(float(np.abs(found - expected).max()) / unit for found, expected, unit in pairs)


def _export(model: FaceModel) -> ExportedProgram:
    size, channels = model.description.image_size, model.description.channels
    example = torch.zeros(2, size + 8, size + 16, channels, dtype=torch.uint8)
    sides = {1: Dim("height", min=1, max=MAX_SIDE), 2: Dim("width", min=1, max=MAX_SIDE)}
    network = AnySizeClassifier(model.network, size, model.description.resize).eval()
    return torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch"), **sides},))


def _require(*modules: str) -> None:
    for name in modules:
        try:
            import_module(name)
        except ImportError as error:
            raise SettingError(f"--onnx needs {name}, which is not installed: pip install '.[onnx]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
