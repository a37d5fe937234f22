"""Shards: what is written is read back, by us and by webdataset; damage is found; the same rows give the same bytes."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import webdataset
from webdataset.writer import TarWriter

from ldlva_dist.dataset.shards import MAX_KEY_BYTES, ShardBuilder, crc32, read_rows, sanitise_key
from ldlva_dist.errors import DataError

IMAGES = [b"\xff\xd8" + bytes([i]) * (50 + 7 * i) for i in range(5)] + [b"\x89PNG" + b"x" * 600]
SIZES = [len(image) for image in IMAGES]
CHECKSUMS = [crc32(image) for image in IMAGES]


@dataclass(frozen=True)
class Shard:
    path: Path
    offsets: list[int]


def _write(path: Path, rows: int = 6) -> Shard:
    builder = ShardBuilder(10)
    offsets = [builder.add(image, {"key": f"face-{i}", "label": i % 2}) for i, image in enumerate(IMAGES[:rows])]
    path.write_bytes(builder.close())
    return Shard(path, offsets)


def test_rows_come_back_by_one_ranged_read(tmp_path: Path) -> None:
    shard, rows = _write(tmp_path / "a.tar"), slice(2, 5)
    found = read_rows(str(shard.path), shard.offsets[rows], SIZES[rows], CHECKSUMS[rows])
    assert [bytes(row) for row in found] == IMAGES[rows]


def test_a_shard_of_jpegs_is_what_webdataset_would_write(tmp_path: Path) -> None:
    shard = _write(tmp_path / "a.tar", 5)
    with TarWriter(
        str(tmp_path / "b.tar"), user="ldlva", group="ldlva", mode=0o644, mtime=0, encoder=False, compress=False
    ) as tar:
        for i, image in enumerate(IMAGES[:5]):
            about = f'{{"key": "face-{i}", "label": {i % 2}}}'.encode()
            tar.write({"__key__": f"face-{i}", "jpg": image, "json": about})
    assert shard.path.read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    shard = _write(tmp_path / "a.tar")
    samples = list(webdataset.WebDataset(str(shard.path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"face-{i}" for i in range(6)]
    assert [sample.get("jpg", sample.get("png")) for sample in samples] == IMAGES
    assert samples[3]["json"] == b'{"key": "face-3", "label": 1}'


def test_a_flipped_bit_is_an_error_that_names_shard_and_row(tmp_path: Path) -> None:
    shard = _write(tmp_path / "a.tar")
    data = bytearray(shard.path.read_bytes())
    data[shard.offsets[2] + 20] ^= 1
    shard.path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tar is damaged: row 3 of the 6"):
        read_rows(str(shard.path), shard.offsets, SIZES, CHECKSUMS)
    assert len(read_rows(str(shard.path), shard.offsets[3:], SIZES[3:], CHECKSUMS[3:])) == 3


def test_a_truncated_shard_is_an_error(tmp_path: Path) -> None:
    shard = _write(tmp_path / "a.tar")
    shard.path.write_bytes(shard.path.read_bytes()[: shard.offsets[5] + 10])
    with pytest.raises(DataError, match="ends early"):
        read_rows(str(shard.path), shard.offsets, SIZES, CHECKSUMS)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    assert _write(tmp_path / "a.tar").path.read_bytes() == _write(tmp_path / "b.tar").path.read_bytes()


def test_keys_have_no_dot_and_fit_into_a_tar_header() -> None:
    assert sanitise_key("a.b/c d.jpg") == "a_b_c_d"
    assert sanitise_key("fer0000001.png") == "fer0000001"
    long = ["x" * 200 + end for end in ("1.jpg", "2.jpg")]
    assert max(len(sanitise_key(name)) for name in long) <= MAX_KEY_BYTES
    assert sanitise_key(long[0]) != sanitise_key(long[1])
