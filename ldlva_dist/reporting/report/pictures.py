"""Small pictures of faces, as many as fit: WebP in base64, one line each. n = faces asked for."""

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, ImageOps

from ldlva_dist.dataset.images import decode
from ldlva_dist.errors import DataError

FACE = (88, 60)
"""Side in pixels, and WebP's quality."""
NEIGHBOR = (44, 45)
AT_ONCE = 512
THREADS = 8

ReadImage = Callable[[int], bytes | memoryview]
"""The stored file of a sample; a DataError where it is damaged."""


class Pictures:
    """Encoded pictures, up to a number of characters."""

    def __init__(self, read: ReadImage, budget: int) -> None:
        """Read faces through ``read``; ``budget`` is what all of them together may take, in characters."""
        self._read, self._left = read, budget
        self.lines: list[str] = []
        self.damaged: dict[int, str] = {}
        """Samples that have no picture, and why: a run may have been trained without them (data.on_bad_data)."""

    def add(self, ids: Sequence[int], form: tuple[int, int]) -> dict[int, int]:
        """Encode faces in their order for as long as they fit; the line of each that does and is not damaged."""
        lines: dict[int, int] = {}
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for begin in range(0, len(ids), AT_ONCE):
                part = ids[begin : begin + AT_ONCE]
                for sample, text in zip(part, pool.map(lambda sample: self._picture(sample, form), part), strict=True):
                    if isinstance(text, DataError):
                        self.damaged[sample] = str(text)
                        continue
                    if len(text) + 1 > self._left:
                        return lines
                    self._left -= len(text) + 1
                    lines[sample] = len(self.lines)
                    self.lines.append(text)
        return lines

    def _picture(self, sample: int, form: tuple[int, int]) -> str | DataError:
        try:
            return _encode(self._read(sample), form)
        except DataError as error:
            return error


def _encode(data: bytes | memoryview, form: tuple[int, int]) -> str:
    side, quality = form
    buffer = io.BytesIO()
    whole = Image.fromarray(decode(data, 3, min_side=2 * side))
    ImageOps.fit(whole, (side, side), Image.Resampling.BICUBIC).save(buffer, "WEBP", quality=quality, method=2)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
