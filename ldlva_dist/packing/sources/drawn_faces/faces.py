"""Drawn faces whose true label distributions are known: the embedded demo. n = faces, C = the seven reference classes.

A person has a place in the valence-arousal plane; each class has a prototype there. The true distribution is a softmax
of the squared distances to the prototypes and of a disposition of one's own. The expression is the mixture, by that
distribution, of what each class looks like, so that an ambiguous face looks ambiguous. The given label is drawn from
the distribution; a known share of the training labels is then replaced by another class.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.dataset.images import encode_image
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.sources.drawn_faces.looks import random_looks
from ldlva_dist.packing.sources.drawn_faces.painter import EXPRESSION, MIN_PIXELS, paint
from ldlva_dist.packing.sources.readers.tables import cut
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES, Part, Partition, Rows

CLASSES = len(REFERENCE_CLASSES)
PROTOTYPES = np.array([[0, 0], [0.75, 0.25], [-0.6, -0.45], [0.35, 0.8], [-0.25, 0.8], [-0.8, 0.1], [-0.6, 0.6]])
SHARES = np.array([0.20, 0.20, 0.14, 0.13, 0.10, 0.10, 0.13])
SPREAD, TEMPERATURE, DISPOSITION = 0.20, 0.145, 0.7
RATER_NOISE, CAMERA_NOISE = 0.06, 0.04
PAINT_ROWS = 256

_LOOK_OF_CLASS = np.array(
    [  # curve, open, width, brow height, brow angle, eye open, wrinkle, lip raise, cheek
        [0.05, 0.02, 1.00, 0.00, 0.00, 0.62, 0.00, 0.00, 0.00],
        [0.95, 0.30, 1.25, 0.10, 0.00, 0.52, 0.00, 0.20, 0.90],
        [-0.80, 0.02, 0.85, 0.15, -0.95, 0.42, 0.00, 0.00, 0.00],
        [0.05, 0.95, 0.70, 1.00, -0.10, 1.02, 0.00, 0.00, 0.00],
        [-0.35, 0.40, 1.15, 0.70, -0.90, 1.00, 0.00, 0.25, 0.00],
        [-0.60, 0.12, 0.95, -0.35, 0.30, 0.33, 1.00, 1.00, 0.50],
        [-0.55, 0.06, 0.90, -0.75, 1.05, 0.72, 0.30, 0.00, 0.00],
    ]
)
_VARIATION = np.array([0.12, 0.05, 0.06, 0.14, 0.13, 0.07, 0.10, 0.08, 0.10])


@dataclass(frozen=True, kw_only=True)
class People:
    """Who is drawn, and what is known of them."""

    va: NDArray[np.float32]
    """[n, 2] recorded valence and arousal in [-1, 1]: the true place and a rater's noise."""
    distribution: NDArray[np.float32]
    """[n, C] true label distribution; rows sum to 1."""
    labels: NDArray[np.int64]
    """[n] given labels."""
    flipped: NDArray[np.bool_]
    """[n] whether the given label was replaced."""


def draw_people(n: int, generator: np.random.Generator, flip_share: float) -> People:
    """Draw n people; exactly round(flip_share * n) labels are flipped, uniformly over the other classes."""
    place_n2 = PROTOTYPES[generator.choice(CLASSES, n, p=SHARES)] + generator.normal(0, SPREAD, (n, 2))
    squared_nC = np.square(place_n2[:, None] - PROTOTYPES).sum(axis=2)
    logits_nC = -squared_nC / TEMPERATURE + generator.normal(0, DISPOSITION, (n, CLASSES))
    weights_nC = np.exp(logits_nC - logits_nC.max(axis=1, keepdims=True))
    distribution_nC = weights_nC / weights_nC.sum(axis=1, keepdims=True)
    labels_n = (distribution_nC.cumsum(axis=1) < generator.random((n, 1))).sum(axis=1).clip(0, CLASSES - 1)
    flipped_n = np.zeros(n, dtype=bool)
    flipped_n[generator.permutation(n)[: round(flip_share * n)]] = True
    other_n = (labels_n + generator.integers(1, CLASSES, n)) % CLASSES
    va_n2 = np.clip(place_n2 + generator.normal(0, RATER_NOISE, (n, 2)), -1, 1)
    return People(
        va=va_n2.astype(np.float32),
        distribution=distribution_nC.astype(np.float32),
        labels=np.where(flipped_n, other_n, labels_n),
        flipped=flipped_n,
    )


def draw_faces(distribution_nC: NDArray[np.float32], generator: np.random.Generator, pixels: int) -> NDArray[np.uint8]:
    """[n, pixels, pixels, 3] a face for each true distribution, with the noise of a camera."""
    variation_nE = generator.normal(0, 1, (len(distribution_nC), len(EXPRESSION))) * _VARIATION
    expression_nE = (distribution_nC @ _LOOK_OF_CLASS + variation_nE).astype(np.float32)
    images = paint(expression_nE, random_looks(generator, len(expression_nE)), pixels)
    noise = generator.standard_normal(images.shape, dtype=np.float32) * np.float32(CAMERA_NOISE)
    return np.rint(np.clip(images + noise, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class FacesSource:
    """Drawn faces as a source of rows; the same settings draw the same bytes."""

    train: int
    test: int
    pixels: int = MIN_PIXELS
    flip_share: float = 0.3
    """Share of the training labels to flip; test labels are drawn from the true distribution and left alone."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train < 1 or self.test < 0:
            raise DataError(
                f"the data set is empty: --train must be >= 1 and --test >= 0, got {self.train} {self.test}"
            )
        if self.pixels < MIN_PIXELS:
            raise SettingError(f"--pixels must be >= {MIN_PIXELS}, got {self.pixels}")
        if not 0 <= self.flip_share <= 1:
            raise SettingError(f"--flip-share must be in [0, 1], got {self.flip_share}")

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return {"kind": "faces", "pixels": self.pixels, "flip_share": self.flip_share, "seed": self.seed}

    def partitions(self) -> list[Partition]:
        """Stretches of each part."""
        return [*cut("train", self.train), *cut("test", self.test)]

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Draw a stretch; a face is the same in every stretch, because it is painted with its whole block."""
        train = partition.part == "train"
        number, rows, flip_share = (0, self.train, self.flip_share) if train else (1, self.test, 0.0)
        people = _people(rows, (self.seed, number, 0), flip_share)
        stop = partition.first + partition.rows
        for begin in range(partition.first, stop, PAINT_ROWS):
            generator = np.random.default_rng((self.seed, number, 1, begin))
            yield self._block(partition.part, people, slice(begin, min(begin + PAINT_ROWS, stop)), generator)

    def _block(self, part: Part, people: People, take: slice, generator: np.random.Generator) -> Rows:
        images = draw_faces(people.distribution[take], generator, self.pixels)
        numbers = np.arange(take.start, take.start + len(images))
        return Rows(
            part=part,
            numbers=numbers,
            keys=[f"{part}-{i:07d}" for i in numbers],
            images=[encode_image(image) for image in images],
            labels=[REFERENCE_CLASSES[label] for label in people.labels[take]],
            va=people.va[take],
            truth=people.distribution[take],
            flipped=people.flipped[take],
        )


@lru_cache(maxsize=4)
def _people(n: int, seed: tuple[int, ...], flip_share: float) -> People:
    return draw_people(n, np.random.default_rng(seed), flip_share)
