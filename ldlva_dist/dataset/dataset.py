"""A packed data set that was opened: every room reads its columns and images through this. n = rows asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.manifest import (
    MANIFEST,
    ROW_GROUP_ROWS,
    VERSIONS,
    DatasetInfo,
    float_column,
    open_manifest,
    read_info,
    transform_va,
)
from ldlva_dist.dataset.stored_images import IMAGE_COLUMNS, StoredImages
from ldlva_dist.errors import DataError

BASE = "../.."


@dataclass(frozen=True)
class Dataset:
    """A data set, or a version of one: its address and its ``dataset.json``.

    It holds no row of the manifest, so that it is cheap to send to tasks and actors.
    """

    uri: str
    info: DatasetInfo

    @classmethod
    def open(cls, uri: str) -> "Dataset":
        """The data set at an address.

        Args:
            uri: Folder or s3:// prefix.

        Raises:
            DataError: for a folder without ``dataset.json``, or with one of another format.
        """
        return cls(uri, read_info(uri))

    @property
    def num_rows(self) -> int:
        """Rows of all splits."""
        return sum(split.rows for split in self.info.splits.values())

    @property
    def root_uri(self) -> str:
        """Where the shards lie: in the data set itself, or, for a version, in the data set it belongs to."""
        if self.info.base is None:
            return self.uri
        remote = storage.is_remote(self.uri)
        parts = (self.uri.rstrip("/") if remote else storage.resolve(self.uri)[1]).split("/")
        # s3:, nothing, bucket; or a root directory
        is_long = len(parts) >= (5 if remote else 3)
        if self.info.base != BASE or not is_long or parts[-2] != VERSIONS or parts[-1] in ("", ".", ".."):
            raise DataError(
                f"{self.uri}: base must be {BASE!r} in the folder of a version, DATASET/{VERSIONS}/NAME, and nothing "
                f"in another, got {self.info.base!r}"
            )
        return "/".join(parts[:-2]) or "/"

    def require_root(self) -> str:
        """The same; a DataError unless a version's data set is there and is the one that it was made of."""
        root = self.root_uri
        if self.info.base is not None and Dataset.open(root).info.content_hash != self.info.root:
            raise DataError(f"{self.uri} is a version of another data set than {root}, by the content hashes")
        return root

    def shard_uri(self, number: int) -> str:
        """Where shard ``number`` is read, as the manifest's ``shard`` counts them."""
        return storage.join(self.root_uri, self.info.shards[number].path)

    def column_names(self) -> tuple[str, ...]:
        """The columns that the manifest has."""
        with open_manifest(self.uri) as manifest:
            return manifest.names

    def columns(self, names: Sequence[str], *, first_id: int = 0, rows: int | None = None) -> pa.Table:
        """Columns of consecutive samples; only the row groups that hold them are read.

        Args:
            names: Columns of the manifest.
            first_id: Id of the first sample.
            rows: Number of samples; None reads to the end.

        Returns:
            A table of n rows in id order.

        Raises:
            DataError: for ids or columns that do not exist, or ids out of order.
        """
        with open_manifest(self.uri) as manifest:
            total = manifest.num_rows
            rows = total - first_id if rows is None else rows
            if not 0 <= first_id <= first_id + rows <= total:
                raise DataError(
                    f"{self._manifest_uri} holds ids 0..{total - 1}, asked for {first_id}..{first_id + rows - 1}"
                )
            table = manifest.read([*names, *({"id"} - set(names))], first_id, rows)
        self._require_ids(table, first_id)
        return table.select(list(names))

    def blocks(self, names: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The manifest, or some columns of it, in id order: 65,536 rows at a time, however the file is cut."""
        at = 0
        with open_manifest(self.uri) as manifest:
            names = manifest.names if names is None else names
            for block in manifest.blocks([*names, *({"id"} - set(names))], ROW_GROUP_ROWS):
                self._require_ids(block, at)
                yield block.select(list(names))
                at += len(block)

    def take(self, names: Sequence[str], ids_n: NDArray[np.int64]) -> pa.Table:
        """Columns of any samples, by one pass over the manifest that holds no more than they take.

        Args:
            names: Columns of the manifest.
            ids_n: [n] ids, each once, in ascending order.

        Returns:
            A table of n rows in the order of ``ids_n``.
        """
        pieces, at, done = [], 0, 0
        for block in self.blocks(names):
            begin, done = np.searchsorted(ids_n, [at, at + len(block)]).tolist()
            pieces.append(block.take(pa.array(ids_n[begin:done] - at)))
            at += len(block)
            if done == len(ids_n):
                return pa.concat_tables(pieces)
        raise DataError(f"{self._manifest_uri} holds ids 0..{at - 1}, asked for {ids_n[-1]}")

    def labels(self, split: str) -> NDArray[np.int64]:
        """[n] given labels of a split, 0..C-1."""
        place = self.info.splits[split]
        table = self.columns(["label"], first_id=place.first_id, rows=place.rows)
        return table["label"].to_numpy().astype(np.int64)

    def va(self, first_id: int, rows: int) -> NDArray[np.float32]:
        """[n, 2] valence and arousal in the scale that distances are measured in; NaN where the data set has none."""
        table = self.columns(("valence", "arousal"), first_id=first_id, rows=rows)
        va_n2 = np.stack([float_column(table, name) for name in ("valence", "arousal")], axis=1)
        return transform_va(va_n2, self.info.va_transform)

    def images(self, ids: range | NDArray[np.int64]) -> StoredImages:
        """The stored images of some samples; their places are looked up, their bytes are read when asked for.

        Args:
            ids: Consecutive ids, or any in any order; an id that stands twice counts once.
        """
        if isinstance(ids, range):
            return StoredImages(self.columns(IMAGE_COLUMNS, first_id=ids.start, rows=len(ids)), self.shard_uri)
        return StoredImages(self.take(IMAGE_COLUMNS, np.unique(ids)).combine_chunks(), self.shard_uri)

    @property
    def _manifest_uri(self) -> str:
        return storage.join(self.uri, MANIFEST)

    def _require_ids(self, table: pa.Table, first_id: int) -> None:
        """DataError unless the ids of a table of the manifest are first_id, first_id + 1, ..."""
        if not np.array_equal(table["id"].to_numpy(), np.arange(first_id, first_id + len(table))):
            raise DataError(
                f"{self._manifest_uri} is damaged: the ids {first_id}..{first_id + len(table) - 1} are not there in "
                "order: rows were moved, added or taken away"
            )
