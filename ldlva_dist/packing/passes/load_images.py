"""The images of some rows as they will be packed, or why they cannot be. n = rows."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ldlva_dist import storage
from ldlva_dist.dataset.image_files import ImageError
from ldlva_dist.dataset.images import decode, encode_square
from ldlva_dist.errors import DataError

NO_IMAGE = "the image is missing"
HUGE_FILE = "the image file is larger than 64 MB"
MAX_IMAGE_BYTES = 64 << 20
READ_THREADS = 8


def load_images(
    images: Sequence[bytes | str | None], size: int | None, pool: ThreadPoolExecutor, *, check: bool
) -> Iterator[bytes | DataError]:
    """[n] the bytes to pack: the user's own, or a JPEG of ``size`` x ``size`` where another size is asked for.

    Files are read side by side. An image that is missing comes as the error that says so, and, with ``check``, one that
    cannot be decoded.
    """
    for data in _read_all(images, pool):
        try:
            if isinstance(data, bytes) and size is not None:
                yield _square(data, size)
                continue
            if isinstance(data, bytes) and check:
                decode(data, 3)
        except ImageError as error:
            yield DataError(error.reason)
        else:
            yield data


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


def _square(data: bytes, size: int) -> bytes:
    pixels = decode(data, 3)
    if pixels.shape[:2] == (size, size):
        return data
    grey = (pixels == pixels[:, :, :1]).all()
    return encode_square(pixels[:, :, :1] if grey else pixels, size)
