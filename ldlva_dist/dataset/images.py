"""Images: decode, encode, augment. b = rows, H W = height and width in pixels, c = channels (1 grey or 3 RGB)."""

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from ldlva_dist.dataset.image_files import BAD_IMAGE, ImageError, check_size, exif_orientation, read_pixels, upright
from ldlva_dist.dataset.jpeg_header import HARMLESS, SOI, exif_of, without_oddities

_UNKNOWN_SAMPLING = "tjDecompressHeader3(): Could not determine subsampling"
_ERASE_AREA = (0.02, 0.3)
_ERASE_ASPECT = (0.3, 3.33)


class StoredPixels(NamedTuple):
    """A decoded image that is not turned upright yet."""

    pixels_HWc: NDArray[np.uint8]
    factor: int
    """Side of the block of pixels that one of them stands for: 1, 2, 4 or 8."""
    sides: tuple[int, int]
    """Height and width of the whole image."""
    orientation: int
    """Orientation that EXIF gives, 1 to 8."""


def decode(data: bytes | memoryview, channels: int, min_side: int = 0) -> NDArray[np.uint8]:
    """[H, W, channels] pixels of an encoded image, upright; see :func:`decode_as_stored`."""
    stored = decode_as_stored(data, channels, min_side)
    return upright(stored.pixels_HWc, stored.orientation)


