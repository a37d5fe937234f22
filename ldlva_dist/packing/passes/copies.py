"""Images that stand in a data set more than once. N = rows of all splits.

While a set is packed, images are copies where their pixels are the same, in whatever formats, by 64 bits of checksums.
Of a packed set only the bytes are compared, by size and CRC-32.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import SPLITS


def copies_said(
    split_N: NDArray[np.int8],
    image_N: NDArray[np.uint64],
    names_of: Callable[[NDArray[np.int64]], Sequence[str]],
    how: str = "pixel by pixel",
) -> list[str]:
    """One sentence for every two splits that share images, and for every split that holds some twice.

    Args:
        split_N: Index into SPLITS.
        image_N: Equal where two images are one.
        names_of: What some rows are called, for the examples.
        how: What is the same.
    """
    rows = [np.flatnonzero(split_N == split) for split in range(len(SPLITS))]
    said = []
    for later in (2, 1, 0):
        for earlier in range(later + 1):
            again_n, first_n = _again(image_N, rows[later], rows[earlier])
            if len(again_n):
                one, other = names_of(np.array([again_n[0], first_n[0]]))
                where = f"in {SPLITS[earlier]} too" if earlier < later else "there more than once"
                said.append(
                    f"copies: {len(again_n)} of {len(rows[later])} {SPLITS[later]} images are {where}, {how}, "
                    f"such as {one}, identical with {other}"
                )
    return said


def copies_in(dataset: Dataset) -> list[str]:
    """The same of a packed data set, by its manifest; 9 bytes a row are held."""
    table = dataset.columns(["split", "size", "checksum"])
    split_N = pc.call_function("index_in", [table["split"].cast(pa.string())], pc.SetLookupOptions(pa.array(SPLITS)))

    def names_of(rows_n: NDArray[np.int64]) -> list[str]:
        keys = (dataset.columns(["key"], first_id=row, rows=1)["key"][0] for row in rows_n.tolist())
        return [repr(str(key)) for key in keys]

    image_N = table["size"].to_numpy().astype(np.uint64) << np.uint64(32) | table["checksum"].to_numpy()
    return copies_said(split_N.fill_null(-1).to_numpy().astype(np.int8), image_N, names_of, "byte for byte")


def leaks(part_n: NDArray[np.int8], image_n: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """[n] which rows stand in a later part too: a training row in the holdout or the test part, a holdout row in it.

    Args:
        part_n: [n] index into SPLITS of the part that each row comes from.
        image_n: [n] equal where two images are one.
    """
    leaks_n = np.zeros(len(part_n), dtype=bool)
    for part in range(len(SPLITS) - 1):
        leaks_n |= (part_n == part) & np.isin(image_n, image_n[part_n > part])
    return leaks_n


def _again(
    image_N: NDArray[np.uint64], later_n: NDArray[np.int64], earlier_m: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those rows of ``later_n`` whose image is that of another row of ``earlier_m``, and the first such row."""
    if not len(earlier_m):
        return later_n[:0], later_n[:0]
    known, first = np.unique(image_N[earlier_m], return_index=True)
    place_n = np.minimum(np.searchsorted(known, image_N[later_n]), len(known) - 1)
    first_n = earlier_m[first[place_n]]
    again_n = np.logical_and(image_N[first_n] == image_N[later_n], first_n != later_n)
    return later_n[again_n], first_n[again_n]
