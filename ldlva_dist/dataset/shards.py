"""Shards: plain WebDataset tar files of KEY.jpg (or .png ...) and KEY.json, written in order and read by byte range."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from isal.isal_zlib import crc32  # zlib's, tens of times faster
from numpy.typing import ArrayLike

from ldlva_dist import storage
from ldlva_dist.errors import DataError

MAX_KEY_BYTES = 80  # a tar header has room for 100: .json, and what key_apart adds
_MAGIC = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp", b"GIF8": "gif"}
_MAGIC |= {b"II*\x00": "tif", b"MM\x00*": "tif"}
IMAGE_EXTENSIONS = frozenset({*_MAGIC.values(), "img"})


class ShardBuilder:
    """Builds one shard in memory, at most about 128 MB; the same rows give the same bytes."""

    def __init__(self, first_id: int) -> None:
        self.first_id, self.rows = first_id, 0
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w")

    def add(self, image: bytes, about: Mapping[str, Any]) -> int:
        """Append one row; ``about["key"]`` names it.

        Returns:
            Where its image begins, in bytes from the start of the tar.
        """
        offset = self._append(f"{about['key']}.{image_extension(image)}", image)
        self._append(f"{about['key']}.json", json.dumps(about, ensure_ascii=False).encode())
        self.rows += 1
        return offset

    def close(self) -> bytes:
        """The finished tar file."""
        self._tar.close()
        return self._buffer.getvalue()

    def _append(self, name: str, data: bytes) -> int:
        # What webdataset's TarWriter would write; that one imports torch.
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.uname, member.gname = len(data), 0o644, "ldlva", "ldlva"
        self._tar.addfile(member, io.BytesIO(data))
        return self._buffer.tell() - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def read_rows(shard_uri: str, offsets_n: ArrayLike, sizes_n: ArrayLike, checksums_n: ArrayLike) -> list[memoryview]:
    """The images of rows of one shard by ONE ranged read, from the first to the last byte.

    A shard that ends early, or an image that is not what the manifest says, is a DataError that names shard and row.
    """
    offsets, sizes = np.asarray(offsets_n, dtype=np.int64), np.asarray(sizes_n, dtype=np.int64)
    if not len(offsets):
        return []
    begin = int(offsets.min())
    span = storage.read_range(shard_uri, begin, int((offsets + sizes).max()) - begin)
    return cut_rows(shard_uri, span, offsets, sizes, checksums_n)


def cut_rows(
    shard_uri: str, span: bytes | memoryview, offsets_n: ArrayLike, sizes_n: ArrayLike, checksums_n: ArrayLike
) -> list[memoryview]:
    """The images in the bytes from the first of some rows on; one with another checksum is a DataError."""
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


def read_each(
    shard_uri: str, offsets_n: ArrayLike, sizes_n: ArrayLike, checksums_n: ArrayLike
) -> list[memoryview | DataError]:
    """The same; where that fails each row is read by itself, so that only damaged ones are lost, to their errors."""
    try:
        return list(read_rows(shard_uri, offsets_n, sizes_n, checksums_n))
    except DataError:
        return read_apart(shard_uri, offsets_n, sizes_n, checksums_n)


def read_apart(
    shard_uri: str, offsets_n: ArrayLike, sizes_n: ArrayLike, checksums_n: ArrayLike
) -> list[memoryview | DataError]:
    """Each row by a read of its own: its image, or the error that says why there is none."""
    found: list[memoryview | DataError] = []
    places = zip(*(np.asarray(a, dtype=np.int64).tolist() for a in (offsets_n, sizes_n, checksums_n)), strict=True)
    for place in places:
        try:
            found += read_rows(shard_uri, *([value] for value in place))
        except DataError as error:
            found.append(error)
    return found


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


def key_apart(key: str, name: str) -> str:
    """The key of one of several rows whose names give the same one: it ends in a short hash of its whole name."""
    return f"{key}-{hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}"


def public_facts(row: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """What a shard says of a row of the manifest: never votes or truth, so that no reader of shards trains on them."""
    va = {name: None if row[name] is None else round(row[name], 6) for name in ("valence", "arousal")}
    return {"key": row["key"], "label": row["label"], "class": class_names[row["label"]], **va}


def image_extension(image: bytes | memoryview) -> str:
    """jpg, png, webp, bmp, gif or tif by the first bytes; img for anything else."""
    head = bytes(image[:4])
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "img")


def key_hash(key: str) -> int:
    """64 bits that stand for a key; among 100 M keys two agree by chance with probability 0.0003."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
