"""Small pictures of faces, as many as fit: WebP in base64, one line each. n = faces asked for."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, ImageOps

from ldlva_dist.errors import DataError

FACE = (88, 60)
"""Side in pixels, and WebP's quality."""
NEIGHBOR = (44, 45)
AT_ONCE = 512
THREADS = 4
MAX_PIXELS = 64_000_000

ReadImages = Callable[[Sequence[int]], Iterable[bytes | memoryview]]
"""The stored files of some samples, in the order they are asked for."""


class Pictures:
    """Encoded pictures, up to a number of characters."""

    def __init__(self, read: ReadImages, budget: int) -> None:
        """Read faces through ``read``; ``budget`` is what all of them together may take, in characters."""
        self._read, self._left = read, budget
        self.lines: list[str] = []

    def add(self, ids: Sequence[int], form: tuple[int, int]) -> dict[int, int]:
        """Encode faces in their order for as long as they fit; the line of each that does."""
        lines: dict[int, int] = {}
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for begin in range(0, len(ids), AT_ONCE):
                part = ids[begin : begin + AT_ONCE]
                for sample, text in zip(
                    part, pool.map(lambda data: _encode(data, form), self._read(part)), strict=True
                ):
                    if len(text) + 1 > self._left:
                        return lines
                    self._left -= len(text) + 1
                    lines[sample] = len(self.lines)
                    self.lines.append(text)
        return lines


def _encode(data: bytes | memoryview, form: tuple[int, int]) -> str:
    side, quality = form
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"an image has {picture.width} x {picture.height} pixels, at most 64 million are read")
            picture.draft("RGB", (2 * side, 2 * side))  # a JPEG is decoded at a fraction of its size
            small = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
        small.save(buffer, "WEBP", quality=quality, method=2)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"an image cannot be decoded: {error}") from error
    return base64.b64encode(buffer.getvalue()).decode("ascii")
