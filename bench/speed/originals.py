"""Claim: an image that is larger than the network's input costs little more than its smallest sufficient decoding.

Drawn faces as JPEGs of 224, 448 and 1,024 px are brought to 112 px by ``data.resize = "antialias"`` and by
``"reference"``, which decodes in full and was the only way before it; CPU milliseconds an image, in turn, one thread.
Goals: 2.5, 3.3 and 4 times fewer, with the sampling of a camera (4:2:0, quality 90); 4:4:4 at quality 95 is printed.
"""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import simplejpeg
import tyro

from bench.common import report
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.packing.sources.drawn_faces.faces import draw_faces, draw_people

TARGET, CHANNELS = 112, 3
GOALS = {224: 2.5, 448: 3.3, 1024: 4.0}
SAMPLINGS = {"420": 90, "444": 95}
READERS = {resize: Preparation(size=TARGET, channels=CHANNELS, resize=resize) for resize in ("antialias", "reference")}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to decode."""

    faces: int = 8
    rounds: int = 9
    """Of which the median counts."""
    pixels: int = 40_000_000
    """Decoded by each way in a round, about."""


def main(arguments: Arguments) -> None:
    """Measure side by side and print one JSON line."""
    figures, ok = {}, True
    for side, goal in GOALS.items():
        for sampling, quality in SAMPLINGS.items():
            files = draw_files(arguments.faces, side, sampling, quality)
            repeats = max(1, arguments.pixels // (side**2 * len(files)))
            ms = {resize: list[float]() for resize in READERS}
            for _ in range(arguments.rounds):
                for resize in READERS:
                    ms[resize].append(milliseconds(READERS[resize], files, repeats))
            medians = {resize: statistics.median(found) for resize, found in ms.items()}
            ratio = medians["reference"] / medians["antialias"]
            figures[f"{side} px, {sampling}"] = {"ratio": ratio} | medians
            ok &= sampling != "420" or ratio >= goal
    report("originals", ok=ok, **figures)


def milliseconds(preparation: Preparation, files: list[bytes], repeats: int) -> float:
    """CPU milliseconds of an image."""
    began = time.thread_time()
    for _ in range(repeats):
        for file in files:
            preparation.read(file)
    return 1000 * (time.thread_time() - began) / (repeats * len(files))


def draw_files(faces: int, side: int, sampling: str, quality: int) -> list[bytes]:
    """JPEGs of drawn faces."""
    generator = np.random.default_rng(0)
    images = draw_faces(draw_people(faces, generator, 0.0).distribution, generator, side)
    return [
        simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorsubsampling=sampling)
        for image in images
    ]


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
