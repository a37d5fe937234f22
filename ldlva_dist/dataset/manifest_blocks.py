"""The manifest as a stream of row groups. n = rows of one group, S = splits, C = classes."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.manifest import MANIFEST, ROW_GROUP_ROWS, SPLITS, float_column, schema_of
from ldlva_dist.errors import DataError, SettingError

HASHED = ("key", "checksum", "label", "valence", "arousal", "split")


def write_blocks(dataset_uri: str, blocks: Iterable[pa.Table]) -> None:
    """Write ``manifest.parquet``, one row group a table: 65,536 rows in each but the last, in id order."""
    filesystem, path = storage.resolve(storage.join(dataset_uri, MANIFEST))
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        raise DataError(f"{dataset_uri} would have no rows")
    schema = schema_of(first.column_names)
    with pq.ParquetWriter(path, schema, filesystem=filesystem, compression="zstd") as writer:
        for block in chain([first], blocks):
            writer.write_table(block.select(schema.names).cast(schema), row_group_size=ROW_GROUP_ROWS)


class ContentHash:
    """SHA-256 of what a run can depend on; the same for the same samples, whatever the shards look like."""

    def __init__(self, class_names: Sequence[str], transform: Mapping[str, tuple[float, float]] | None) -> None:
        self._digest = hashlib.sha256(json.dumps([list(class_names), transform]).encode())

    def update(self, block: pa.Table) -> None:
        """The next row group, with at least the columns of HASHED."""
        for name in HASHED:
            self._digest.update(_column_bytes(block[name]))

    def hexdigest(self) -> str:
        """Of all row groups so far."""
        return self._digest.hexdigest()


@dataclass
class Tally:
    """What ``dataset.json`` says of the rows, counted row group by row group."""

    class_names: tuple[str, ...]
    train_rows: int = 0
    train_rows_with_va: int = 0
    first_without_va: str | None = None
    flippable_rows: int = 0
    flipped_rows: int = 0
    sums_2: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    squares_2: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def __post_init__(self) -> None:
        self.counts_SC = np.zeros((len(SPLITS), len(self.class_names)), dtype=np.int64)

    def add(self, block: pa.Table) -> None:
        """Count one row group; a label that is no class is a DataError."""
        label_n, classes = block["label"].to_numpy(), len(self.class_names)
        wrong_n = (label_n < 0) | (label_n >= classes)
        if wrong_n.any():
            first = int(wrong_n.argmax())
            raise DataError(
                f"label must be a class index in 0..{classes - 1}, got {label_n[first]} for {block['key'][first]}"
            )
        split_n = pc.call_function(
            "index_in", [block["split"].cast(pa.string())], pc.SetLookupOptions(pa.array(SPLITS))
        ).to_numpy()
        for index in range(len(SPLITS)):
            self.counts_SC[index] += np.bincount(label_n[split_n == index], minlength=classes)
        if "flipped" in block.column_names:
            flipped_n = block["flipped"].to_numpy().astype(bool)[split_n != SPLITS.index("test")]
            self.flippable_rows += len(flipped_n)
            self.flipped_rows += int(flipped_n.sum())
        train = block.filter(pa.array(split_n == 0))
        va_n2 = np.stack([float_column(train, name) for name in ("valence", "arousal")], axis=1).astype(np.float64)
        known_n = ~np.isnan(va_n2).any(axis=1)
        if self.first_without_va is None and not known_n.all():
            self.first_without_va = str(train["key"][int(known_n.argmin())])
        self.train_rows += len(train)
        self.train_rows_with_va += int(known_n.sum())
        self.sums_2 += va_n2[known_n].sum(axis=0)
        self.squares_2 += (va_n2[known_n] ** 2).sum(axis=0)

    def class_counts(self) -> dict[str, tuple[int, ...]]:
        """Per split: samples of each class."""
        return {split: tuple(self.counts_SC[i].tolist()) for i, split in enumerate(SPLITS)}

    def flip_share(self) -> float | None:
        """Share of the train and holdout labels that are known to be wrong; None where the rows do not say."""
        return self.flipped_rows / self.flippable_rows if self.flippable_rows else None

    def has_va(self, *, needed: bool) -> bool:
        """Whether the training rows have valence-arousal; some with and some without is a DataError."""
        missing = self.train_rows - self.train_rows_with_va
        if missing and (needed or self.train_rows_with_va):
            raise DataError(
                f"every training row needs valence-arousal, {missing} of {self.train_rows} have none, "
                f"the first is {self.first_without_va}"
            )
        return not missing

    def va_transform(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of the training rows; SettingError where they do not vary."""
        mean_2 = self.sums_2 / max(self.train_rows_with_va, 1)
        std_2 = np.sqrt(np.maximum(self.squares_2 / max(self.train_rows_with_va, 1) - mean_2**2, 0))
        if not (std_2 > 1e-6).all():
            raise SettingError("--standardize-va needs valence-arousal that varies over the training rows")
        return {"mean": (float(mean_2[0]), float(mean_2[1])), "std": (float(std_2[0]), float(std_2[1]))}


def _column_bytes(column: pa.ChunkedArray) -> memoryview:
    if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
        text = column.cast(pa.string()).combine_chunks()
        lines = pa.ListArray.from_arrays(pa.array([0, len(text)], pa.int32()), text)
        return memoryview(pc.call_function("binary_join", [lines, "\n"])[0].as_buffer())
    return memoryview(column.combine_chunks().to_numpy(zero_copy_only=False)).cast("B")
