"""Image files of strangers: which formats are opened, which pixels are read, and how they are turned upright.

The only room that opens an image file with Pillow. Its other plugins are not for bytes of strangers: one of them starts
Ghostscript.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import TiffImageFile

from ldlva_dist.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
MAX_PIXELS = 64_000_000
MAX_SIDE = 10_000
"""Largest width and height; photographs within the pixels above stay below. A resize takes memory by the side, and a
file of 2 kB can claim any."""
DARKEST = 16
"""Least brightest value, of 255: a picture of 16 bits a channel with less would be black, for its 8 or 12 bits were
written as 16."""
EXIF, EXIF_SHORT = b"Exif\0\0", 3
WHITE_IS_ZERO, UNSIGNED = 0, frozenset({1, 4})
"""Values of TIFF's tags; 4 is numbers of no stated kind."""
BAD_IMAGE = "the image cannot be decoded"
HUGE_IMAGE = f"the image has more than {MAX_PIXELS // 10**6} million pixels, or {MAX_SIDE} a side"
DARK_IMAGE = "the image has 16 bits a channel, of which 12 or fewer are used; it would be black: save it with 8 bits"
ODD_NUMBERS = "the image's pixels are signed, 32-bit or float numbers of no known range: save it with 8 bits"
UNKNOWN_IMAGE = f"it is none of {', '.join(FORMATS)}, or of a kind that is not read"
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", module=r"PIL\.")  # thousands of files would each print some
_RAISED = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, SyntaxError),
    *(EOFError, MemoryError, struct.error, zlib.error),
)
"""Errors that Pillow's readers raise for damaged files: they run over bytes that nobody has checked before."""
_DEEP = re.compile(r"(?!BGR;).*;16[BLNR]?")
"""Pillow's names of stored pixels of 16 bits a channel; BGR;16 has five or six."""


class ImageError(DataError):
    """An image that is not read; ``reason`` is one sentence for all images that share it."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(f"{reason}: {detail}" if str(detail) else reason)
        self.reason = reason


def check_size(width: int, height: int) -> None:
    """ImageError for more pixels than are decoded."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(HUGE_IMAGE, f"{width} x {height}")


@contextmanager
def open_image(data: bytes | memoryview, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """A picture whose header was read; what Pillow raises for it, here or in the block, is an ImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            check_size(picture.width, picture.height)
            yield picture
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(HUGE_IMAGE) from error
    except UnidentifiedImageError as error:
        raise ImageError(BAD_IMAGE, UNKNOWN_IMAGE) from error
    except _RAISED as error:
        raise ImageError(BAD_IMAGE, error) from error


def read_pixels(data: bytes | memoryview, channels: int) -> NDArray[np.uint8]:
    """[H, W, channels] the first picture of a file, upright; transparency is dropped, colours under it stay.

    Of 16 bits a channel the upper eight are read.
    """
    with open_image(data) as picture:
        is_deep, is_negative = _is_deep(picture), _is_negative(picture)
        pixels = np.asarray(_eight_bits(picture).convert("L" if channels == 1 else "RGB"))
        if is_deep and pixels.max() <= DARKEST:
            raise ImageError(DARK_IMAGE)
        pixels = pixels.reshape(*pixels.shape[:2], channels)
        # TIFFs have none here: Pillow turns them itself.
        return upright(~pixels if is_negative else pixels, exif_orientation(picture.info.get("exif", b"")))


def exif_orientation(exif: bytes | memoryview) -> int:
    """How EXIF says that pixels lie: 1 (upright) to 8; 1 where it does not say or is damaged, as viewers take it.

    Read here, because Pillow takes a third of the time in which a JPEG of 112 x 112 pixels is decoded.
    """
    exif = exif[len(EXIF) :] if exif[: len(EXIF)] == EXIF else exif
    order = {b"MM": ">", b"II": "<"}.get(bytes(exif[:2]))
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == Base.Orientation:
                return value if kind == EXIF_SHORT and value in range(1, 9) else 1
    except struct.error:
        pass
    return 1


def upright(image_HWc: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels turned as EXIF's orientation asks."""
    if orientation == 1:
        return image_HWc
    if orientation >= 5:
        image_HWc = image_HWc.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(image_HWc[rows, columns])


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A picture whose pixels have at most 8 bits a channel."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    kinds = picture.tag_v2.get(Base.SampleFormat, ()) if isinstance(picture, TiffImageFile) else ()
    if picture.mode in ("I", "F") or not UNSIGNED.issuperset(kinds):
        raise ImageError(ODD_NUMBERS)
    return picture


def _is_negative(picture: Image.Image) -> bool:
    """Whether 0 is white, which Pillow heeds in TIFFs of at most 8 bits only."""
    if not isinstance(picture, TiffImageFile) or not picture.mode.startswith("I;16"):
        return False
    return picture.tag_v2.get(Base.PhotometricInterpretation) == WHITE_IS_ZERO


def _is_deep(picture: Image.Image) -> bool:
    """Whether a picture that is not loaded yet has 16 bits a channel, most of which Pillow gives as 8."""
    if picture.mode.startswith("I"):
        return True
    told = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in getattr(picture, "tile", ())]
    if picture.format == "PPM":
        return any(isinstance(word, int) and word > 255 for args in told for word in args)
    return any(isinstance(word, str) and _DEEP.fullmatch(word) for args in told for word in args)
