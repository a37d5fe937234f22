"""Images brought to the network's size: right by a slow definition in float64, the same in every room."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ldlva_dist.dataset.image_files import upright
from ldlva_dist.dataset.images import decode, decode_as_stored, encode_image
from ldlva_dist.dataset.preparation import Preparation
from testing.strong_edges import as_camera_jpeg, strong_edges
from tests.unit.dataset.test_image_files import STORED, photograph

SIDE = 48
ANTIALIAS = Preparation(size=SIDE, channels=3, resize="antialias")
REFERENCE = Preparation(size=SIDE, channels=3, resize="reference")
SHAPES = [(48, 48), (40, 31), (60, 31), (95, 95), (96, 96), (97, 131), (200, 193), (384, 390), (777, 401)]


def slow_taps(side: int, factor: int) -> NDArray[np.float64]:
    """[SIDE, side] weights of pixels by the definition: a triangle over averages of blocks, number by number."""
    ratio = side / factor / SIDE
    taps = np.zeros((SIDE, side))
    for target in range(SIDE):
        for block in range(math.ceil(side / factor)):
            inside = range(block * factor, min((block + 1) * factor, side))
            distance = abs(block + 0.5 - (target + 0.5) * ratio) / max(ratio, 1)
            taps[target, inside] = max(0.0, 1 - distance) / len(inside)
        taps[target] /= taps[target].sum()
    return taps


def slow(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[SIDE, SIDE, c] in float64."""
    height, width, channels = image.shape
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(math.ceil(height / f), math.ceil(width / f)) >= SIDE)
    rows = slow_taps(height, factor) @ image.astype(np.float64).reshape(height, -1)
    return slow_taps(width, factor) @ rows.reshape(SIDE, width, channels)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_antialias_is_a_triangle_over_averages_of_blocks(shape: tuple[int, int], channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, channels), dtype=np.uint8)
    for image in (noise, strong_edges(*shape)[:, :, :channels]):
        found = Preparation(size=SIDE, channels=channels, resize="antialias").fit(np.ascontiguousarray(image))
        assert found.shape == (SIDE, SIDE, channels)
        assert np.abs(found - slow(image)).max() <= 1.6  # rounded up to three times
        assert np.abs(found - slow(image)).mean() <= 0.4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("halved_colour", [False, True])
def test_a_jpeg_that_is_decoded_small_looks_as_decoded_in_full(shape: tuple[int, int], halved_colour: bool) -> None:
    data = as_camera_jpeg(strong_edges(*shape, grey=halved_colour), halved_colour=halved_colour)
    assert np.abs(ANTIALIAS.read(data).astype(float) - slow(decode(data, 3))).mean() <= 2


def test_one_pixel_stripes_become_grey_where_the_reference_gives_stripes() -> None:
    stripes = np.zeros((480, 480, 3), np.uint8)
    stripes[:, ::2] = 255
    for found in (ANTIALIAS.fit(stripes), ANTIALIAS.read(encode_image(stripes))):
        assert np.abs(found.astype(int) - 127).max() <= 2
    large = np.zeros((432, 432, 3), np.uint8)
    large[:, 4::9] = 255  # the one column of nine that the reference looks at
    assert REFERENCE.fit(large).min() == 255
    assert ANTIALIAS.fit(large).max() <= 40


@pytest.mark.parametrize(
    ("shape", "decoded"),
    [
        ((96, 96), (48, 48)),
        ((95, 96), (48, 48)),  # 47.5 pixels, of which the last is half a block
        ((94, 96), (94, 96)),
        ((97, 190), (49, 95)),
        ((384, 384), (48, 48)),
        ((5000, 60), (5000, 60)),
        ((2000, 800), (250, 100)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers_the_target(
    shape: tuple[int, int], decoded: tuple[int, int]
) -> None:
    data = encode_image(np.zeros((*shape, 3), np.uint8))
    assert decode_as_stored(data, 3, SIDE).pixels_HWc.shape[:2] == decoded
    assert ANTIALIAS.read(data).shape == (SIDE, SIDE, 3)


def _cut_blocks(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels[:203, :131]


@pytest.mark.parametrize("cut", [_cut_blocks, np.ascontiguousarray])
@pytest.mark.parametrize("orientation", STORED)
def test_a_turned_photograph_is_that_which_is_upright(orientation: int, cut: Callable[[NDArray], NDArray]) -> None:
    look = cut(strong_edges(208, 144, grey=True))
    turned = ANTIALIAS.read(photograph(orientation, pixels=look)).astype(float)
    # Blocks begin where the stored picture does: of a cut one, that is not where the upright one begins.
    lying = slow(np.ascontiguousarray(STORED[orientation](look)))
    assert np.abs(turned - upright(lying, orientation)).mean() <= 2
    assert np.abs(turned - slow(look)).mean() <= (2 if cut is np.ascontiguousarray else 4)


def test_an_image_of_the_networks_size_is_as_it_is_decoded() -> None:
    data = encode_image(strong_edges(SIDE, SIDE))
    for preparation in (ANTIALIAS, REFERENCE):
        np.testing.assert_array_equal(preparation.read(data), decode(data, 3))
        np.testing.assert_array_equal(preparation.fit(decode(data, 3)), decode(data, 3))
