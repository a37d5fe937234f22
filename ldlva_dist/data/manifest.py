"""What a packed data set says of itself: ``manifest.parquet``, one row a sample, and ``dataset.json``.

Ids are dense, 0..N-1: training samples first, then the holdout, then the test samples. n = rows asked for.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist.data import storage
from ldlva_dist.errors import DataError

FORMAT_VERSION = 1
ROW_GROUP_ROWS = 65_536
SPLITS = ("train", "holdout", "test")
MANIFEST = "manifest.parquet"
DATASET = "dataset.json"
REJECTED = "rejected.parquet"

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),  # of the image in the shard, in bytes
        ("size", pa.int32()),
        ("checksum", pa.uint32()),  # zlib.crc32 of the image
        ("label", pa.int16()),
        ("valence", pa.float32()),  # as given, in [-1, 1]; null where the data set has none
        ("arousal", pa.float32()),
        ("split", pa.dictionary(pa.int8(), pa.string())),
    ]
)
OPTIONAL = {
    "votes": pa.list_(pa.float32()),  # raters per class
    "true_distribution": pa.list_(pa.float32()),  # drawn faces only; never reaches training
    "original_label": pa.int16(),  # as given, where --noise put another one into ``label``; never reaches training
    "flipped": pa.bool_(),  # the label is known to be wrong: drawn faces, --noise; never reaches training
}


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """Consecutive ids that make up a split."""

    first_id: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One tar file; its ids are consecutive and of one split."""

    name: str
    split: str
    first_id: int
    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """``dataset.json``."""

    format_version: int = FORMAT_VERSION
    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, SplitInfo]
    """train, holdout and test; a split that was not made has 0 rows."""
    shards: tuple[ShardInfo, ...]
    """In id order; the manifest's ``shard`` counts them."""
    has_valence_arousal: bool
    va_transform: Mapping[str, tuple[float, float]] | None = None
    """{"mean", "std"} of the training samples; where set, distances are measured on (va - mean) / std."""
    content_hash: str
    """Of keys, image checksums, labels, valence-arousal and splits in id order, class names and va_transform."""
    class_counts: Mapping[str, tuple[int, ...]]
    """Per split: samples of each class."""
    num_rejected: int = 0
    num_unlabelled: int = 0
    flip_share: float | None = None
    """Share of the train and holdout labels that are known to be wrong: drawn faces, or --noise."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """What it was made from, for people."""
    base: str | None = None
    """A version's way (``../..``) to the data set whose shards it uses; None where they lie in the same folder."""
    root: str | None = None
    """A version's: content hash of the data set in ``base``; all versions with one root have the same rows."""
    parent: str | None = None
    """A version's: content hash of what it was made from, the data set itself or another version."""
    change: str | None = None
    """A version's: what is new in it, in one line for people."""

    @property
    def num_train(self) -> int:
        """N of the method: samples 0..N-1 are trained on."""
        return self.splits["train"].rows

    @property
    def rows_hash(self) -> str:
        """The same for all versions of a data set: a sample has the same id in each of them."""
        return self.root or self.content_hash

    def shards_of(self, split: str) -> tuple[ShardInfo, ...]:
        """The shards of one split, in id order."""
        return tuple(shard for shard in self.shards if shard.split == split)


def read_info(dataset_uri: str) -> DatasetInfo:
    """``dataset.json`` of a data set; a folder without one, or of another format, is a DataError."""
    uri = storage.join(dataset_uri, DATASET)
    if not storage.exists(uri):
        raise DataError(f"{dataset_uri} is not a data set: it has no {DATASET} (jobs/make_shards.py writes one)")
    try:
        raw = json.loads(storage.read_bytes(uri))
        if raw["format_version"] != FORMAT_VERSION:
            raise DataError(f"{uri} has format_version {raw['format_version']}, this program reads {FORMAT_VERSION}")
        return _parse(raw)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri} is damaged: {error}") from error


def write_info(dataset_uri: str, info: DatasetInfo) -> None:
    """Write ``dataset.json``; the last file of a data set to be written."""
    text = json.dumps(dataclasses.asdict(info), indent=1) + "\n"
    storage.write_bytes(storage.join(dataset_uri, DATASET), text.encode())


