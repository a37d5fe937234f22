"""Shards: plain WebDataset tar files of KEY.jpg (or .png ...) and KEY.json, written in order and read by byte range."""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from isal.isal_zlib import crc32  # zlib's, tens of times faster
from numpy.typing import ArrayLike, NDArray

from ldlva_dist.data import storage
from ldlva_dist.data.manifest import ShardInfo
from ldlva_dist.errors import DataError

if TYPE_CHECKING:
    from webdataset.writer import TarWriter

MAX_SHARD_BYTES = 128 << 20
SHARDS_PER_SPLIT = 64
MAX_KEY_BYTES = 80  # a tar header has room for 100
_MAGIC = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp", b"GIF8": "gif"}
_MAGIC |= {b"II*\x00": "tif", b"MM\x00*": "tif"}


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the finished shards of one split hold its images, in the order of writing."""

    shards: tuple[ShardInfo, ...]
    shard: NDArray[np.int32]
    """[n] number of the shard, counted from the split's first."""
    offset: NDArray[np.int64]
    """[n] bytes from the start of the tar."""
    checksum: NDArray[np.uint32]
    """[n] zlib.crc32 of the image."""


def plan_shards(sizes_n: NDArray[np.int64]) -> NDArray[np.int32]:
    """[n] the shard each image of a split goes to: at most min(128 MB, total / 64) a shard, but at least one image."""
    ends_n = np.cumsum(sizes_n, dtype=np.int64)
    if not len(ends_n):
        return np.zeros(0, dtype=np.int32)
    limit = max(1, min(MAX_SHARD_BYTES, -(-int(ends_n[-1]) // SHARDS_PER_SPLIT)))
    slot_n = (ends_n - sizes_n) // limit
    return np.unique(slot_n, return_inverse=True)[1].astype(np.int32)


class ShardWriter:
    """Writes one split into ``{split}-000000.tar`` ... in a local folder; the same rows give the same bytes.

    Each finished shard is handed out by ``finished`` (and may be uploaded and removed) before the next is begun.
    """

    def __init__(self, folder: Path, split: str, first_id: int, plan_n: NDArray[np.int32]) -> None:
        self._folder, self._split, self._first_id, self._plan_n = folder, split, first_id, plan_n
        self._row = 0
        self._tar: TarWriter | None = None
        self._shards: list[ShardInfo] = []
        self._offset_n = np.zeros(len(plan_n), dtype=np.int64)
        self._checksum_n = np.zeros(len(plan_n), dtype=np.uint32)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def write(self, image: bytes | memoryview, about: Mapping[str, Any]) -> Path | None:
        """Append one row; ``about["key"]`` names it.

        Returns:
            The shard's file when this row was its last one, else None.
        """
        tar = self._tar = self._tar or self._open()
        text = json.dumps(about, ensure_ascii=False).encode()
        tar.write({"__key__": about["key"], image_extension(image): bytes(image), "json": text})
        self._checksum_n[self._row] = crc32(image)
        number, self._row = self._plan_n[self._row], self._row + 1
        if self._row < len(self._plan_n) and self._plan_n[self._row] == number:
            return None
        return self._finish(int(number))

    def placed(self) -> Placed:
        """Where everything went, once the last row is written."""
        return Placed(tuple(self._shards), self._plan_n, self._offset_n, self._checksum_n)

    def _path(self) -> Path:
        return self._folder / f"{self._split}-{len(self._shards):06d}.tar"

    def _open(self) -> "TarWriter":
        from webdataset.writer import TarWriter  # imports torch, which those who only read shards do without

        return TarWriter(
            str(self._path()), user="ldlva", group="ldlva", mode=0o644, mtime=0, encoder=False, compress=False
        )

    def _finish(self, number: int) -> Path:
        path = self._path()
        self.__exit__(None, None, None)
        offsets = list(_image_offsets(path))
        first = self._row - len(offsets)
        self._offset_n[first : self._row] = offsets
        self._shards.append(
            ShardInfo(
                name=path.name,
                split=self._split,
                first_id=self._first_id + first,
                rows=len(offsets),
                bytes=path.stat().st_size,
            )
        )
        assert number == len(self._shards) - 1, "shards are written in order"
        return path


def read_rows(shard_uri: str, offsets_n: ArrayLike, sizes_n: ArrayLike, checksums_n: ArrayLike) -> list[memoryview]:
    """The images of rows of one shard by ONE ranged read, from the first to the last byte.

    A shard that ends early, or an image that is not what the manifest says, is a DataError that names shard and row.
    """
    return cut_rows(shard_uri, read_span(shard_uri, offsets_n, sizes_n), offsets_n, sizes_n, checksums_n)


def read_span(shard_uri: str, offsets_n: ArrayLike, sizes_n: ArrayLike) -> bytes:
    """The bytes of a shard from the first of some rows to the end of the last; see :func:`cut_rows`."""
    offsets, sizes = np.asarray(offsets_n, dtype=np.int64), np.asarray(sizes_n, dtype=np.int64)
    if not len(offsets):
        return b""
    begin = int(offsets.min())
    return storage.read_range(shard_uri, begin, int((offsets + sizes).max()) - begin)


def cut_rows(
    shard_uri: str, span: bytes, offsets_n: ArrayLike, sizes_n: ArrayLike, checksums_n: ArrayLike
) -> list[memoryview]:
    """The images in what :func:`read_span` gave for the same rows; an image with another checksum is a DataError."""
    offsets, sizes, checksums = (np.asarray(a, dtype=np.int64) for a in (offsets_n, sizes_n, checksums_n))
    data, begins = memoryview(span), offsets - offsets.min(initial=np.iinfo(np.int64).max)
    rows = [data[a : a + n] for a, n in zip(begins.tolist(), sizes.tolist(), strict=True)]
    for row, (image, checksum) in enumerate(zip(rows, checksums.tolist(), strict=True)):
        if crc32(image) != checksum:
            raise DataError(
                f"{shard_uri} is damaged: row {row + 1} of the {len(rows)} read, {len(image)} bytes at byte "
                f"{offsets[row]}, does not have the checksum of the manifest"
            )
    return rows


def sanitise_key(name: str) -> str:
    """A sample key from a file name or path: image extension off; dots, slashes and blanks become underscores.

    A tar member's extension begins at its FIRST dot, so a key has none. A long name ends in a hash of all of it.
    """
    stem, dot, extension = name.rpartition(".")
    if dot and extension.isalpha() and len(extension) <= 4:
        name = stem
    key = "".join(c if c.isalnum() or c in "-_" else "_" for c in name.strip("./ "))
    if len(key.encode()) <= MAX_KEY_BYTES:
        return key
    kept = key.encode()[: MAX_KEY_BYTES - 17].decode(errors="ignore")
    return f"{kept}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"


def image_extension(image: bytes | memoryview) -> str:
    """jpg, png, webp, bmp, gif or tif by the first bytes; img for anything else."""
    head = bytes(image[:4])
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "img")


def _image_offsets(path: Path) -> Iterator[int]:
    """Where each image's bytes begin, from the finished tar's own headers."""
    with tarfile.open(path) as tar:
        for member in tar:
            if not member.name.endswith(".json"):
                yield member.offset_data
