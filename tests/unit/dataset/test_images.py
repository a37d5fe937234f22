"""Images: the reference's resize, and augmentation as a pure function of (seed, epoch, id)."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ldlva_dist.dataset.images import augment, decode, encode_image, encode_square
from ldlva_dist.dataset.preparation import resize_as_reference
from ldlva_dist.errors import DataError

VECTORS = np.load(Path(__file__).parents[1] / "vectors" / "pp.npz")
OFF = {"pad": 0, "flip": False, "erase_probability": 0.0}


def _images(b: int, size: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(1, 256, (b, size, size, 3), dtype=np.uint8)


def _png(pixels: NDArray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(buffer, "PNG")
    return buffer.getvalue()


def test_resize_equals_the_reference() -> None:
    resized = resize_as_reference(VECTORS["pp_img"], 8)
    np.testing.assert_allclose(resized, VECTORS["pp_resize8"], rtol=1e-5)
    np.testing.assert_allclose((resized - 127.5) / 127.5, VECTORS["pp_test_out"], rtol=1e-5, atol=1e-6)


def test_resize_of_bytes_is_rounded_and_of_the_same_size_does_nothing() -> None:
    image = VECTORS["pp_img"].astype(np.uint8)
    assert resize_as_reference(image, 8).dtype == np.uint8
    np.testing.assert_array_equal(
        resize_as_reference(image, 8), np.rint(resize_as_reference(image.astype(np.float32), 8))
    )
    assert resize_as_reference(image, 5) is image


def test_png_of_any_mode_is_decoded_to_grey_or_colour() -> None:
    pixels = _images(1)[0]
    np.testing.assert_array_equal(decode(_png(pixels), 3), pixels)
    assert decode(_png(pixels), 1).shape == (16, 16, 1)
    for mode in ("L", "P", "RGBA", "1"):
        assert decode(_png(pixels, mode), 3).shape == (16, 16, 3)
    deep = (pixels[:, :, 0].astype(np.uint16) << 8) + 7
    np.testing.assert_array_equal(decode(_png(deep), 1)[:, :, 0], pixels[:, :, 0])


def test_jpeg_is_decoded_to_grey_or_colour() -> None:
    data = encode_image(np.full((20, 30, 3), 90, dtype=np.uint8))
    assert decode(data, 3).shape == (20, 30, 3)
    assert decode(memoryview(data), 1).shape == (20, 30, 1)
    cmyk = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(cmyk, "JPEG")
    assert decode(cmyk.getvalue(), 3).shape == (8, 8, 3)
    assert decode(encode_square(decode(data, 1), 24), 3).shape == (24, 24, 3)


@pytest.mark.parametrize(
    "data", [b"", b"no image", encode_image(_images(1, 64)[0])[:300], _png(_images(1, 64)[0])[:300]]
)
def test_what_is_no_whole_image_is_a_data_error(data: bytes) -> None:
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(data, 3)


@pytest.mark.parametrize("shape", [(1, 10_001, 3), (10_001, 1, 3)])
@pytest.mark.parametrize("encoded", [_png, encode_image])
def test_a_side_that_is_too_long_is_a_data_error(
    encoded: Callable[[NDArray[np.uint8]], bytes], shape: tuple[int, ...]
) -> None:
    size = f"the image has more than 64 million pixels, or 10000 a side: {shape[1]} x {shape[0]}"
    with pytest.raises(DataError, match=size):
        decode(encoded(np.zeros(shape, np.uint8)), 3)


@pytest.mark.parametrize("encoded", [_png, encode_image])
def test_the_longest_side_is_decoded(encoded: Callable[[NDArray[np.uint8]], bytes]) -> None:
    assert decode(encoded(np.zeros((1, 10_000, 3), np.uint8)), 3).shape == (1, 10_000, 3)


def test_an_image_looks_the_same_whatever_batch_it_is_in() -> None:
    images, ids, epochs = _images(32), np.arange(32) + 10**10, np.repeat([0, 3], 16)
    how = {"pad": 2, "flip": True, "erase_probability": 0.5}
    whole = augment(images, seed=7, epochs_b=epochs, ids_b=ids, **how)
    order = np.random.default_rng(1).permutation(32)
    for rows in (order[:5], order[5:6], order[6:]):
        part = augment(images[rows], seed=7, epochs_b=epochs[rows], ids_b=ids[rows], **how)
        np.testing.assert_array_equal(part, whole[rows])


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"id": 1}])
def test_another_seed_epoch_or_id_looks_different(change: dict[str, int]) -> None:
    image = np.repeat(_images(1), 64, axis=0)
    ids = np.arange(64)

    def run(seed: int = 0, epoch: int = 0, id: int = 0) -> NDArray[np.uint8]:
        epochs = np.full(64, epoch)
        return augment(image, seed=seed, epochs_b=epochs, ids_b=ids + 100 * id, pad=4, flip=True, erase_probability=0.5)

    differs = (run() != run(**change)).any(axis=(1, 2, 3))
    assert differs.mean() > 0.9


def test_nothing_switched_on_changes_nothing() -> None:
    images = _images(8)
    np.testing.assert_array_equal(augment(images, seed=0, epochs_b=np.zeros(8, int), ids_b=np.arange(8), **OFF), images)


def test_every_second_image_is_mirrored() -> None:
    images = _images(2000, 4)
    out = augment(images, seed=0, epochs_b=np.zeros(2000, int), ids_b=np.arange(2000), **{**OFF, "flip": True})
    mirrored = (out == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((out == images).all(axis=(1, 2, 3)) | mirrored).all()
    assert 0.45 < mirrored.mean() < 0.55


def test_crops_are_shifts_of_the_zero_padded_image_and_all_occur() -> None:
    images = np.repeat(_images(1, 6), 500, axis=0)
    out = augment(images, seed=0, epochs_b=np.zeros(500, int), ids_b=np.arange(500), **{**OFF, "pad": 1})
    padded = np.pad(images[0], ((1, 1), (1, 1), (0, 0)))
    crops = [padded[y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    counts = [sum((image == crop).all() for image in out) for crop in crops]
    assert sum(counts) == 500
    assert min(counts) > 30


def test_erased_rectangles_have_the_reference_areas() -> None:
    images = np.zeros((800, 40, 40, 1), dtype=np.uint8)
    how = {**OFF, "erase_probability": 0.5}
    out = augment(images, seed=3, epochs_b=np.zeros(800, int), ids_b=np.arange(800), **how)
    rows, columns = (out > 0).any(axis=(2, 3)).sum(axis=1), (out > 0).any(axis=(1, 3)).sum(axis=1)
    erased = rows > 0
    assert 0.45 < erased.mean() < 0.55
    area, aspect = (rows * columns)[erased] / 1600, rows[erased] / columns[erased]
    assert area.min() > 0.01
    assert area.max() < 0.32
    assert abs(area.mean() - 0.16) < 0.02
    assert 0.2 < aspect.min() < 0.5
    assert 2.5 < aspect.max() < 4.5
    assert 120 < out[out > 0].mean() < 136
