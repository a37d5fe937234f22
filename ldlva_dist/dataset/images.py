"""Images: decode, resize, augment. b = rows, H W = height and width in pixels, c = channels (1 grey or 3 RGB)."""

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from ldlva_dist.dataset.image_files import BAD_IMAGE, ImageError, check_size, exif_orientation, read_pixels, upright
from ldlva_dist.dataset.jpeg_header import HARMLESS, SOI, exif_of, without_oddities

_UNKNOWN_SAMPLING = "tjDecompressHeader3(): Could not determine subsampling"
_ERASE_AREA = (0.02, 0.3)
_ERASE_ASPECT = (0.3, 3.33)


def decode(data: bytes | memoryview, channels: int, min_side: int = 0) -> NDArray[np.uint8]:
    """[H, W, channels] pixels of an encoded image, upright.

    Args:
        data: The file: a JPEG, or another of :data:`ldlva_dist.dataset.image_files.FORMATS`.
        channels: 1 grey or 3 RGB.
        min_side: A JPEG of larger sides may come at a half, a quarter or an eighth of them, never below this.

    Raises:
        ImageError: for what cannot be decoded, or is too large.
    """
    if bytes(data[: len(SOI)]) != SOI:
        return read_pixels(data, channels)
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        check_size(int(width), int(height))
        color = "GRAY" if channels == 1 else "RGB"
        pixels = simplejpeg.decode_jpeg(data, colorspace=color, min_height=min_side, min_width=min_side)
    except KeyError:  # it has no name for 4:4:1
        return read_pixels(data, channels)
    except ValueError as error:
        # Its word on damage is final: Pillow, asked for what it does not know, fills holes with grey.
        if str(error).startswith(_UNKNOWN_SAMPLING):
            return read_pixels(data, channels)
        if str(error).startswith(HARMLESS) and (even := without_oddities(data)) != data:
            return decode(even, channels, min_side)
        raise ImageError(BAD_IMAGE, error) from error
    return upright(pixels, exif_orientation(exif)) if (exif := exif_of(data)) else pixels


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


def resize(image_HWc: NDArray, size: int) -> NDArray:
    """[size, size, c] bilinear with half-pixel centres and without anti-aliasing; uint8 in gives rounded uint8 out."""
    height, width, channels = image_HWc.shape
    if height == width == size:
        return image_HWc
    rows_sH, columns_sW = _weights(height, size), _weights(width, size)
    pixels = np.asarray(image_HWc, dtype=np.float32)
    mixed = (rows_sH @ pixels.reshape(height, -1)).reshape(size, width, channels)
    mixed = columns_sW @ mixed
    return np.rint(mixed).astype(np.uint8) if image_HWc.dtype == np.uint8 else mixed


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
