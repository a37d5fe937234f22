"""Images that stand in a data set more than once, byte for byte: said, and never dropped. N = rows of all splits.

Two images of one size and one CRC-32 are taken for copies.
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
    size_N: NDArray[np.int32],
    checksum_N: NDArray[np.uint32],
    names_of: Callable[[NDArray[np.int64]], Sequence[str]],
) -> list[str]:
    """One sentence for every two splits that share images, and for every split that holds some twice.

    Args:
        split_N: Index into SPLITS.
        size_N: Bytes of the image.
        checksum_N: Its CRC-32.
        names_of: What some rows are called, for the examples.
    """
    image_N = size_N.astype(np.uint64) << np.uint64(32) | checksum_N
    rows = [np.flatnonzero(split_N == split) for split in range(len(SPLITS))]
    said = []
    for later in (2, 1, 0):
        for earlier in range(later + 1):
            again_n, first_n = _again(image_N, rows[later], rows[earlier])
            if len(again_n):
                one, other = names_of(np.array([again_n[0], first_n[0]]))
                where = f"in {SPLITS[earlier]} too" if earlier < later else "there more than once"
                said.append(
                    f"copies: {len(again_n)} of {len(rows[later])} {SPLITS[later]} images are {where}, byte for byte, "
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

    return copies_said(
        split_N.fill_null(-1).to_numpy().astype(np.int8),
        table["size"].to_numpy(),
        table["checksum"].to_numpy(),
        names_of,
    )


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
