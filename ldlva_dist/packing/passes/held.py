"""The rows of a data set that more are added to, and what of the new ones does not fit or is there already.

M = its rows, N = all new rows, A = those of them that are accepted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import EXTRA, SPLITS, DatasetInfo
from ldlva_dist.dataset.shards import key_hash
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.passes.survey_columns import Columns
from ldlva_dist.packing.rules.places import Places
from ldlva_dist.packing.sources.rows import LEFT_OUT

IS_THERE = f"{LEFT_OUT}the data set has the row already"
A_COPY_IS_THERE = f"{LEFT_OUT}the data set has its image already"
_FITTING = ("votes", "true_distribution")


@dataclass(frozen=True)
class Held:
    """What must be known of each row that is there, in id order."""

    info: DatasetInfo
    columns: tuple[str, ...]
    """Of its manifest."""
    hash_M: NDArray[np.uint64]
    """Hash of the key."""
    image_M: NDArray[np.uint64]
    """Size and checksum of the image's bytes."""
    split_M: NDArray[np.int8]
    """Index into SPLITS."""
    group_M: NDArray[np.uint64] | None
    """Hash of the value of one extra column; 0 where a row has none."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """[3] rows of each of SPLITS."""
        return np.array([self.info.splits[split].rows for split in SPLITS], dtype=np.int64)

    @property
    def part_bytes(self) -> dict[str, int]:
        """Bytes of the shards of each split."""
        return {split: sum(shard.bytes for shard in self.info.shards_of(split)) for split in SPLITS}

    def check_fits(self, found: Columns) -> None:
        """SettingError unless the new rows have the columns that these have."""
        extra = [name for name in self.columns if name.startswith(EXTRA)]
        there = {name for name in self.columns if name in _FITTING} | set(extra)
        here = {name for name in found.optional if name in _FITTING or name.startswith(EXTRA)}
        if found.flipped_N is not None and found.flipped_N.any() and "flipped" not in self.columns:
            here.add("flipped")
        for names, has_va in ((there, self.info.has_valence_arousal), (here, bool(np.isfinite(found.va_N2).any()))):
            if has_va:
                names.add("valence-arousal")
        lacking, unknown = sorted(there - here), sorted(here - there)
        if lacking or unknown:
            said = [f"they have no {', '.join(lacking)}"] * bool(lacking)
            said += [f"the data set has no {', '.join(unknown)}"] * bool(unknown)
            raise SettingError(
                f"added rows must have the columns of the data set (--keep-column names those that are {EXTRA}...): "
                f"{'; '.join(said)}"
            )

    def leave_out(self, found: Columns, *, copies: bool) -> None:
        """Reject rows whose key and image stand together in a row that is there; ``copies``: whose image stands there.

        Neither counts as bad.
        """
        image_N = image_of(found.size_N, found.checksum_N)
        order_M = np.argsort(self.hash_M, kind="stable")
        place_N = np.minimum(np.searchsorted(self.hash_M[order_M], found.hash_N), len(order_M) - 1)
        row_N = order_M[place_N]
        found.reject((self.hash_M[row_N] == found.hash_N) & (self.image_M[row_N] == image_N), IS_THERE)
        if copies:
            found.reject(np.isin(image_N, self.image_M), A_COPY_IS_THERE)

    def copies_said(self, places: Places, row_A: NDArray[np.int64], split_A: NDArray[np.int8]) -> Iterator[str]:
        """One sentence for every two splits between which accepted rows share images with those that are there."""
        image_A = image_of(places.found.size_N[row_A], places.found.checksum_N[row_A])
        for new, name in enumerate(SPLITS):
            mine_n = np.flatnonzero(split_A == new)
            for old, other in enumerate(SPLITS):
                again_n = mine_n[np.isin(image_A[mine_n], self.image_M[self.split_M == old])]
                if len(again_n):
                    [one] = places.of(row_A[again_n[:1]])
                    yield (
                        f"copies: {len(again_n)} of {len(mine_n)} added {name} images are in {other} already, "
                        f"byte for byte, such as {one}"
                    )


def read_held(parent: Dataset, group_columns: Sequence[str]) -> Held:
    """Read what is asked for of a data set's manifest; 17 bytes a row are kept, or 25 with a group.

    Args:
        parent: Data set that rows are added to.
        group_columns: User's columns that may say what group a row is of; the first that is there does.
    """
    columns = parent.column_names()
    group = next((EXTRA + name for name in group_columns if EXTRA + name in columns), None)
    table = parent.columns(["key", "size", "checksum", "split", *([group] if group else [])])
    split = pc.call_function("index_in", [table["split"].cast(pa.string())], pc.SetLookupOptions(pa.array(SPLITS)))
    return Held(
        info=parent.info,
        columns=columns,
        hash_M=np.array([key_hash(key) for key in table["key"].to_pylist()], dtype=np.uint64),
        image_M=image_of(table["size"].to_numpy(), table["checksum"].to_numpy()),
        split_M=split.to_numpy().astype(np.int8),
        group_M=None if group is None else _hashes(table[group]),
    )


def image_of(size_n: NDArray[np.integer], checksum_n: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """[n] one number for the bytes of each image."""
    return size_n.astype(np.uint64) << np.uint64(32) | checksum_n


def _hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    coded = column.combine_chunks().dictionary_encode()
    hashes = np.array([0, *(key_hash(value) for value in coded.dictionary.to_pylist())], dtype=np.uint64)
    return hashes[coded.indices.fill_null(-1).to_numpy() + 1]
