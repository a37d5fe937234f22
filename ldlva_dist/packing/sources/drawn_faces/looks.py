"""Everything about a drawn person but the expression. n = people, 3 = RGB."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Everything about n people but their expression; numbers are about normal unless said otherwise."""

    skin: Array
    """[n, 3] in 0..1."""
    hair: Array
    """[n, 3] in 0..1."""
    shirt: Array
    """[n, 3] in 0..1."""
    wall: Array
    """[n, 3] in 0..1."""
    iris: Array
    """[n, 3] in 0..1."""
    build: Array
    """[n, 8] face width, jaw, eye distance, eye size, nose length, mouth height, brow thickness, hair length."""
    pose: Array
    """[n, 5] shift x, shift y, tilt, turn, size."""
    light: Array
    """[n, 3] from the side, from above, brightness."""


def random_looks(generator: np.random.Generator, n: int) -> Looks:
    """People of all skins, in any light, turned a little."""
    tone = generator.beta(1.3, 1.3, (n, 1))
    skin = (1 - tone) * [0.97, 0.80, 0.69] + tone * [0.42, 0.27, 0.19] + generator.normal(0, 0.02, (n, 3))
    hairs = np.array(
        [[0.08, 0.06, 0.05], [0.25, 0.15, 0.09], [0.45, 0.27, 0.13], [0.78, 0.62, 0.36], [0.55, 0.54, 0.53]]
    )
    irises = np.array([[0.25, 0.14, 0.07], [0.20, 0.32, 0.45], [0.25, 0.36, 0.20]])
    colors = {
        "skin": skin,
        "hair": hairs[generator.choice(5, n, p=[0.35, 0.3, 0.15, 0.1, 0.1])] + generator.normal(0, 0.02, (n, 3)),
        "shirt": generator.uniform(0.1, 0.9, (n, 3)),
        "wall": generator.uniform(0.25, 0.85, (n, 1)) + generator.normal(0, 0.06, (n, 3)),
        "iris": irises[generator.choice(3, n, p=[0.6, 0.25, 0.15])],
    }
    shapes = {
        "build": generator.normal(0, 1, (n, 8)),
        "pose": generator.normal(0, 1, (n, 5)),
        "light": generator.normal(0, 1, (n, 3)),
    }
    clipped = {name: np.clip(value, 0, 1) for name, value in colors.items()}
    bounded = {name: np.clip(value, -2.2, 2.2) for name, value in shapes.items()}
    return Looks(**{name: value.astype(np.float32) for name, value in (clipped | bounded).items()})
