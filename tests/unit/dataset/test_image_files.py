"""Image files of strangers: upright, whole, of the right brightness, or an error of ours."""

import ast
import base64
import io
import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import ldlva_dist
from ldlva_dist.dataset.image_files import DARK_IMAGE, HUGE_IMAGE, ODD_NUMBERS, ImageError
from ldlva_dist.dataset.images import decode
from ldlva_dist.packing.passes.load_images import check_images, load_images
from ldlva_dist.reporting.report.pictures import FACE, Pictures

VECTORS = Path(__file__).parents[1] / "vectors"
ORIENTATION = 0x0112
UPRIGHT = np.full((40, 64, 3), 250, np.uint8)
"""All four corners differ, so that no two orientations look alike."""
UPRIGHT[20:] = 0
UPRIGHT[:20, 32:] = (200, 30, 30)
UPRIGHT[20:, 32:] = (30, 30, 200)
STORED: dict[int, Callable[[NDArray], NDArray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
"""What a camera that is held so writes: the tag says how to turn it back."""
KINDS = {
    "jpeg": ("JPEG", {"quality": 98, "subsampling": 0}),
    "progressive": ("JPEG", {"quality": 98, "subsampling": 0, "progressive": True}),
    "mpo": ("MPO", {"quality": 98, "subsampling": 0, "save_all": True, "append_images": [Image.new("RGB", (40, 64))]}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "avif": ("AVIF", {"quality": 98, "subsampling": "4:4:4", "speed": 10}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
}


def _encoded(pixels: NDArray, kind: str, **more: object) -> bytes:
    name, how = KINDS[kind]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, name, **how, **more)
    return buffer.getvalue()


def photograph(orientation: int, kind: str = "jpeg", pixels: NDArray = UPRIGHT) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return _encoded(STORED[orientation](pixels), kind, exif=exif)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", STORED)
def test_a_photograph_of_any_format_is_upright(orientation: int, kind: str) -> None:
    data = photograph(orientation, kind)
    np.testing.assert_allclose(decode(data, 3), UPRIGHT, atol=6)
    grey = decode(memoryview(data), 1)
    assert grey.shape == (40, 64, 1)
    assert [int(value) > 100 for value in (grey[5, 5, 0], grey[-5, 5, 0])] == [True, False]


@pytest.mark.parametrize("tag", [0, 9])
def test_a_tag_that_means_nothing_is_none(tag: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    np.testing.assert_allclose(decode(_encoded(UPRIGHT, "jpeg", exif=exif), 3), UPRIGHT, atol=6)


def test_a_damaged_tag_is_none() -> None:
    data = photograph(6)
    at = data.index(b"Exif\0\0") + 6
    lying = STORED[6](UPRIGHT)
    for damage in (b"XX*\0", b"MM\0*\xff\xff\xff\xff"):
        np.testing.assert_allclose(decode(data[:at] + damage + data[at + len(damage) :], 3), lying, atol=6)


def test_a_tag_is_found_behind_other_segments() -> None:
    data, profile = photograph(6), b"\xff\xe2" + struct.pack(">H", 2 + 4000) + bytes(4000)
    at = data.index(b"\xff\xe1")
    np.testing.assert_allclose(decode(data[:at] + profile + b"\xff" + data[at:], 3), UPRIGHT, atol=6)


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
@pytest.mark.parametrize("size", [None, 24, 48])
def test_a_packed_photograph_is_upright_once(size: int | None, kind: str) -> None:
    """As it is, of another size, and of the size that it has already."""
    square = UPRIGHT[:, :40].repeat(2, axis=0)[16:64].repeat(2, axis=1)[:, 8:56]  # 48 x 48
    with ThreadPoolExecutor(1) as pool:
        (packed,) = load_images([photograph(6, kind, square)], size, pool)
        (checked,) = check_images([photograph(6, kind, square)], size, pool)
    assert isinstance(packed, bytes)
    assert isinstance(checked, tuple)
    assert checked[0] == packed
    found, step = decode(packed, 3), 48 // (size or 48)
    np.testing.assert_allclose(found[2::8, 2::8], square[::step, ::step][2::8, 2::8], atol=24)


def test_a_picture_of_the_report_is_upright() -> None:
    big = UPRIGHT.repeat(8, axis=0).repeat(8, axis=1)  # a JPEG that is decoded at a fraction
    pictures = Pictures(lambda sample: photograph(sample, pixels=big), 10**6)
    pictures.add([1, 6], FACE)
    first, second = (np.asarray(Image.open(io.BytesIO(base64.b64decode(line)))) for line in pictures.lines)
    assert first.shape == (88, 88, 3)
    np.testing.assert_allclose(second, first, atol=24)


def _holes(data: bytes) -> dict[str, bytes]:
    half, rest = len(data) // 2, len(data) - len(data) // 2
    noise = np.random.default_rng(0).integers(0, 255, rest - 2, dtype=np.uint8).tobytes()
    return {
        "zeros": data[:half] + bytes(rest - 2) + data[-2:],
        "noise": data[:half] + noise + data[-2:],
        "cut, the mark put back": data[:half] + data[-2:],
        "cut": data[:half],
        "no mark": data[:-2],
    }


@pytest.mark.parametrize("hole", _holes(b"    "))
@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK", "progressive", "restarts"])
def test_a_jpeg_with_a_hole_is_no_image(kind: str, hole: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(kind if kind in ("L", "CMYK") else "RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", progressive=kind == "progressive", restart_marker_blocks=4 * (kind == "restarts"))
    whole = buffer.getvalue()
    assert decode(whole, 3).shape == (64, 64, 3)
    with pytest.raises(ImageError, match="the image cannot be decoded"):
        decode(_holes(whole)[hole], 3)


@pytest.mark.parametrize("sampling", ["odd", "441"])
def test_a_jpeg_of_rare_sampling_is_read(sampling: str) -> None:
    """``yy * 7, xx * 7, (xx + yy) * 4`` as libjpeg 6b writes it with other sampling factors than the usual ones."""
    y, x = np.mgrid[:32, :32]
    wanted = np.stack([y * 7, x * 7, (x + y) * 4], axis=-1)
    np.testing.assert_allclose(decode((VECTORS / f"sampling_{sampling}.jpg").read_bytes(), 3), wanted, atol=12)


def _odd(jpeg: bytes, oddity: str) -> bytes:
    data = bytearray(jpeg)
    scan = data.index(b"\xff\xda")
    if oddity == "scan":
        data[scan + data[scan + 3]] = 1  # the last but one of its bytes: where the spectrum ends
    elif oddity == "adobe":
        data[2:2] = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x07"
    elif oddity == "jfif":
        data[data.index(b"JFIF\0") + 5] = 3
    else:
        data[20:20] = b"\xff\xe2\x00\x38ICC_PROFILE\0\x01\x02" + b"x" * 40
    return bytes(data)


@pytest.mark.parametrize("kind", ["jpeg", "progressive"])
@pytest.mark.parametrize("oddities", [["scan"], ["adobe"], ["jfif"], ["profile"], ["scan", "profile", "jfif"]])
def test_a_jpeg_with_an_odd_header_is_read_and_one_with_a_hole_is_not(oddities: list[str], kind: str) -> None:
    """Its pixels are as they should be; some telephones write the first. Decoders name the oddity, not the hole."""
    plain = odd = photograph(6, kind, np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for oddity in oddities:
        odd = odd if (oddity, kind) == ("scan", "progressive") else _odd(odd, oddity)
    np.testing.assert_array_equal(decode(odd, 3), decode(plain, 3))
    for hole in _holes(odd).values():
        with pytest.raises(ImageError):
            decode(hole, 3)


def test_postscript_is_no_image_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ImageError, match="none of JPEG, PNG"):
        decode(program, 3)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["SGI", "TGA", "PCX", "ICO", "DDS", "SPIDER", "IM", "EPS"])
def test_other_formats_are_not_opened(kind: str) -> None:
    buffer = io.BytesIO()
    picture = Image.new("F" if kind == "SPIDER" else "RGB", (16, 16))
    picture.save(buffer, kind)
    with pytest.raises(ImageError, match="none of JPEG, PNG"):
        decode(buffer.getvalue(), 3)


def test_only_one_module_opens_images() -> None:
    package = Path(ldlva_dist.__file__).parent
    folders = (package, package.parent / "jobs", package.parent / "cluster")
    files = [path for folder in folders for path in folder.rglob("*.py")]
    assert len(files) > 150
    assert {path.name for path in files if _opens_images(path.read_text())} == {"image_files.py"}


def _opens_images(text: str) -> bool:
    return ("Image" in text or "imread" in text) and any(
        (isinstance(node, ast.Attribute) and (node.attr == "imread" or ast.unparse(node).endswith("Image.open")))
        or (isinstance(node, ast.ImportFrom) and node.module in ("PIL.Image", "PIL.ImageFile"))
        or (isinstance(node, ast.alias) and node.name in ("ImageFile", "PIL.ImageFile", "imread"))
        for node in ast.walk(ast.parse(text))
    )


def _png_of_16_bits(pixels: NDArray[np.uint16]) -> bytes:
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _tiff(pixels: NDArray, *, order: str = "<", photometric: int = 1) -> bytes:
    """One strip, uncompressed; grey or RGB of any numbers."""
    height, width, channels = pixels.shape
    data = pixels.astype(f"{order}{pixels.dtype.str[1:]}").tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    place = 8 + len(data)
    wide = place + 2 + 10 * 12 + 4  # what does not fit into a tag stands behind them
    same = [(258, pixels.dtype.itemsize * 8), (339, kind)]
    values = {256: width, 257: height, 259: 1, 262: photometric, 273: 8, 277: channels, 278: height, 279: len(data)}
    tags, extra = {tag: struct.pack(order + "HII", 4, 1, value) for tag, value in values.items()}, b""
    for tag, value in same:
        cell = struct.pack(order + f"{channels}H", *[value] * channels)
        if channels > 2:
            cell, extra = struct.pack(order + "I", wide + len(extra)), extra + cell
        tags[tag] = struct.pack(order + "HI", 3, channels) + cell.ljust(4, b"\0")
    body = b"".join(struct.pack(order + "H", tag) + tags[tag] for tag in sorted(tags))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", place)
    return head + data + struct.pack(order + "H", len(tags)) + body + bytes(4) + extra


def _netpbm(pixels: NDArray[np.uint16]) -> bytes:
    height, width, channels = pixels.shape
    return f"P{5 if channels == 1 else 6}\n{width} {height}\n65535\n".encode() + pixels.astype(">u2").tobytes()


DEEP = np.random.default_rng(2).integers(0, 1 << 16, (12, 10, 3), dtype=np.uint16)
WRITERS: dict[str, Callable[[NDArray[np.uint16]], bytes]] = {
    "png grey": lambda a: _png_of_16_bits(a[:, :, :1]),
    "png": _png_of_16_bits,
    "png with alpha": lambda a: _png_of_16_bits(np.dstack([a, a[:, :, 0]])),
    "tiff grey": lambda a: _tiff(a[:, :, :1]),
    "tiff grey, big-endian": lambda a: _tiff(a[:, :, :1], order=">"),
    "tiff grey, 0 is white": lambda a: _tiff(~a[:, :, :1], photometric=0),
    "tiff": lambda a: _tiff(a, photometric=2),
    "pgm": lambda a: _netpbm(a[:, :, :1]),
    "ppm": _netpbm,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_16_bits_are_read_by_their_upper_half(writer: str) -> None:
    wanted = np.rint(DEEP / 257) if writer == "ppm" else DEEP >> 8  # Pillow rounds these
    if "grey" in writer or writer == "pgm":
        wanted = wanted[:, :, :1].repeat(3, axis=2)
    np.testing.assert_array_equal(decode(WRITERS[writer](DEEP), 3), wanted)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("writer", [name for name in WRITERS if "0 is white" not in name])
def test_16_bits_that_would_be_black_are_refused(writer: str, bits: int) -> None:
    with pytest.raises(ImageError, match="16 bits a channel") as caught:
        decode(WRITERS[writer](DEEP // 2 ** (16 - bits)), 3)
    assert caught.value.reason == DARK_IMAGE


def test_16_bits_that_would_be_white_are_refused() -> None:
    with pytest.raises(ImageError, match="16 bits a channel"):
        decode(_tiff(DEEP[:, :, :1] >> 8, photometric=0), 3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "f4"])
def test_numbers_of_no_known_range_are_refused(kind: str, order: str) -> None:
    with pytest.raises(ImageError, match="signed, 32-bit or float"):
        decode(_tiff((DEEP[:, :, :1] >> 9).astype(kind), order=order), 3)


def test_pixels_of_other_kinds_are_read() -> None:
    """One bit, palettes with transparency, alpha (which is dropped) and the first of several pictures."""
    colors = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], np.uint8).repeat(8, 0).repeat(8, 1)
    buffer = io.BytesIO()
    palette = Image.fromarray(colors).quantize(4)
    palette.save(buffer, "PNG", transparency=bytes([0, 128, 255, 0]))
    np.testing.assert_array_equal(decode(buffer.getvalue(), 3), np.asarray(palette.convert("RGB")))
    alpha = np.dstack([colors, np.zeros((16, 16), np.uint8)])
    for kind, how in (("png", {}), ("webp", {"exact": True}), ("tiff", {})):
        np.testing.assert_array_equal(decode(_encoded(alpha, kind, **how), 3), colors)
    ones = colors[:, :, 0] > 100
    np.testing.assert_array_equal(decode(_encoded(ones, "png"), 1)[:, :, 0], ones * 255)
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        buffer = io.BytesIO()
        how = {"lossless": True} if kind == "WEBP" else {}
        Image.fromarray(colors).save(buffer, kind, save_all=True, append_images=[Image.new("RGB", (16, 16))], **how)
        np.testing.assert_array_equal(decode(buffer.getvalue(), 3), colors)


def test_reasons_are_the_same_for_all_images_of_a_kind() -> None:
    cut = _encoded(UPRIGHT, "png")[:90]
    images = [_tiff(DEEP[:, :, :1].astype("f4")), _png_of_16_bits(DEEP // 256), b"no image", cut]
    images.append(b"P5\n20000 1\n255\n" + bytes(20000))
    with ThreadPoolExecutor(1) as pool:
        found = [str(answer) for answer in check_images(images, None, pool)]
    assert found == [ODD_NUMBERS, DARK_IMAGE, "the image cannot be decoded", "the image cannot be decoded", HUGE_IMAGE]


@lru_cache(maxsize=1)
def _small_files() -> list[bytes]:
    pixels = np.random.default_rng(3).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    picture, files = Image.fromarray(pixels), [photograph(6, kind, pixels) for kind in KINDS]
    files += [_png_of_16_bits(DEEP), _tiff(DEEP, photometric=2), _tiff(DEEP[:, :, :1].astype("i2")), _netpbm(DEEP)]
    files += [b"P2\n2 2\n255\n1 2 3 4\n", b"P3\n1 1\n255\n1 2 3\n", b"Pf\n2 2\n-1.0\n" + bytes(16)]
    others = {"GIF": "P", "BMP": "RGB", "DIB": "1", "JPEG2000": "RGB", "JPEG": "CMYK", "PPM": "1"}
    for name, mode in others.items():
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, name)
        files.append(buffer.getvalue())
    for compression in ("jpeg", "packbits", "tiff_adobe_deflate"):
        buffer = io.BytesIO()
        picture.save(buffer, "TIFF", compression=compression)
        files.append(buffer.getvalue())
    return files


def _harm(data: bytes, generator: np.random.Generator) -> bytes:
    """Cut, written over (the header in half of the tries), with something put between, or with a hole."""
    end = len(data) if generator.random() < 0.5 else min(len(data), 300)
    at, length = int(generator.integers(end)), int(generator.integers(1, 40))
    what = bytes(length * 8) if generator.random() < 0.2 else generator.bytes(length)
    kind = generator.integers(4)
    return data[:at] if kind == 0 else data[:at] + what + data[at + (0 if kind == 1 else len(what)) :]


@pytest.mark.parametrize("number", range(24))
def test_any_damage_is_an_error_of_ours_or_an_image(number: int) -> None:
    generator, whole = np.random.default_rng(number), _small_files()[number]
    for turn in range(80):
        data = _harm(whole, generator)
        for _ in range(turn % 3):
            data = _harm(data or whole, generator)
        with suppress(ImageError):
            found = decode(data, 1 + 2 * (turn % 2))
            assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 1 + 2 * (turn % 2))
