#!/usr/bin/env bash
# simplejpeg decodes a JPEG whose header it cannot describe.
#
# One would guess: what decode_jpeg decodes, decode_jpeg_header describes, or it raises the documented ValueError.
# Seen on 2026-11-28 with simplejpeg 1.9.0 (jpeglib 1.0.2 writes the file by libjpeg 6b): for a valid JPEG of 4:4:1 sampling
# (luma 1 x 4, chroma 1 x 1) decode_jpeg gives the right pixels, decode_jpeg_header raises KeyError: 6, the number of
# TurboJPEG's TJSAMP_441, for which its table has no name. encode_jpeg knows no '441' either.
# Why it matters: a reader that looks at the size first, as one must with files of strangers, and expects ValueError for
# what cannot be decoded, ends in a traceback on a good picture.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q simplejpeg==1.9.0 jpeglib==1.0.2 numpy==2.4.6 >"$work/pip" 2>&1 || { cat "$work/pip"; exit 2; }
cd "$work"
"$work/venv/bin/python" - <<'P'
import jpeglib
import numpy as np
import simplejpeg

y, x = np.mgrid[:32, :32]
pixels = np.stack([y * 7, x * 7, (x + y) * 4], axis=-1).astype(np.uint8)
picture = jpeglib.from_spatial(pixels)
picture.samp_factor = ((4, 1), (1, 1), (1, 1))
picture.write_spatial("441.jpg")
data = open("441.jpg", "rb").read()
found = simplejpeg.decode_jpeg(data)
print("decode_jpeg:", found.shape, "at most", int(np.abs(found.astype(int) - pixels).max()), "of 255 off")
assert found.shape == (32, 32, 3) and np.abs(found.astype(int) - pixels).max() < 16
try:
    print("decode_jpeg_header:", simplejpeg.decode_jpeg_header(data))
except KeyError as error:
    print("decode_jpeg_header: KeyError:", error)
else:
    raise SystemExit("changed: the header is described")
P
