"""Shards: what is written is read back, by us and by webdataset; damage is found; the same rows give the same bytes."""

from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from ldlva_dist.data.shards import (
    MAX_KEY_BYTES,
    MAX_SHARD_BYTES,
    Placed,
    ShardWriter,
    plan_shards,
    read_rows,
    sanitise_key,
)
from ldlva_dist.errors import DataError

IMAGES = [b"\xff\xd8" + bytes([i]) * (50 + 7 * i) for i in range(5)] + [b"\x89PNG" + b"x" * 600]


def _write(folder: Path, plan: list[int]) -> Placed:
    folder.mkdir()
    with ShardWriter(folder, "train", 10, np.asarray(plan, dtype=np.int32)) as writer:
        for i, image in enumerate(IMAGES):
            writer.write(image, {"key": f"face-{i}", "label": i % 2})
    return writer.placed()


def test_rows_come_back_by_one_ranged_read(tmp_path: Path) -> None:
    placed = _write(tmp_path / "set", [0, 0, 0, 1, 1, 1])
    assert [(shard.first_id, shard.rows) for shard in placed.shards] == [(10, 3), (13, 3)]
    sizes = np.array([len(image) for image in IMAGES])
    rows = slice(4, 6)
    uri = str(tmp_path / "set" / placed.shards[1].name)
    found = read_rows(uri, placed.offset[rows], sizes[rows], placed.checksum[rows])
    assert [bytes(row) for row in found] == IMAGES[rows]


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    placed = _write(tmp_path / "set", [0] * 6)
    samples = list(webdataset.WebDataset(str(tmp_path / "set" / placed.shards[0].name), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"face-{i}" for i in range(6)]
    assert [sample.get("jpg", sample.get("png")) for sample in samples] == IMAGES
    assert samples[3]["json"] == b'{"key": "face-3", "label": 1}'


def test_a_flipped_bit_is_an_error_that_names_shard_and_row(tmp_path: Path) -> None:
    placed = _write(tmp_path / "set", [0] * 6)
    path = tmp_path / "set" / placed.shards[0].name
    data = bytearray(path.read_bytes())
    data[placed.offset[2] + 20] ^= 1
    path.write_bytes(data)
    sizes = [len(image) for image in IMAGES]
    with pytest.raises(DataError, match=r"train-000000\.tar is damaged: row 3 of the 6"):
        read_rows(str(path), placed.offset, sizes, placed.checksum)
    assert len(read_rows(str(path), placed.offset[3:], sizes[3:], placed.checksum[3:])) == 3


def test_a_truncated_shard_is_an_error(tmp_path: Path) -> None:
    placed = _write(tmp_path / "set", [0] * 6)
    path = tmp_path / "set" / placed.shards[0].name
    path.write_bytes(path.read_bytes()[: placed.offset[5] + 10])
    with pytest.raises(DataError, match="ends early"):
        read_rows(str(path), placed.offset, [len(image) for image in IMAGES], placed.checksum)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / name, [0, 0, 1, 1, 2, 2])
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@given(st.lists(st.integers(1, 10_000), max_size=300))
def test_a_split_has_at_most_64_shards_of_consecutive_rows(sizes: list[int]) -> None:
    plan = plan_shards(np.array(sizes, dtype=np.int64))
    assert len(plan) == len(sizes)
    assert len(np.unique(plan)) <= 64
    assert set(np.diff(plan, prepend=0).tolist()) <= {0, 1}
    limit = -(-sum(sizes) // 64)
    for shard in np.unique(plan):
        assert sum(np.array(sizes)[plan == shard][:-1]) <= limit


def test_a_large_split_has_shards_of_at_most_128_mb() -> None:
    sizes = np.full(20_000, 1_000_000)
    bytes_of_shard = np.bincount(plan_shards(sizes), weights=sizes)
    assert bytes_of_shard.max() <= MAX_SHARD_BYTES + 1_000_000
    assert len(bytes_of_shard) > 140


def test_keys_have_no_dot_and_fit_into_a_tar_header() -> None:
    assert sanitise_key("a.b/c d.jpg") == "a_b_c_d"
    assert sanitise_key("fer0000001.png") == "fer0000001"
    long = ["x" * 200 + end for end in ("1.jpg", "2.jpg")]
    assert max(len(sanitise_key(name)) for name in long) <= MAX_KEY_BYTES
    assert sanitise_key(long[0]) != sanitise_key(long[1])
