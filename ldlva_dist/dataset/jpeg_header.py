"""The segments of a JPEG's header: where EXIF stands, and what decoders complain of though every pixel is there."""

import struct
from collections.abc import Iterator

from ldlva_dist.dataset.image_files import EXIF

SOI = b"\xff\xd8"
_APP0, _APP1, _APP2, _APP14, _SOS, _FILL = 0xFFE0, 0xFFE1, 0xFFE2, 0xFFEE, 0xFFDA, 0xFFFF
_SEQUENTIAL, _COMMENT = (0xFFC0, 0xFFC1), 0xFE
_HEAD = struct.Struct(">HH")
HARMLESS = (
    "Invalid SOS parameters for sequential JPEG",  # as some telephones write it
    "Unknown Adobe color transform code",
    "Warning: unknown JFIF revision number",
    "Corrupt JPEG data: bad ICC marker",
)
"""How libjpeg's complaints of such a header begin. It tells its first complaint only, so damage may stand behind it."""


def exif_of(jpeg: bytes | memoryview) -> bytes | memoryview:
    """What the segment of EXIF holds, if there is one: 2 % of the time to decode 112 x 112 pixels."""
    place = len(SOI)
    try:
        while True:
            marker, size = _HEAD.unpack_from(jpeg, place)
            if marker == _SOS:
                return b""
            if marker == _APP1 and jpeg[place + 4 : place + 4 + len(EXIF)] == EXIF:
                return jpeg[place + 4 : place + 2 + size]
            place += 1 if marker == _FILL else 2 + size
    except struct.error:
        return b""


def without_oddities(jpeg: bytes | memoryview) -> bytes:
    """The same picture with the header that libjpeg takes an odd one for, so that it complains of damage only."""
    even, is_sequential = bytearray(jpeg), False
    for marker, begin in _segments(jpeg):
        is_sequential |= marker in _SEQUENTIAL
        if marker == _APP0 and even[begin : begin + 5] == b"JFIF\0":
            even[begin + 5 : begin + 6] = b"\x01"
        elif marker == _APP2:
            even[begin - 3] = _COMMENT  # a colour profile; none is used
        elif marker == _APP14 and even[begin : begin + 5] == b"Adobe" and even[begin + 11 : begin + 12] > b"\x02":
            even[begin + 11] = 1
        elif marker == _SOS and is_sequential:
            spectrum = begin + 1 + 2 * even[begin]
            even[spectrum : spectrum + 3] = b"\x00\x3f\x00"
    return bytes(even)


def _segments(jpeg: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Marker of each segment up to the first scan's, and where its content begins."""
    place, marker = len(SOI), 0
    while marker != _SOS and place + _HEAD.size < len(jpeg):
        marker, size = _HEAD.unpack_from(jpeg, place)
        if marker != _FILL:
            yield marker, place + _HEAD.size
        place += 1 if marker == _FILL else 2 + size
