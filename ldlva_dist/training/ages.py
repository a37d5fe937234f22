"""Percentiles of ages in steps, over all ranks, at a cost that does not depend on how many were counted."""

import numpy as np
from numpy.typing import NDArray

STEP = 1.05
LARGEST = 2**40
EDGES = np.unique(np.ceil(STEP ** np.arange(np.log(LARGEST) / np.log(STEP))).astype(np.int64))
"""Ages up to 21 have a bin each; a wider bin ends at most 5 % above where it begins."""


def count_ages(ages: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ages (>= 0) by bin, [len(EDGES)]: bin i holds those above EDGES[i - 1] up to EDGES[i]; counts of ranks add up."""
    return np.bincount(np.searchsorted(EDGES, ages), minlength=len(EDGES))


def percentile(counts: NDArray[np.number], share: float) -> float:
    """The least age that at least ``share`` (in (0, 1]) of those counted do not exceed, at most 5 % too large."""
    reached = np.cumsum(counts)
    return float(EDGES[np.searchsorted(reached, share * reached[-1])])
