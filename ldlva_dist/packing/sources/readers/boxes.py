"""Faces cut out of pictures by the boxes of a table. n = rows, axes: left and width, top and height."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.image_files import MAX_SIDE
from ldlva_dist.dataset.images import decode, encode_image
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.passes.load_images import MAX_IMAGE_BYTES
from ldlva_dist.packing.tables.cells import number_of

BAD_BOX = "the face's box lies outside of the image"
Box = tuple[float, float, float, float]
"""Left, top, width and height."""
AXES = (("left", "right", "width", "center-x"), ("top", "bottom", "height", "center-y"))
EDGES = tuple(edge for axis in AXES for edge in axis)


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Which columns hold a face's box, and how it is cut out."""

    columns: tuple[tuple[str, str], ...]
    """Pairs of EDGES and column; two of each axis."""
    unit: Literal["pixels", "fraction"] = "pixels"
    """Numbers count pixels, or are shares of the picture's width and height."""
    margin: float = 0.0
    """Share of the box's width and height that is added on each side."""

    def of_rows(self, table: pa.Table) -> list[Box]:
        """[n] the box of each row; numbers that are none are infinite or NaN."""
        edges = {edge: np.array([number_of(cell) for cell in table[name].to_pylist()]) for edge, name in self.columns}
        with np.errstate(invalid="ignore"):
            (left, width), (top, height) = (_begin_and_size(edges, axis) for axis in AXES)
        return list(zip(left.tolist(), top.tolist(), width.tolist(), height.tolist(), strict=True))

    def cut_out(
        self, image: bytes | str | None, box: Box, reason: str | None = None
    ) -> tuple[bytes | str | None, str | None]:
        """:func:`cut_face`."""
        return (image, reason) if reason is not None else cut_face(image, box, self.unit, self.margin)


def stated_boxes(words: Sequence[str], unit: Literal["pixels", "fraction"], margin: float) -> Boxes | None:
    """``--box-columns left=x top=y width=w height=h``; None where nothing is said.

    Raises:
        SettingError: unless the words name two edges of each axis.
    """
    pairs = tuple((edge, column) for edge, _, column in (word.partition("=") for word in words))
    named = [edge for edge, _ in pairs]
    each = [sum(edge in axis for edge in named) for axis in AXES]
    if words and (not all(column for _, column in pairs) or len(set(named)) != 4 or each != [2, 2]):
        raise SettingError(
            f"--box-columns must say EDGE=COLUMN for two of {', '.join(AXES[0])} and two of {', '.join(AXES[1])}, "
            f"got {' '.join(words)!r}"
        )
    return Boxes(columns=pairs, unit=unit, margin=margin) if words else None


def cut_face(
    image: bytes | str | None, box: Box, unit: Literal["pixels", "fraction"] = "pixels", margin: float = 0.0
) -> tuple[bytes | str | None, str | None]:
    """A JPEG of quality 95 of the face in the upright picture, or the picture and why it cannot be cut.

    A box that sticks out is cut off. A picture that cannot be read is left to who checks it: it comes without a reason.
    """
    left, top, width, height = box
    if image is None or not all(abs(number) < MAX_SIDE for number in box) or min(width, height) <= 0:
        return image, None if image is None else BAD_BOX
    try:
        data = storage.read_bytes(image, MAX_IMAGE_BYTES) if isinstance(image, str) else image
        pixels = decode(data, 3)
    except DataError:
        return image, None
    across, down = (pixels.shape[1], pixels.shape[0]) if unit == "fraction" else (1, 1)
    x, y = round((left - margin * width) * across), round((top - margin * height) * down)
    w, h = round((1 + 2 * margin) * width * across), round((1 + 2 * margin) * height * down)
    face = pixels[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)]
    return (encode_image(face), None) if face.size else (image, BAD_BOX)


def _begin_and_size(
    edges: Mapping[str, NDArray[np.float64]], axis: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[n] left and width, or top and height, from the two that are known."""
    begin, end, size, middle = (edges.get(edge) for edge in axis)
    for one, other in combinations((begin, end, size, middle), 2):
        if one is None or other is None:
            continue
        if other is end:
            return one, other - one
        if one is begin:
            return one, other if other is size else 2 * (other - one)
        if one is end:
            return (one - other, other) if other is size else (2 * other - one, 2 * (one - other))
        return other - one / 2, one
    raise AssertionError("two edges of each axis are checked to be there")
