"""What crosses a process boundary: frozen numpy arrays.

b = rows of one rank, K = neighbours, C = classes, V = feature width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEVER, LABEL = -1, -2
"""Versions of rows that no step wrote: nothing is there, or the sample's own smoothed label and no features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One rank's rows of one global batch, in the order of their positions."""

    step: int
    """The global step these rows belong to, from 0."""
    positions: NDArray[np.int32]
    """[b] place of each row in the global batch, 0..B-1."""
    ids: NDArray[np.int64]
    """[b] sample ids."""
    images: NDArray[np.uint8]
    """[b, H, W, channels] augmented, in 0..255."""
    labels: NDArray[np.int64]
    """[b] given class indices."""
    va: NDArray[np.float32]
    """[b, 2] valence and arousal in the data set's scale; NaN where the data set has none."""

    def __post_init__(self) -> None:
        sizes = {len(a) for a in (self.positions, self.ids, self.images, self.labels, self.va)}
        if len(sizes) != 1:
            raise ValueError(f"the arrays of a Batch must have one length, got {sorted(sizes)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbors:
    """What the bank knows of each row's K nearest training samples, nearest first."""

    ids: NDArray[np.int64]
    """[b, K] sample ids."""
    va: NDArray[np.float32]
    """[b, K, 2] valence and arousal."""
    labels: NDArray[np.int64]
    """[b, K] given class indices."""
    probs: NDArray[np.floating]
    """[b, K, C] stored class probabilities; zeros where never written."""
    features: NDArray[np.floating]
    """[b, K, V] stored features; zeros where never written."""
    versions: NDArray[np.int64]
    """[b, K] global step at which the row was written; NEVER (-1), or LABEL (-2) of a warm start."""
    graph: int = 0
    """The graph that the ids are from: 0 is the data set's, later ones were found anew in feature space."""
    images: NDArray[np.uint8] | None = None
    """neighbors.source=exact: [b, K, H, W, channels] augmented, in 0..255, to be forwarded in place of the stored."""

    def __post_init__(self) -> None:
        shape = self.ids.shape
        if any(a.shape[:2] != shape for a in (self.va, self.labels, self.probs, self.features, self.versions)):
            raise ValueError(f"the arrays of Neighbors must begin with one shape [b, K], got ids {shape}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BankUpdate:
    """One rank's outputs of one step, to be stored. An id that stands twice in a step keeps its highest position."""

    step: int
    positions: NDArray[np.int32]
    """[b] place in the global batch."""
    ids: NDArray[np.int64]
    """[b] sample ids."""
    probs: NDArray[np.floating]
    """[b, C] class probabilities."""
    features: NDArray[np.floating]
    """[b, V] features."""
