"""What a packed data set says of itself: ``manifest.parquet``, one row a sample, and ``dataset.json``.

Ids are dense, 0..N-1: training samples first, then the holdout, then the test samples. n = rows asked for.
"""

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.stored_rows import StoredRows, open_rows
from ldlva_dist.errors import DataError
from ldlva_dist.values.typed_json import Count, Rule, Text, build_dataclass, parse_object, require_format

FORMAT_VERSION = 1
ROW_GROUP_ROWS = 65_536
SPLITS = ("train", "holdout", "test")
MANIFEST = "manifest.parquet"
DATASET = "dataset.json"
REJECTED = "rejected.parquet"
VERSIONS = "versions"

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
    "votes": pa.list_(pa.float32()),  # per class: how many raters chose it, or their share
    "raters": pa.float32(),  # all who were asked, those who chose no class among them; null where nobody says
    "true_distribution": pa.list_(pa.float32()),  # drawn faces only; never reaches training
    "original_label": pa.int16(),  # as given, where --noise put another one into ``label``; never reaches training
    "flipped": pa.bool_(),  # the label is known to be wrong: drawn faces, --noise; never reaches training
}
EXTRA = "extra_"
"""How the names of the user's own columns begin: text for grouping and filtering, which never reaches training."""
REQUIRED = tuple(name for name in SCHEMA.names if name not in ("valence", "arousal"))
"""Columns without nulls."""

Split = Annotated[str, Rule("train, holdout or test", lambda name: name in SPLITS)]
FileName = Annotated[
    str,
    Rule(
        "the name of a file beside it, of at most 255 bytes",
        lambda name: name not in ("", ".", "..") and not set(name) & set("/\\") and len(name.encode()) < 256,
    ),
]
Transform = Annotated[
    Mapping[str, tuple[float, float]],
    Rule(
        "a mean and a std > 0 of valence and arousal",
        lambda pairs: pairs.keys() == {"mean", "std"} and min(pairs["std"]) > 0,
    ),
]


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """Consecutive ids that make up a split."""

    first_id: Count
    rows: Count


Splits = Annotated[Mapping[str, SplitInfo], Rule("train, holdout and test", lambda a: a.keys() == set(SPLITS))]


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One tar file; its ids are consecutive and of one split."""

    name: FileName
    split: Split
    first_id: Count
    rows: Annotated[Count, Rule("> 0", bool)]
    bytes: Count
    version: FileName | None = None
    """Version that brought it, in whose folder it lies; None: it lies in the data set's own."""

    @property
    def path(self) -> str:
        """Where it lies in the data set's folder."""
        return self.name if self.version is None else f"{VERSIONS}/{self.version}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class RowsBefore:
    """What a data set was before rows were added; in each split the old rows come first, in their order."""

    rows_hash: Text
    """``DatasetInfo.rows_hash`` of then."""
    splits: Splits


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """``dataset.json``."""

    format_version: int = FORMAT_VERSION
    name: str
    class_names: Annotated[tuple[Text, ...], Rule("different names, one at least", lambda a: 0 < len(a) == len(set(a)))]
    splits: Splits
    """train, holdout and test; a split that was not made has 0 rows."""
    shards: Annotated[
        tuple[ShardInfo, ...],
        Rule("files of different names", lambda a: len({(shard.version, shard.name) for shard in a}) == len(a)),
    ]
    """In id order; the manifest's ``shard`` counts them."""
    has_valence_arousal: bool
    va_transform: Transform | None = None
    """{"mean", "std"} of the training samples; where set, distances are measured on (va - mean) / std."""
    content_hash: Text
    """Hash of keys, image checksums, labels, valence-arousal and splits in id order, class names and va_transform."""
    class_counts: Mapping[str, tuple[Count, ...]]
    """Per split: samples of each class."""
    num_rejected: Count = 0
    num_unlabelled: Count = 0
    flip_share: Annotated[float, Rule("in [0, 1]", lambda share: 0 <= share <= 1)] | None = None
    """Share of the train and holdout labels that are known to be wrong: drawn faces, or --noise."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """Origin of the rows, for people."""
    base: str | None = None
    """A version's way (``../..``) to the data set whose shards it uses; None where they lie in the same folder."""
    root: str | None = None
    """A version's: content hash of the data set in ``base``."""
    parent: str | None = None
    """A version's: content hash of what it was made from, the data set itself or another version."""
    change: str | None = None
    """A version's: what is new in it, in one line for people."""
    rows: str | None = None
    """Content hash of the version that brought the newest rows; None where none were added to those of the data set."""
    before: tuple[RowsBefore, ...] = ()
    """What it was each time that rows were added, oldest first."""

    @property
    def num_train(self) -> int:
        """N of the method: samples 0..N-1 are trained on."""
        return self.splits["train"].rows

    @property
    def rows_hash(self) -> str:
        """The same for all versions with the same rows: a sample has the same id in each of them."""
        return self.rows or self.root or self.content_hash

    @property
    def root_hash(self) -> str:
        """Content hash of the data set that it is, or is a version of."""
        return self.root or self.content_hash

    def shards_of(self, split: str) -> tuple[ShardInfo, ...]:
        """The shards of one split, in id order."""
        return tuple(shard for shard in self.shards if shard.split == split)


