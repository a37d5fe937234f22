"""The images of some rows as they will be packed, or why they cannot be. n = rows."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from isal.isal_zlib import adler32, crc32
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.image_files import ImageError
from ldlva_dist.dataset.images import decode, encode_square
from ldlva_dist.errors import DataError

NO_IMAGE = "the image is missing"
HUGE_FILE = "the image file is larger than 64 MB"
MAX_IMAGE_BYTES = 64 << 20
READ_THREADS = 8


def load_images(
    images: Sequence[bytes | str | None], size: int | None, pool: ThreadPoolExecutor
) -> Iterator[bytes | DataError]:
    """[n] the bytes to pack: the user's own, or a JPEG of ``size`` x ``size`` where another size is asked for.

    Files are read side by side. An image that is missing comes as the error that says so; only with a ``size`` does one
    that cannot be decoded.
    """
    for data in _read_all(images, pool):
        try:
            yield _square(data, decode(data, 3), size) if isinstance(data, bytes) and size is not None else data
        except ImageError as error:
            yield DataError(error.reason)


def check_images(
    images: Sequence[bytes | str | None], size: int | None, pool: ThreadPoolExecutor, *, are_made: bool = False
) -> Iterator[tuple[bytes, int] | DataError]:
    """[n] the same, each with a checksum of its pixels; one that cannot be decoded comes as the error that says why.

    Args:
        images: Bytes or uris of files.
        size: Side of the images to pack; None packs the user's own.
        pool: Threads that read files.
        are_made: Whether the bytes are what this program encoded: they are not decoded again, and their checksum stands
            for that of the pixels.
    """
    for data in _read_all(images, pool):
        try:
            if not isinstance(data, bytes):
                yield data
            elif are_made and size is None:
                yield data, _checksum(data)
            else:
                pixels = decode(data, 3)
                packed = data if size is None else _square(data, pixels, size)
                yield packed, _checksum(np.ascontiguousarray(pixels), pixels.shape[1])
        except ImageError as error:
            yield DataError(error.reason)


def _checksum(data: bytes | NDArray[np.uint8], width: int = 0) -> int:
    """64 bits; two sums that are fast, as one of 32 bits would find some twenty copies by chance in 450,000 images."""
    return crc32(data, width) << 32 | adler32(data)


def _read_all(images: Sequence[bytes | str | None], pool: ThreadPoolExecutor) -> Iterable[bytes | DataError]:
    if not any(isinstance(image, str) for image in images):
        return map(_read, images)
    return pool.map(_read, images)


def _read(image: bytes | str | None) -> bytes | DataError:
    if isinstance(image, str):
        try:
            image = storage.read_bytes(image, MAX_IMAGE_BYTES + 1)
        except DataError:
            return DataError(NO_IMAGE)
    if not image:
        return DataError(NO_IMAGE)
    return image if len(image) <= MAX_IMAGE_BYTES else DataError(HUGE_FILE)


def _square(data: bytes, pixels: NDArray[np.uint8], size: int) -> bytes:
    if pixels.shape[:2] == (size, size):
        return data
    grey = (pixels == pixels[:, :, :1]).all()
    return encode_square(pixels[:, :, :1] if grey else pixels, size)
