"""What in a data set's manifest is not as ``dataset.json`` says, without reading a shard: the cheap part of ``verify``.

Every training looks at this first. Block by block; only where keys are compared are 8 bytes a row held. n = rows of a
block, C = classes.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import SPLITS, DatasetInfo, float_column
from ldlva_dist.dataset.manifest_blocks import HASHED, ContentHash, Tally
from ldlva_dist.dataset.shards import key_hash
from ldlva_dist.errors import DataError

PLACE = "its image lies"
"""Begins what is said of images that cannot be where the manifest has them."""
_COLUMNS = ("shard", "offset", "size", *HASHED)


def check_manifest(dataset: Dataset, *, keys: bool = False, training_places: bool = True) -> list[str]:
    """A sentence for each kind of fault, with the first sample that has it.

    Args:
        dataset: A data set, or a version of one.
        keys: Whether keys are compared with each other, which takes most of the time.
        training_places: Whether images that cannot be where they are said to be count in the training split, too; a
            run with a quarantine finds them itself.
    """
    checks = _Checks(dataset.info, keys=keys, training_places=training_places)
    findings = list(check_info(dataset.info))
    try:
        for block in dataset.blocks(_COLUMNS):
            checks.add(block)
    except DataError as error:
        return [*findings, *checks.rows_said(), str(error)]
    return [*findings, *checks.rows_said(), *checks.end()]


def check_info(info: DatasetInfo) -> Iterator[str]:
    """Splits follow each other, and so do the shards in each; the counts add up."""
    at = 0
    for name in SPLITS:
        split, first = info.splits[name], at
        if split.first_id != at:
            yield f"dataset.json: {name} begins at id {split.first_id}, not at {at}"
        for shard in info.shards_of(name):
            if shard.first_id != at:
                yield f"dataset.json: {shard.path} begins at id {shard.first_id}, not at {at}"
            at = shard.first_id + shard.rows
        if at != first + split.rows:
            yield f"dataset.json: the shards of {name} hold {at - first} rows, the split {split.rows}"
        counts = info.class_counts.get(name, ())
        if len(counts) != len(info.class_names) or sum(counts) != split.rows:
            yield (
                f"dataset.json: the class counts of {name} are {list(counts)}, for {len(info.class_names)} classes and "
                f"{split.rows} rows"
            )
        at = first + split.rows
    if [shard.first_id for shard in info.shards] != sorted(shard.first_id for shard in info.shards):
        yield "dataset.json: the shards are not in the order of their ids"


class _Checks:
    """What was seen in the blocks so far."""

    def __init__(self, info: DatasetInfo, *, keys: bool, training_places: bool) -> None:
        self._info, self._keys, self._training_places = info, keys, training_places
        self._digest, self._tally = ContentHash(info.class_names, info.va_transform), Tally(info.class_names)
        self._split_ends = np.array(list(accumulate(info.splits[name].rows for name in SPLITS)))
        self._shard_first = np.array([shard.first_id for shard in info.shards], dtype=np.int64)
        self._shard_bytes = np.array([shard.bytes for shard in info.shards], dtype=np.int64)
        self._rows, self._hashes = 0, list[NDArray[np.uint64]]()
        self._first: dict[str, str] = {}
        self._count: dict[str, int] = {}

    def add(self, block: pa.Table) -> None:
        """Look at the next rows, which are in id order."""
        ids_n = np.arange(self._rows, self._rows + len(block))
        label_n, classes = block["label"].to_numpy(), len(self._info.class_names)
        no_class_n = (label_n < 0) | (label_n >= classes)
        self._note(
            "label", no_class_n, block, lambda n: f"label must be a class index in 0..{classes - 1}, got {label_n[n]}"
        )
        self._check_splits(block, ids_n)
        self._check_places(block, ids_n)
        self._check_va(block, ids_n)
        self._digest.update(block)
        self._tally.add(block.filter(pa.array(~no_class_n)) if no_class_n.any() else block)
        if self._keys:
            self._hashes.append(np.array([key_hash(key) for key in block["key"].to_pylist()], dtype=np.uint64))
        self._rows += len(block)

    def rows_said(self) -> Iterator[str]:
        """The faults of rows, each kind once."""
        for kind, sentence in self._first.items():
            more = self._count[kind] - 1
            yield sentence + (f" (and {more} more samples)" if more else "")

    def end(self) -> Iterator[str]:
        """What can be said when all rows were seen."""
        info = self._info
        if self._rows != self._split_ends[-1]:
            yield f"the manifest has {self._rows} rows, dataset.json says {self._split_ends[-1]}"
        twice = self._rows - len(np.unique(np.concatenate(self._hashes))) if self._hashes else 0
        if twice:
            yield f"{twice} keys stand more than once in the manifest"
        counts = self._tally.class_counts()
        if counts != dict(info.class_counts):
            yield f"the manifest's class counts are {counts}, dataset.json says {dict(info.class_counts)}"
        if self._digest.hexdigest() != info.content_hash:
            yield "the manifest does not have the content hash of dataset.json: one of them was changed"

    def _note(self, kind: str, wrong_n: NDArray[np.bool_], block: pa.Table, said: Callable[[int], str]) -> None:
        if not wrong_n.any():
            return
        n = int(wrong_n.argmax())
        self._first.setdefault(kind, f"sample {self._rows + n} ({block['key'][n].as_py()!r}): {said(n)}")
        self._count[kind] = self._count.get(kind, 0) + int(wrong_n.sum())

    def _check_splits(self, block: pa.Table, ids_n: NDArray[np.int64]) -> None:
        names, known = block["split"].cast(pa.string()), pc.SetLookupOptions(pa.array(SPLITS))
        split_n = pc.call_function("index_in", [names], known).fill_null(-1).to_numpy()
        wrong_n = split_n != np.searchsorted(self._split_ends, ids_n, side="right")
        self._note(
            "split", wrong_n, block, lambda n: f"it is in another split than dataset.json says, {names[n].as_py()!r}"
        )

    def _check_places(self, block: pa.Table, ids_n: NDArray[np.int64]) -> None:
        shard_n, offset_n, size_n = (block[name].to_numpy() for name in ("shard", "offset", "size"))
        expected_n = np.searchsorted(self._shard_first, ids_n, side="right") - 1
        other_n = shard_n != expected_n
        self._note("shard", other_n, block, lambda n: f"dataset.json has it in shard {expected_n[n]}, got {shard_n[n]}")
        if not len(self._shard_bytes):
            return
        bytes_n = self._shard_bytes[expected_n]
        wrong_n = (offset_n < 0) | (size_n <= 0) | (offset_n > bytes_n - size_n)
        if not self._training_places:
            wrong_n &= ids_n >= self._info.num_train
        self._note(
            "place",
            wrong_n,
            block,
            lambda n: f"{PLACE} in {size_n[n]} bytes at byte {offset_n[n]} of a shard of {bytes_n[n]} bytes",
        )

    def _check_va(self, block: pa.Table, ids_n: NDArray[np.int64]) -> None:
        """A version's rows may have none outside the training split."""
        va_n2 = np.stack([float_column(block, name) for name in ("valence", "arousal")], axis=1)
        missing_n = np.isnan(va_n2).any(axis=1)
        wrong_n = np.abs(np.nan_to_num(va_n2)).max(axis=1) > 1
        if self._info.has_valence_arousal:
            wrong_n |= missing_n & ((ids_n < self._info.num_train) | (self._info.base is None))
        else:
            wrong_n |= ~np.isnan(va_n2).all(axis=1)
        rule = "two numbers in [-1, 1]" if self._info.has_valence_arousal else "none, as dataset.json says"
        self._note("va", wrong_n, block, lambda n: f"valence-arousal must be {rule}, got {_pair(va_n2[n])}")


def _pair(va_2: NDArray[Any]) -> str:
    return ", ".join("none" if np.isnan(value) else f"{value:g}" for value in va_2)
