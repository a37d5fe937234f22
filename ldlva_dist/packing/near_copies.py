"""Images that show the same picture, inside a split and across: found by a perceptual hash, confirmed by their pixels.

The hash is dHash (Krawetz, 2013): the signs of the horizontal differences of a grey picture of 9 x 8 pixels, 64 bits.
Pairs whose hashes differ in at most MAX_BITS bits are compared as grey pictures of 32 x 32. Copies of other size,
compression or brightness of a few levels are found; mirrored, turned and cut ones are not. N = rows of all splits.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import decode
from ldlva_dist.errors import DataError
from ldlva_dist.exchange.csv_list import csv_bytes, text_columns
from ldlva_dist.runtime.pieces import run_pieces

MAX_BITS = 3
"""Four bands of 16 bits: of two hashes that differ in three bits, one band at least is equal."""
BANDS = 4
THUMBNAIL = 32
MAX_DIFFERENCE = 10.0
"""Mean absolute difference of two copies' thumbnails, in grey levels; re-encoded ones have 1 to 3."""
IMAGES_AT_ONCE = 512
MAX_DIGITS = 19
"""Of an id in a list."""
COLUMNS = ("group", "kind", "id", "key", "split", "label")


@dataclass(frozen=True, kw_only=True)
class CopyGroup:
    """Samples with one picture."""

    ids: list[int]
    keys: list[str]
    splits: list[str]
    labels: list[str]
    is_exact: bool
    """Whether the files are equal byte by byte, by size and CRC-32."""

    @property
    def is_leak(self) -> bool:
        """Whether the picture is in several splits."""
        return len(set(self.splits)) > 1

    def __str__(self) -> str:
        """For the terminal."""
        places = [f"{key} ({split}, {label})" for key, split, label in zip(*self._named, strict=True)]
        return f"{'exact' if self.is_exact else 'near'} copies: {', '.join(places[:5])}{', ...' * (len(places) > 5)}"

    @property
    def has_several_labels(self) -> bool:
        """Whether the members' labels differ: one of them is wrong, or the picture is ambiguous."""
        return len(set(self.labels)) > 1

    @property
    def _named(self) -> tuple[list[str], list[str], list[str]]:
        return self.keys, self.splits, self.labels


def find_copy_groups(
    dataset: Dataset, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> list[CopyGroup]:
    """Groups of exact and near copies in a sound data set, those across splits first, then the largest.

    Every image is decoded once, by Ray tasks, and those that may be copies once more, here.
    """
    shards, found, done = dataset.info.shards, dict[int, str](), 0
    for number, hashes in run_pieces(lambda number: hash_shard(dataset, number), range(len(shards))):
        found[number] = hashes
        done += shards[number].rows
        progress("looking for copies", done, dataset.num_rows)
    parts = [np.frombuffer(base64.b64decode(found[number]), np.uint64) for number in range(len(shards))]
    return copy_groups(dataset, np.concatenate(parts))


def hash_shard(dataset: Dataset, number: int) -> str:
    """The hashes of a shard's images in id order: 8 bytes each, in base64."""
    shard = dataset.info.shards[number]
    ids = np.arange(shard.first_id, shard.first_id + shard.rows)
    hash_n = np.array([difference_hash(image_HW) for image_HW in _grey(dataset, ids)], dtype=np.uint64)
    return base64.b64encode(hash_n.tobytes()).decode("ascii")


def difference_hash(image_HW: NDArray[np.uint8]) -> int:
    """DHash of a grey picture."""
    small = _resized(image_HW, 9, 8)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes())


def copy_groups(dataset: Dataset, hash_N: NDArray[np.uint64]) -> list[CopyGroup]:
    """The same, where the hashes of all images, by id, are known."""
    first_P, second_P = close_pairs(hash_N)
    if not len(first_P):
        return []
    ids = np.unique(np.concatenate([first_P, second_P]))
    small_nHW = np.stack([_resized(image_HW, THUMBNAIL, THUMBNAIL) for image_HW in _grey(dataset, ids)])
    one_P, other_P = np.searchsorted(ids, first_P), np.searchsorted(ids, second_P)
    is_copy_P = np.array(
        [
            np.abs(small_nHW[one].astype(np.int16) - small_nHW[other]).mean() <= MAX_DIFFERENCE
            for one, other in zip(one_P, other_P, strict=True)
        ]
    )
    one_P, other_P = one_P[is_copy_P], other_P[is_copy_P]
    edges = coo_array((np.ones(len(one_P), np.int8), (one_P, other_P)), shape=(len(ids), len(ids)))
    group_n = connected_components(edges, directed=False)[1]
    rows = dataset.take(["id", "key", "split", "label", "size", "checksum"], ids).to_pylist()
    groups: dict[int, list[dict]] = {}
    for group, row in zip(group_n.tolist(), rows, strict=True):
        groups.setdefault(group, []).append(row)
    names = dataset.info.class_names
    found = [
        _group(members, names, is_exact=len({(row["size"], row["checksum"]) for row in members}) == 1)
        for members in groups.values()
        if len(members) > 1
    ]
    return sorted(found, key=lambda group: (not group.is_leak, -len(group.ids), group.ids[0]))


