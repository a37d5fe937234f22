"""From an image file to the square that the network takes: every room reads its images here.

H W = height and width in pixels, s = side of the square, c = channels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldlva_dist.dataset.image_files import upright
from ldlva_dist.dataset.images import decode, decode_as_stored, shrink_factor
from ldlva_dist.values.settings import Resize


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How an image becomes the network's input; see DataConfig."""

    size: int
    """Side of the square, in pixels."""
    channels: int
    """1 grey, 3 RGB."""
    resize: Resize

    def read(self, data: bytes | memoryview) -> NDArray[np.uint8]:
        """[s, s, c] an encoded image, upright.

        Raises:
            ImageError: for what cannot be decoded, or is too large.
        """
        if self.resize == "reference":
            return resize_as_reference(decode(data, self.channels), self.size)
        stored = decode_as_stored(data, self.channels, self.size)
        # Turned at the end: what a factor leaves over stands at the stored picture's last row and column.
        return upright(_shrink(stored.pixels_HWc, stored.factor, stored.sides, self.size), stored.orientation)

    def fit(self, image_HWc: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[s, s, c] pixels that are decoded in full: what :meth:`read` gives of a file that is no JPEG."""
        if self.resize == "reference":
            return resize_as_reference(image_HWc, self.size)
        return _shrink(image_HWc, 1, image_HWc.shape[:2], self.size)


def resize_as_reference(image_HWc: NDArray, size: int) -> NDArray:
    """[s, s, c] bilinear with half-pixel centres and without anti-aliasing; uint8 in gives rounded uint8 out."""
    height, width, channels = image_HWc.shape
    if height == width == size:
        return image_HWc
    rows_sH, columns_sW = _weights(height, size), _weights(width, size)
    pixels = np.asarray(image_HWc, dtype=np.float32)
    mixed = (rows_sH @ pixels.reshape(height, -1)).reshape(size, width, channels)
    mixed = columns_sW @ mixed
    return np.rint(mixed).astype(np.uint8) if image_HWc.dtype == np.uint8 else mixed


def _shrink(image_HWc: NDArray[np.uint8], done: int, sides: tuple[int, ...], size: int) -> NDArray[np.uint8]:
    """[s, s, c] blocks averaged, then Pillow's bilinear filter, which is anti-aliased where it shrinks.

    Args:
        image_HWc: Pixels, of which each is a block of ``done`` x ``done`` already.
        done: What the decoder has shrunk by.
        sides: Height and width of the picture before that.
        size: Side of the square.
    """
    height, width = sides
    channels = image_HWc.shape[2]
    if height == width == size * done:
        return image_HWc
    picture = Image.fromarray(image_HWc[:, :, 0] if channels == 1 else image_HWc)
    factor = shrink_factor(height, width, size)
    if factor > done:
        picture = picture.reduce(factor // done)
    # Blocks at the end may be cut: the picture ends inside them.
    small = picture.resize((size, size), Image.Resampling.BILINEAR, box=(0, 0, width / factor, height / factor))
    return np.asarray(small).reshape(size, size, channels)


@lru_cache(maxsize=16)  # at 224 pixels one takes up to 9 MB; a miss costs much less than the resize
def _weights(source: int, target: int) -> NDArray[np.float32]:
    """[target, source] rows of the two taps of half-pixel bilinear interpolation; edges repeat."""
    place = (np.arange(target) + 0.5) * (source / target) - 0.5
    low = np.floor(place)
    high_share = place - low
    weights = np.zeros((target, source), dtype=np.float64)
    rows = np.arange(target)
    np.add.at(weights, (rows, np.clip(low, 0, source - 1).astype(int)), 1 - high_share)
    np.add.at(weights, (rows, np.clip(low + 1, 0, source - 1).astype(int)), high_share)
    return weights.astype(np.float32)
