"""Copies are found through other sizes, qualities and brightness, and different faces are none."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from isal.isal_zlib import crc32
from numpy.typing import NDArray
from PIL import Image

from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import DataError
from ldlva_dist.packing.near_copies import (
    close_pairs,
    copy_groups,
    difference_hash,
    hash_shard,
    read_copy_groups,
    write_copy_groups,
)
from ldlva_dist.packing.sources.drawn_faces.faces import draw_faces, draw_people
from testing.toy_dataset import CLASSES, HOLDOUT, ROWS, TEST, TRAIN, toy_dataset


def jpeg(image: NDArray[np.uint8], *, quality: int = 90, side: int | None = None, brighter: int = 0) -> bytes:
    picture = Image.fromarray(np.clip(image.squeeze().astype(int) + brighter, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    (picture if side is None else picture.resize((side, side))).save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture(scope="module")
def faces() -> Sequence[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return list(draw_faces(draw_people(ROWS, generator, 0.0).distribution, generator, 96))


@pytest.fixture
def dataset(tmp_path: Path, faces: Sequence[NDArray[np.uint8]]) -> Dataset:
    """Different faces, but 3 = 7 byte by byte, 5 is in the test part too, and 9 as other files, in the holdout too."""
    opened = Dataset.open(toy_dataset(tmp_path))
    files = [jpeg(face) for face in faces]
    files[7] = files[3]
    files[TRAIN + HOLDOUT + 2] = files[5]
    files[11] = jpeg(faces[9], quality=55, side=80)
    files[TRAIN + 1] = jpeg(faces[9], quality=95, brighter=3)
    sizes = np.array([len(data) for data in files])
    edges = np.cumsum([0, TRAIN, HOLDOUT, TEST])
    offsets = np.concatenate([np.cumsum(part) - part for part in np.split(sizes, edges[1:-1])])
    for shard, begin, end in zip(opened.info.shards, edges, edges[1:], strict=False):
        Path(opened.shard_uri(opened.info.shards.index(shard))).write_bytes(b"".join(files[begin:end]))
    table = opened.columns(opened.column_names())
    places = {"offset": offsets, "size": sizes, "checksum": np.array([crc32(data) for data in files])}
    for name, values in places.items():
        table = table.set_column(table.column_names.index(name), name, [values])
    manifest.write_manifest(opened.uri, table)
    return opened


def hashes(dataset: Dataset) -> NDArray[np.uint64]:
    import base64

    texts = [hash_shard(dataset, number) for number in range(len(dataset.info.shards))]
    return np.concatenate([np.frombuffer(base64.b64decode(text), np.uint64) for text in texts])


def test_copies_are_found_inside_and_across_splits_and_nothing_else(dataset: Dataset, tmp_path: Path) -> None:
    groups = copy_groups(dataset, hashes(dataset))
    assert [(group.ids, group.is_exact, group.is_leak) for group in groups] == [
        ([9, 11, TRAIN + 1], False, True),
        ([5, TRAIN + HOLDOUT + 2], True, True),
        ([3, 7], True, False),
    ]
    names = dataset.info.class_names
    assert str(groups[1]) == f"exact copies: k5 (train, {names[5 % CLASSES]}), k82 (test, {names[82 % CLASSES]})"
    write_copy_groups(str(tmp_path / "copies.csv"), groups)
    rows = list(csv.DictReader((tmp_path / "copies.csv").open()))
    assert [(row["group"], row["kind"], row["key"]) for row in rows] == [
        *(("1", "near", f"k{i}") for i in (9, 11, TRAIN + 1)),
        *(("2", "exact", f"k{i}") for i in (5, TRAIN + HOLDOUT + 2)),
        *(("3", "exact", f"k{i}") for i in (3, 7)),
    ]


def test_a_list_of_groups_is_read_back_with_the_labels_of_now(dataset: Dataset, tmp_path: Path) -> None:
    uri, groups = str(tmp_path / "copies.csv"), copy_groups(dataset, hashes(dataset))
    write_copy_groups(uri, groups)
    assert read_copy_groups(uri, dataset) == groups
    write_copy_groups(str(tmp_path / "none.csv"), [])
    assert read_copy_groups(str(tmp_path / "none.csv"), dataset) == []
    table = dataset.columns(dataset.column_names())
    label_N = table["label"].to_numpy().copy()
    label_N[5] = (label_N[5] + 1) % CLASSES
    place = table.column_names.index("label")
    manifest.write_manifest(dataset.uri, table.set_column(place, table.schema.field(place), [label_N]))
    changed = read_copy_groups(uri, Dataset.open(dataset.uri))
    assert changed[1].labels == [dataset.info.class_names[label_N[i]] for i in changed[1].ids]
    assert changed[1].labels != groups[1].labels
    assert (changed[0], changed[2]) == (groups[0], groups[2])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1,near,3,other", "was made from another data set.*sample 3 is 'k3' there, 'other' in the list"),
        (f"1,near,{ROWS},k", f"was made from another data set.*which has no sample {ROWS}"),
        (f"1,near,{10**30},k", "must have ids in its column id"),
        ("1,near,-3,k3", "must have ids in its column id"),
    ],
)
def test_a_list_of_another_data_set_is_refused(dataset: Dataset, tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "copies.csv").write_text(f"group,kind,id,key,split,label\n{row},train,a\n")
    with pytest.raises(DataError, match=said):
        read_copy_groups(str(tmp_path / "copies.csv"), dataset)


def test_flat_pictures_share_a_hash_and_are_told_apart_by_their_pixels(dataset: Dataset) -> None:
    assert difference_hash(np.full((40, 40), 7, np.uint8)) == difference_hash(np.full((40, 40), 200, np.uint8)) == 0
    same = np.zeros(ROWS, np.uint64)
    ids = [group.ids for group in copy_groups(dataset, same)]
    assert all(0 not in group for group in ids)  # all are compared with sample 0, and none of them is it


def test_close_pairs_are_those_of_a_comparison_of_all(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    hash_n = generator.integers(0, 2**64, 300, dtype=np.uint64)
    for row in range(200, 300):  # 0 to 5 bits of another one are flipped
        flips = generator.choice(64, row % 6, replace=False).astype(np.uint64)
        hash_n[row] = hash_n[row - 200] ^ np.bitwise_or.reduce(np.uint64(1) << flips, initial=np.uint64(0))
    bits_nn = np.bitwise_count(hash_n[:, None] ^ hash_n[None])
    close = {(i, j) for i in range(300) for j in range(i + 1, 300) if bits_nn[i, j] <= 3}
    first, second = close_pairs(hash_n)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == close


def test_a_data_set_without_copies_has_no_groups(dataset: Dataset) -> None:
    unlike = np.arange(ROWS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert copy_groups(replace(dataset), unlike) == []