def close_pairs(hash_N: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[P], [P] pairs that may be copies: every sample with the first of its hash, and first ones of close hashes."""
    hash_u, first_u, which_N = np.unique(hash_N, return_index=True, return_inverse=True)
    again = np.flatnonzero(first_u[which_N] != np.arange(len(hash_N)))
    pairs = [np.stack([first_u[which_N[again]], again])]
    for band in range(BANDS):
        value_u = hash_u >> np.uint64(16 * band) & np.uint64(0xFFFF)
        order_u = np.argsort(value_u, kind="stable")
        alive, step = np.arange(len(order_u)), 1
        while len(alive):  # places in the order whose band goes on for ``step`` more
            alive = alive[alive + step < len(order_u)]
            one, other = order_u[alive], order_u[alive + step]
            is_same = value_u[one] == value_u[other]
            alive, one, other = alive[is_same], one[is_same], other[is_same]
            is_close = np.bitwise_count(hash_u[one] ^ hash_u[other]) <= MAX_BITS
            pairs.append(np.stack([first_u[one[is_close]], first_u[other[is_close]]]))
            step += 1
    pairs_2P = np.unique(np.sort(np.concatenate(pairs, axis=1), axis=0), axis=1)
    return pairs_2P[0], pairs_2P[1]


def write_copy_groups(uri: str, groups: list[CopyGroup]) -> None:
    """Write the groups as a CSV, a row a sample."""
    rows: list[list[object]] = []
    for number, group in enumerate(groups, 1):
        kind = "exact" if group.is_exact else "near"
        members = zip(group.ids, group.keys, group.splits, group.labels, strict=True)
        rows += [[number, kind, *member] for member in members]
    storage.write_bytes(uri, csv_bytes(list(COLUMNS), rows))


def read_copy_groups(uri: str, dataset: Dataset) -> list[CopyGroup]:
    """The groups of a list that :func:`write_copy_groups` wrote, with the splits and labels that the samples have now.

    Args:
        uri: The list.
        dataset: What it is of, or a version of that.

    Raises:
        DataError: for a file that is no such list, or one of another data set.
    """
    table = text_columns(uri, {name: name for name in ("group", "kind", "id", "key")})
    members: dict[str, list[int]] = {}
    keys: dict[int, str] = {}
    for number, text, key in zip(table["group"], table["id"], table["key"], strict=True):
        if not (text.isdecimal() and len(text) < MAX_DIGITS):
            raise DataError(f"{uri} must have ids in its column id, got {text!r:.100}")
        members.setdefault(number, []).append(int(text))
        keys[int(text)] = key
    foreign, ids = f"{uri} was made from another data set than {dataset.uri}", sorted(keys)
    if ids and ids[-1] >= dataset.num_rows:
        raise DataError(f"{foreign}, which has no sample {ids[-1]}")
    taken = dataset.take(["id", "key", "split", "label"], np.array(ids, dtype=np.int64))
    rows = {row["id"]: row for row in taken.to_pylist()}
    for sample, key in keys.items():
        if rows[sample]["key"] != key:
            raise DataError(
                f"{foreign}: sample {sample} is {rows[sample]['key']!r:.100} there, {key!r:.100} in the list"
            )
    names, kinds = dataset.info.class_names, dict(zip(table["group"], table["kind"], strict=True))
    return [
        _group([rows[sample] for sample in group], names, is_exact=kinds[number] == "exact")
        for number, group in members.items()
    ]


def _group(rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, is_exact: bool) -> CopyGroup:
    """Rows of a manifest as a group."""
    return CopyGroup(
        ids=[row["id"] for row in rows],
        keys=[row["key"] for row in rows],
        splits=[row["split"] for row in rows],
        labels=[names[int(row["label"])] for row in rows],
        is_exact=is_exact,
    )


def _grey(dataset: Dataset, ids: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """[H, W] of some images in ascending order, small where a JPEG can be decoded so."""
    for begin in range(0, len(ids), IMAGES_AT_ONCE):
        for data in dataset.images(ids[begin : begin + IMAGES_AT_ONCE]).read_all():
            yield decode(data, channels=1, min_side=THUMBNAIL)[:, :, 0]


def _resized(image_HW: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image_HW).resize((width, height), Image.Resampling.BOX))