def decode_as_stored(data: bytes | memoryview, channels: int, min_side: int = 0) -> StoredPixels:
    """Pixels of an encoded image.

    Args:
        data: The file: a JPEG, or another of :data:`ldlva_dist.dataset.image_files.FORMATS`.
        channels: 1 grey or 3 RGB.
        min_side: A JPEG of larger sides comes at a half, a quarter or an eighth of them, never below this.

    Raises:
        ImageError: for what cannot be decoded, or is too large.
    """
    if bytes(data[: len(SOI)]) != SOI:
        return _read_whole(data, channels)
    try:
        height, width = map(int, simplejpeg.decode_jpeg_header(data)[:2])
        check_size(width, height)
        color, factor = "GRAY" if channels == 1 else "RGB", shrink_factor(height, width, min_side)
        # Not its own choice: three, five, six and seven eighths are slow, and no whole blocks of pixels.
        rows, columns = (-(-height // factor), -(-width // factor)) if factor > 1 else (0, 0)
        pixels = simplejpeg.decode_jpeg(data, colorspace=color, min_height=rows, min_width=columns)
    except KeyError:  # it has no name for 4:4:1
        return _read_whole(data, channels)
    except ValueError as error:
        # Its word on damage is final: Pillow, asked for what it does not know, fills holes with grey.
        if str(error).startswith(_UNKNOWN_SAMPLING):
            return _read_whole(data, channels)
        if str(error).startswith(HARMLESS) and (even := without_oddities(data)) != data:
            return decode_as_stored(even, channels, min_side)
        raise ImageError(BAD_IMAGE, error) from error
    exif = exif_of(data)
    return StoredPixels(pixels, factor, (height, width), exif_orientation(exif) if exif else 1)


def shrink_factor(height: int, width: int, min_side: int) -> int:
    """The largest of 1, 2, 4 and 8 by which an image may be divided so that both sides cover ``min_side``."""
    sides = min(height, width)
    return next((factor for factor in (8, 4, 2) if 0 < min_side <= -(-sides // factor)), 1)


def _read_whole(data: bytes | memoryview, channels: int) -> StoredPixels:
    pixels = read_pixels(data, channels)
    return StoredPixels(pixels, 1, (pixels.shape[0], pixels.shape[1]), 1)


def encode_square(image_HWc: NDArray[np.uint8], size: int) -> bytes:
    """A JPEG of ``size`` x ``size`` pixels, shrunk with anti-aliasing."""
    channels = image_HWc.shape[2]
    picture = Image.fromarray(image_HWc[:, :, 0] if channels == 1 else image_HWc)
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0))
    return encode_image(pixels.reshape(size, size, channels))


def encode_image(image_HWc: NDArray[np.uint8]) -> bytes:
    """A JPEG of quality 95."""
    color = "GRAY" if image_HWc.shape[2] == 1 else "RGB"
    subsampling = "Gray" if color == "GRAY" else "444"
    pixels = np.ascontiguousarray(image_HWc)
    return simplejpeg.encode_jpeg(pixels, quality=95, colorspace=color, colorsubsampling=subsampling)


def augment(  # noqa: PLR0913 - what identifies a draw, and the three settings of it
    images: Iterable[NDArray[np.uint8]],
    *,
    seed: int,
    epochs_b: NDArray[np.int64],
    ids_b: NDArray[np.int64],
    pad: int,
    flip: bool,
    erase_probability: float,
) -> NDArray[np.uint8]:
    """Varied copies; each is a pure function of its image and (seed, epoch, id), whatever batch it is in.

    Args:
        images: b times [H, W, c] pixels, all of one shape; taken one at a time, so that they may be decoded on the way.
        seed: Of the run, >= 0.
        epochs_b: Epoch of each row, from 0.
        ids_b: Sample id of each row.
        pad: Pixels of zero padding before the random crop back to the same size; 0 is off.
        flip: Mirror every second image.
        erase_probability: Share of images that get a rectangle of noise U[0, 255], of area U[.02, .3] of the image
            and aspect U[.3, 3.33].

    Returns:
        [b, H, W, c] new pixels.
    """
    u_b8 = _uniform(seed, epochs_b, ids_b, draws=8)
    mirrored_b = (u_b8[:, 0] < 0.5) & flip
    shift_b2 = (u_b8[:, 1:3] * (2 * pad + 1)).astype(np.int64) - pad
    erased_b = u_b8[:, 3] < erase_probability
    images = iter(images)
    first = next(images)
    height, width, channels = first.shape
    out = np.empty((len(ids_b), height, width, channels), dtype=np.uint8)
    draws = zip(chain([first], images), mirrored_b.tolist(), shift_b2.tolist(), strict=True)
    for row, (image, mirrored, (dy, dx)) in enumerate(draws):
        if mirrored:
            for c in range(channels):  # three strided copies cost a third of one copy of reversed pixels
                _crop(image[:, ::-1, c], out[row, :, :, c], dy, dx)
        else:
            _crop(image, out[row], dy, dx)
    boxes_b4 = _erase_boxes(u_b8[:, 4:], height, width)
    for row in np.flatnonzero(erased_b).tolist():
        y, x, h, w = boxes_b4[row].tolist()
        noise = np.random.default_rng((seed, int(epochs_b[row]), int(ids_b[row])))
        out[row, y : y + h, x : x + w] = noise.integers(0, 256, (h, w, channels), dtype=np.uint8)
    return out


def _crop(image_HW: NDArray[np.uint8], out_HW: NDArray[np.uint8], dy: int, dx: int) -> None:
    """out[y, x] = image[y + dy, x + dx], zero outside the image; further axes ride along."""
    height, width = image_HW.shape[:2]
    rows, columns = slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0))
    out_HW[rows, columns] = image_HW[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    out_HW[: rows.start] = 0
    out_HW[rows.stop :] = 0
    out_HW[:, : columns.start] = 0
    out_HW[:, columns.stop :] = 0


def _erase_boxes(u_b4: NDArray[np.float64], height: int, width: int) -> NDArray[np.int64]:
    """[b, 4] y, x, height and width; area and aspect are such that the box always fits."""
    area_b = (_ERASE_AREA[0] + u_b4[:, 0] * (_ERASE_AREA[1] - _ERASE_AREA[0])) * height * width
    aspect_b = _ERASE_ASPECT[0] + u_b4[:, 1] * (_ERASE_ASPECT[1] - _ERASE_ASPECT[0])
    h_b = np.clip(np.rint(np.sqrt(area_b * aspect_b)), 1, height)
    w_b = np.clip(np.rint(np.sqrt(area_b / aspect_b)), 1, width)
    y_b, x_b = np.floor(u_b4[:, 2] * (height - h_b + 1)), np.floor(u_b4[:, 3] * (width - w_b + 1))
    return np.stack([y_b, x_b, h_b, w_b], axis=1).astype(np.int64)


def _uniform(seed: int, epochs_b: NDArray[np.int64], ids_b: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """[b, draws] numbers in [0, 1) by a counter hash of (seed, epoch, id, draw)."""
    state_b = _mix(np.asarray([seed], dtype=np.int64).astype(np.uint64))
    state_b = _mix(state_b ^ np.asarray(epochs_b, dtype=np.int64).astype(np.uint64))
    state_b = _mix(state_b ^ np.asarray(ids_b, dtype=np.int64).astype(np.uint64))
    bits_bd = _mix(state_b[:, None] + np.arange(1, draws + 1, dtype=np.uint64))
    return (bits_bd >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One round of splitmix64; arrays wrap around modulo 2^64."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
