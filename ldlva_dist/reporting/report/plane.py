"""All samples in the valence-arousal plane, or so many that a page can hold, packed. N = samples, M = points."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 200_000
LEVELS = 65_535
RECORD = np.dtype([("x", "<u2"), ("y", "<u2"), ("label", "<u2"), ("uncertainty", "u1")])
"""Places in the bounds, and uncertainty, as shares of the largest integer."""
CHARACTERS = RECORD.itemsize * 4 / 3
"""Length of one point in base64."""


def pack_points(
    va_N2: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    uncertainty_N: NDArray[np.float32],
    most: int = MAX_POINTS,
) -> tuple[dict[str, Any], str]:
    """What the page's script must know, and base64 of M RECORDs: all samples, or ``most`` of evenly spaced ids."""
    take = np.arange(0, len(va_N2), -(-len(va_N2) // most))
    take = take[np.isfinite(va_N2[take]).all(axis=1)]
    va_M2 = va_N2[take].astype(np.float64)
    low_2, high_2 = (va_M2.min(axis=0), va_M2.max(axis=0)) if len(take) else (np.full(2, -1.0), np.ones(2))
    span = max(float((high_2 - low_2).max()), 1e-6)  # one scale for both, so that near looks near
    low_2 = (low_2 + high_2 - span) / 2
    records = np.empty(len(take), dtype=RECORD)
    records["x"], records["y"] = np.rint((va_M2 - low_2) / span * LEVELS).T
    records["label"] = labels_N[take]
    records["uncertainty"] = np.rint(np.clip(uncertainty_N[take], 0, 1) * 255)
    facts = {"points": len(take), "of": len(va_N2), "low": low_2.tolist(), "span": span}
    return facts, base64.b64encode(records.tobytes()).decode("ascii")