def read_columns(dataset_uri: str, columns: Sequence[str], *, first_id: int = 0, rows: int | None = None) -> pa.Table:
    """Some columns of ids [first_id, first_id + rows); only the row groups that hold them are read.

    ``rows=None`` reads to the end. Ids or columns that do not exist are a DataError.
    """
    uri = storage.join(dataset_uri, MANIFEST)
    with storage.open_input(uri) as stream, pq.ParquetFile(stream) as manifest:
        total = manifest.metadata.num_rows
        rows = total - first_id if rows is None else rows
        if not 0 <= first_id <= first_id + rows <= total:
            raise DataError(f"{uri} holds ids 0..{total - 1}, asked for {first_id}..{first_id + rows - 1}")
        missing = [name for name in columns if name not in manifest.schema_arrow.names]
        if missing:
            raise DataError(f"{uri} has no column {missing[0]!r}")
        first_group, last_group = first_id // ROW_GROUP_ROWS, (first_id + max(rows, 1) - 1) // ROW_GROUP_ROWS
        groups = [group for group in range(first_group, last_group + 1) if group < manifest.num_row_groups]
        table = manifest.read_row_groups(groups, columns=list(columns))
    return table.slice(first_id - first_group * ROW_GROUP_ROWS, rows)


def read_va(dataset_uri: str, first_id: int, rows: int) -> NDArray[np.float32]:
    """[n, 2] valence and arousal in the scale that distances are measured in; NaN where the data set has none."""
    table = read_columns(dataset_uri, ("valence", "arousal"), first_id=first_id, rows=rows)
    va_n2 = np.stack([float_column(table, name) for name in ("valence", "arousal")], axis=1)
    return transform_va(va_n2, read_info(dataset_uri).va_transform)


def transform_va(
    va_n2: NDArray[np.float32], transform: Mapping[str, tuple[float, float]] | None
) -> NDArray[np.float32]:
    """``(va - mean) / std``, or the same array where there is no transform."""
    if transform is None:
        return va_n2
    mean_2, std_2 = (np.asarray(transform[name], dtype=np.float64) for name in ("mean", "std"))
    return ((va_n2 - mean_2) / std_2).astype(np.float32)


def float_column(table: pa.Table, name: str) -> NDArray[np.float32]:
    """[n] one column; nulls become NaN."""
    return table[name].combine_chunks().to_numpy(zero_copy_only=False).astype(np.float32)


def write_manifest(dataset_uri: str, table: pa.Table) -> None:
    """Write ``manifest.parquet`` from a table in id order with the columns of SCHEMA and any of OPTIONAL."""
    schema = schema_of(table.column_names)
    filesystem, path = storage.resolve(storage.join(dataset_uri, MANIFEST))
    ready = table.select(schema.names).cast(schema)
    pq.write_table(ready, path, filesystem=filesystem, row_group_size=ROW_GROUP_ROWS, compression="zstd")


def schema_of(names: Collection[str]) -> pa.Schema:
    """A manifest's schema: the columns of SCHEMA, and those of OPTIONAL that are among ``names``."""
    return pa.schema([*SCHEMA, *(pa.field(name, kind) for name, kind in OPTIONAL.items() if name in names)])


def _parse(raw: dict[str, Any]) -> DatasetInfo:
    transform = raw["va_transform"]
    parsed = {
        "class_names": tuple(raw["class_names"]),
        "splits": {name: SplitInfo(**split) for name, split in raw["splits"].items()},
        "shards": tuple(ShardInfo(**shard) for shard in raw["shards"]),
        "va_transform": transform and {name: tuple(pair) for name, pair in transform.items()},
        "class_counts": {name: tuple(counts) for name, counts in raw["class_counts"].items()},
    }
    return DatasetInfo(**{**raw, **parsed})


def column_names(dataset_uri: str) -> tuple[str, ...]:
    """The columns that the manifest of a data set has."""
    with storage.open_input(storage.join(dataset_uri, MANIFEST)) as stream:
        return tuple(pq.read_schema(stream).names)
