#!/usr/bin/env bash
# One would guess: halving a picture of bytes by the mean of 2 x 2 pixels rounds once, so that its brightness stays within
# .125 of a level (halves go up); torch.nn.functional.interpolate on uint8 is its float result, rounded.
# torch 2.13.0 (CPU) and pillow 13.0.0, seen on 2026-11-30: both work in two passes with bytes between them, and each pass
# rounds its halves up: + .5 of a level for each halving, on any picture. Six halvings in a row, as for thumbnails, add
# 3 levels of 255. Pillow's Image.reduce(2) sums first and adds .125; the filters that weigh four pixels a side
# (antialias=True, BILINEAR) add .12.
# Why it matters: means and BatchNorm statistics of networks that are fed halved bytes are off by half a level from those
# that are fed floats, and two ways to halve a picture in one library are not the same picture.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0 pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P' | tee "$folder/seen"
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

torch.manual_seed(0)
picture = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)


def halved(pixels, antialias):
    return F.interpolate(pixels, scale_factor=0.5, mode="bilinear", antialias=antialias)


for antialias in (False, True):
    as_bytes, exact, brighter = picture, picture.double(), []
    for _ in range(6):
        as_bytes, exact = halved(as_bytes, antialias), halved(exact, antialias)
        brighter.append(round((as_bytes.double() - exact).mean().item(), 1))
    print(f"torch, antialias={antialias}: brighter after 1 to 6 halvings by", brighter)
image = Image.fromarray(picture[0].permute(1, 2, 0).numpy().copy())
exact = F.avg_pool2d(picture.double(), 2)[0]
for name, small in {"reduce(2)": image.reduce(2), "resize by BOX": image.resize((128, 128), Image.Resampling.BOX)}.items():
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).double()
    print(f"pillow, {name}: brighter by {(pixels - exact).mean().item():.2f}, at most {(pixels - exact).abs().max().item()}")
P
cat >"$folder/expected" <<'X'
torch, antialias=False: brighter after 1 to 6 halvings by [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
torch, antialias=True: brighter after 1 to 6 halvings by [0.1, 0.2, 0.4, 0.5, 0.5, 0.5]
pillow, reduce(2): brighter by 0.13, at most 0.5
pillow, resize by BOX: brighter by 0.50, at most 1.0
X
diff "$folder/expected" "$folder/seen" && echo "as on 2026-11-30"
