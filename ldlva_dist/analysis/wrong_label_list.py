"""Which given labels are probably wrong, and how many.

The labels around a label say how probable it is that it is wrong, and so how many of each class are (label_doubt.py).
Which ones is a matter of suspicion, which knows the images too: the highest ones are listed, as many as are expected.
N = samples, C = classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ExpectedWrong:
    """What is expected of the labels of one class."""

    samples: int
    expected: float
    """Number of wrong labels."""
    listed: int
    """As many labels, those with the highest scores."""
    threshold: float | None
    """Lowest score that is listed; None where none is."""

    def __str__(self) -> str:
        """For people."""
        place = "" if self.threshold is None else f", from a suspicion of {self.threshold:.3f} on"
        return f"{self.listed:,} listed of {self.samples:,}{place}"


@dataclass(frozen=True, kw_only=True)
class WrongLabelList:
    """The labels that are probably wrong."""

    classes: Sequence[ExpectedWrong]
    """[C]"""
    is_listed_N: NDArray[np.bool_]
    at_most: int
    """Wrong labels, were no label ambiguous."""

    @property
    def num_listed(self) -> int:
        """Labels on the list."""
        return int(self.is_listed_N.sum())

    @property
    def expected(self) -> float:
        """Wrong labels that are expected in all classes."""
        return sum(found.expected for found in self.classes)

    def __str__(self) -> str:
        """For people."""
        return (
            f"{self.num_listed:,} of {len(self.is_listed_N):,} labels are listed as probably wrong: so many are "
            f"expected to be, and {self.at_most:,} if none is ambiguous"
        )

    def lines(self, class_names: Sequence[str]) -> Iterator[str]:
        """For the terminal: the whole, and each class."""
        yield str(self)
        for name, found in zip(class_names, self.classes, strict=True):
            yield f"  {name}: {found}"


def list_wrong_labels(
    expected_C: NDArray[Any], score_N: NDArray[np.floating], labels_N: NDArray[np.integer], disputed: float = 0.0
) -> WrongLabelList:
    """As many labels of each class as are expected to be wrong, those with the highest scores; ties by id.

    Args:
        expected_C: Number of wrong labels of each class.
        score_N: Any score, high = the label is probably wrong, which says which ones.
        labels_N: Given class indices, 0..C-1.
        disputed: Number of labels that are wrong or ambiguous.
    """
    is_listed_N = np.zeros(len(labels_N), dtype=bool)
    classes = []
    for label, expected in enumerate(expected_C.tolist()):
        ids_n = np.flatnonzero(labels_N == label)
        first = ids_n[np.argsort(-score_N[ids_n], kind="stable")][: round(expected)]
        is_listed_N[first] = True
        classes.append(
            ExpectedWrong(
                samples=len(ids_n),
                expected=expected,
                listed=len(first),
                threshold=float(score_N[first[-1]]) if len(first) else None,
            )
        )
    at_most = max(round(disputed), int(is_listed_N.sum()))
    return WrongLabelList(classes=classes, is_listed_N=is_listed_N, at_most=at_most)
