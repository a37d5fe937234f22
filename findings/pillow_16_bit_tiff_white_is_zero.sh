#!/usr/bin/env bash
# Pillow reads a 16-bit TIFF of WhiteIsZero as its negative; one of 8 bits it reads right.
#
# One would guess: PhotometricInterpretation 0 (0 is white) is heeded at every depth that is opened, or the file refused.
# Seen on 2026-11-28 with Pillow 13.0.0: the same picture as TIFF of 8 bits and of 16 bits a pixel, both with
# PhotometricInterpretation 0: the first comes out as it is (a white pixel is 255), the second as its negative (a white pixel
# is 0), with no error or warning. TiffImagePlugin's table has (II, 0, ..., (16,)): ("I;16", "I;16"), where 8 bits have "L;I".
# Why it matters: X-ray, document and infrared cameras write such files; a network is fed negatives in silence.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pillow==13.0.0 >"$work/pip" 2>&1 || { cat "$work/pip"; exit 2; }
"$work/venv/bin/python" - <<'P'
import io
import struct

from PIL import Image


def tiff(bits: int, photometric: int, values: list[int]) -> bytes:
    """One row of grey pixels, not compressed, little-endian."""
    data = struct.pack(f"<{len(values)}{'B' if bits == 8 else 'H'}", *values)
    tags = [(256, len(values)), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    data += bytes(len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


seen = {}
for bits, most in ((8, 255), (16, 65535)):
    for photometric, name in ((1, "BlackIsZero"), (0, "WhiteIsZero")):
        row = [most, most, 0] if photometric else [0, 0, most]  # white, white, black
        picture = Image.open(io.BytesIO(tiff(bits, photometric, row)))
        seen[bits, name] = [picture.getpixel((x, 0)) for x in range(3)]
        print(f"{bits} bits, {name}: white, white, black is read as {seen[bits, name]} ({picture.mode})")
right = {(8, name): [255, 255, 0] for name in ("BlackIsZero", "WhiteIsZero")} | {(16, "BlackIsZero"): [65535, 65535, 0]}
assert all(seen[key] == value for key, value in right.items()), "the files are as they should be"
if seen[16, "WhiteIsZero"] != [0, 0, 65535]:
    raise SystemExit("changed: 16 bits of WhiteIsZero are no negative any more")
P