def read_info(dataset_uri: str) -> DatasetInfo:
    """``dataset.json`` of a data set; a folder without one, or of another format, is a DataError."""
    uri = storage.join(dataset_uri, DATASET)
    if not storage.exists(uri):
        raise DataError(f"{dataset_uri} is not a data set: it has no {DATASET} (jobs/make_shards.py writes one)")
    raw = parse_object(storage.read_bytes(uri), uri)
    require_format(raw, FORMAT_VERSION, uri)
    return build_dataclass(DatasetInfo, raw, uri)


def write_info(dataset_uri: str, info: DatasetInfo) -> None:
    """Write ``dataset.json``; the last file of a data set to be written."""
    text = json.dumps(dataclasses.asdict(info), indent=1) + "\n"
    storage.write_bytes(storage.join(dataset_uri, DATASET), text.encode())


@contextmanager
def open_manifest(dataset_uri: str) -> Iterator[StoredRows]:
    """``manifest.parquet``, whoever wrote it last; a damaged one is a DataError."""
    with open_rows(storage.join(dataset_uri, MANIFEST), schema_of(OPTIONAL), REQUIRED, texts=EXTRA) as manifest:
        yield manifest


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


def list_column(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """[n, C] a column of lists of one length; rows of zeros where there is none."""
    column = column.combine_chunks()
    there_n = column.is_valid().to_numpy(zero_copy_only=False)
    rows_m = column.drop_null()
    values = rows_m.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    width = len(values) // max(len(rows_m), 1)
    lists_nC = np.zeros((len(column), width), dtype=np.float32)
    lists_nC[there_n] = values.reshape(len(rows_m), width)
    return lists_nC


def write_manifest(dataset_uri: str, table: pa.Table) -> None:
    """Write ``manifest.parquet`` from a table in id order; its columns as in :func:`schema_of`."""
    schema = schema_of(table.column_names)
    filesystem, path = storage.resolve(storage.join(dataset_uri, MANIFEST))
    ready = table.select(schema.names).cast(schema)
    pq.write_table(ready, path, filesystem=filesystem, row_group_size=ROW_GROUP_ROWS, compression="zstd")


def schema_of(names: Collection[str]) -> pa.Schema:
    """A manifest's schema: the columns of SCHEMA, and those of OPTIONAL and the user's own that are among ``names``."""
    optional = [pa.field(name, kind) for name, kind in OPTIONAL.items() if name in names]
    return pa.schema([*SCHEMA, *optional, *(pa.field(name, pa.string()) for name in names if name.startswith(EXTRA))])
