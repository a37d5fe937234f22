"""Whether one person stands in two parts, which makes the figures of the later one too good."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.dataset.manifest import EXTRA, SPLITS
from ldlva_dist.packing.passes.held import Held
from ldlva_dist.packing.rules.places import Places


def persons_said(
    places: Places,
    row_A: NDArray[np.int64],
    split_A: NDArray[np.int8],
    columns: Sequence[str],
    held: Held | None,
) -> Iterator[str]:
    """One sentence for every two splits that share persons.

    Args:
        places: Looks rows up.
        row_A: [A] accepted rows, by their place among all.
        split_A: [A] index into SPLITS.
        columns: User's columns that may say who it is; the first that the data have does.
        held: Rows that the data set has already; None for a new one.
    """
    found = places.found
    name = next((name for name in columns if EXTRA + name in found.optional), None)
    if name is None or found.group_N is None:
        return
    new_A = found.group_N[row_A]
    group, split = new_A, split_A
    if held is not None and held.group_M is not None:
        group, split = np.concatenate([held.group_M, new_A]), np.concatenate([held.split_M, split_A])
    people = [np.setdiff1d(group[split == number], [0]) for number in range(len(SPLITS))]
    for later in (2, 1):
        for earlier in range(later):
            shared = np.intersect1d(np.intersect1d(people[later], people[earlier]), new_A)
            if len(shared):
                example = places.look_up(row_A[new_A == shared[0]][:1], [EXTRA + name])[EXTRA + name][0]
                hint = f" (--holdout-by {name} parts them)" if SPLITS[later] == "holdout" else ""
                yield (
                    f"{name}: {len(shared)} of {len(people[later])} in {SPLITS[later]} are in {SPLITS[earlier]} too, "
                    f"such as {str(example)!r}{hint}"
                )
