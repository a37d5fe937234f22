"""Claim: the labels around each label tell how many are wrong, whatever share it is, without a network.

Counts the wrong labels of a packed data set with valence-arousal by ``analysis/label_doubt.py``, with several numbers
of neighbours, and compares with those that are known.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from bench.common import drawn_faces, report
from ldlva_dist.analysis.label_doubt import doubt_by_neighbors
from ldlva_dist.analysis.scoring import wrong_labels
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.index.graph import nearest_neighbors

MOST_AWAY = 0.05
"""Of all labels: the largest error with the widest neighbourhood."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to count in."""

    dataset: str | None = None
    """A packed data set with valence-arousal; 3,000 drawn faces with 30 % flipped if not given."""
    neighbors: tuple[int, ...] = (8, 16, 32)


def main(arguments: Arguments) -> None:
    """Count, and print one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        count(Dataset.open(arguments.dataset or drawn_faces(folder, train=3000, pixels=48)), arguments.neighbors)


def count(dataset: Dataset, neighbors: Sequence[int]) -> None:
    """Count with each number of neighbours."""
    labels_N, known = dataset.labels("train"), wrong_labels(dataset)
    everyone = np.ones(len(labels_N), dtype=bool)
    graph_NK = nearest_neighbors(dataset.va(0, len(labels_N)), max(neighbors))[0].astype(np.int64)
    num_classes = len(dataset.info.class_names)
    expected: dict[int, float] = {
        k: float(doubt_by_neighbors([graph_NK[:, :k]], labels_N, everyone, num_classes).sum())
        for k in sorted(neighbors)
    }
    wrong = 0 if known is None else int((known[0] & known[1]).sum())
    found: dict[str, Any] = {"labels": len(labels_N), "wrong": wrong, "expected": expected}
    ok = abs(expected[max(expected)] - wrong) <= MOST_AWAY * len(labels_N)
    report("counts", ok=ok, dataset=dataset.info.name, **found)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
