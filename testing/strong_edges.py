"""Pictures of hard edges, on which ways to resize differ most."""

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def strong_edges(height: int, width: int, *, grey: bool = False, seed: int = 0) -> NDArray[np.uint8]:
    """[height, width, 3] boxes, lines and letters of full contrast: black and white, or of all pure colours."""
    generator = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for kind in range(60):
        x, y = int(generator.integers(0, width)), int(generator.integers(0, height))
        w, h = int(generator.integers(2, max(width // 4, 3))), int(generator.integers(2, max(height // 4, 3)))
        red, green, blue = generator.choice([0, 255], 3).tolist()
        color = (red, red, red) if grey else (red, green, blue)
        if kind % 3 == 0:
            draw.rectangle((x, y, x + w, y + h), fill=color)
        elif kind % 3 == 1:
            draw.line((x, y, 2 * w, 2 * h), fill=color, width=int(generator.integers(1, 5)))
        else:
            draw.text((x, y), "Wxyz@#", fill=color)
    return np.array(picture)


def as_camera_jpeg(image_HWc: NDArray[np.uint8], *, halved_colour: bool = True) -> bytes:
    """A JPEG of quality 90; cameras store the colour at half the resolution."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image_HWc), quality=90, colorsubsampling="420" if halved_colour else "444"
    )
