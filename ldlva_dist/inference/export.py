"""The folder that a trained network is taken away in: weights, ``model.json``, ``MODEL.md``, and graphs on request."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import decode
from ldlva_dist.dataset.manifest import SPLITS
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.inference.description import FILE, Description
from ldlva_dist.inference.face_model import WEIGHTS, Portable
from ldlva_dist.inference.graphs import to_onnx, to_pt2
from ldlva_dist.inference.inputs import DatasetInputs

CARD, ONNX, PT2 = "MODEL.md", "model.onnx", "model.pt2"
CHECKED = 16
"""Images of each kind that a graph is checked on."""


def export(model: Portable, output: str, graphs: Sequence[str], images: Sequence[NDArray[np.uint8]]) -> list[str]:
    """Write the folder; ``model.json`` comes last, and nothing is written unless the graphs passed their check.

    Args:
        model: The network.
        output: Folder or s3:// prefix; must not exist.
        graphs: ``onnx``, ``pt2``, both or none.
        images: [H, W, c] real ones that the graphs are checked on, beside random ones.

    Returns:
        Names of the files.

    Raises:
        SettingError: for an output that exists, or a graph whose libraries are not installed.
        DataError: for a graph that does not give what the network gives.
    """
    if storage.list_folder(output):
        raise SettingError(f"--output must not exist, got {output!r}")
    network, checked = model.build(), [*images, *random_images(model.description)]
    files = {WEIGHTS: model.weights}
    if "onnx" in graphs:
        files[ONNX] = to_onnx(network, checked)
    if "pt2" in graphs:
        files[PT2] = to_pt2(network, checked)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    description = replace(model.description, files=hashes)
    files[CARD] = card(description).encode()
    files[FILE] = description.to_json().encode()
    for name, data in files.items():
        storage.write_bytes(storage.join(output, name), data)
    return list(files)


def random_images(description: Description) -> list[NDArray[np.uint8]]:
    """Noise, of the network's size and of others."""
    generator, size, channels = np.random.default_rng(0), description.image_size, description.channels
    shapes = [(size, size)] * CHECKED + [(2 * size, 2 * size), (size + 13, size // 2 + 7)]
    return [generator.integers(0, 256, (*shape, channels), dtype=np.uint8) for shape in shapes]


def real_images(dataset: Dataset, channels: int) -> list[NDArray[np.uint8]]:
    """The first images of a data set's last split that has some."""
    split = next(split for split in reversed(SPLITS) if dataset.info.splits[split].rows)
    inputs = DatasetInputs(dataset=dataset, split=split)
    found: list[NDArray[np.uint8]] = []
    for block in inputs.blocks(0, min(CHECKED, inputs.num_rows)):
        for image in block.images:
            with suppress(DataError):  # a damaged one says nothing of a graph
                found += [] if isinstance(image, DataError) else [decode(image, channels)]
    return found


def card(description: Description) -> str:
    """``MODEL.md``: what a person must know before using the network."""
    environment = Environment(
        loader=PackageLoader("ldlva_dist.inference"),
        autoescape=False,  # Markdown; what comes from elsewhere passes through ``cell``
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["figure"] = lambda value: "not known" if value is None else f"{value:.3f}"
    try:
        return environment.get_template("MODEL.md.j2").render(model=description, files=description.files)
    except (UndefinedError, TypeError, ValueError) as error:
        raise DataError(f"what is said of {description.name!r}, or of its evaluation, is damaged: {error}") from error


def _cell(value: object) -> str:
    """Text of a user's on one line, without marks of Markdown or HTML."""
    return "".join(c for c in str(value) if c.isprintable() and c not in "|`<>[]*").strip()
