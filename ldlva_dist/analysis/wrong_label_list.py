"""Which given labels are probably wrong, and how many: a mixture of two for each class counts them.

The labels of one class are two groups: right ones, of which the network is sure, and wrong ones, of which it is not. A
mixture of two normal distributions of 1 - p(label) tells how many are in the upper group, class by class: a class that
the network is seldom sure of has high values throughout, and is not wrong for that. Which ones they are is another
score's matter: the highest ones are listed, as many as were counted. The idea is that of IntraClass-divide (IEEE T-BIOM
7-1, 2025). N = samples, C = classes, n = samples of one class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.analysis.score_mixture import fit_mixture, single_log_likelihood

FEWEST = 50
"""Samples that a class must have for a mixture."""
BINS = 2048
"""Values are counted in so many bins of equal width: a mixture of 100 M samples is as cheap as one of 100."""
PARAMETERS = 3
"""What two components have more than one: a mean, a deviation and a share."""


@dataclass(frozen=True, kw_only=True)
class ExpectedWrong:
    """What is expected of the labels of one class."""

    samples: int
    expected: float = 0.0
    """Number of wrong labels."""
    listed: int = 0
    """As many labels, those with the highest scores."""
    threshold: float | None = None
    """Lowest score that is listed; None where none is."""
    reason: str | None = None
    """Why the class has no list; None where it has one."""

    def __str__(self) -> str:
        """For people."""
        if self.reason:
            return f"none listed of {self.samples:,}: {self.reason}"
        place = "" if self.threshold is None else f", from a suspicion of {self.threshold:.3f} on"
        return f"{self.listed:,} listed of {self.samples:,}{place}"


@dataclass(frozen=True, kw_only=True)
class WrongLabelList:
    """The labels that are probably wrong."""

    classes: Sequence[ExpectedWrong]
    """[C]"""
    is_listed_N: NDArray[np.bool_]

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
            "expected to be"
        )

    def lines(self, class_names: Sequence[str]) -> Iterator[str]:
        """For the terminal: the whole, and each class."""
        yield str(self)
        for name, found in zip(class_names, self.classes, strict=True):
            yield f"  {name}: {found}"


def list_wrong_labels(
    doubt_N: NDArray[np.floating], score_N: NDArray[np.floating], labels_N: NDArray[np.integer], num_classes: int
) -> WrongLabelList:
    """As many labels of each class as are expected to be wrong, those with the highest scores; ties by id.

    Args:
        doubt_N: 1 - p(label) of a network, in [0, 1], which says how many are wrong.
        score_N: Any score, high = the label is probably wrong, which says which ones.
        labels_N: Given class indices, 0..C-1.
        num_classes: C.
    """
    is_listed_N = np.zeros(len(labels_N), dtype=bool)
    classes = []
    for label in range(num_classes):
        ids_n = np.flatnonzero(labels_N == label)
        expected, reason = _count_wrong(doubt_N[ids_n].astype(np.float64))
        first = ids_n[np.argsort(-score_N[ids_n], kind="stable")][: round(expected)]
        is_listed_N[first] = True
        classes.append(
            ExpectedWrong(
                samples=len(ids_n),
                expected=expected,
                listed=len(first),
                threshold=float(score_N[first[-1]]) if len(first) else None,
                reason=reason,
            )
        )
    return WrongLabelList(classes=classes, is_listed_N=is_listed_N)


def _count_wrong(doubt_n: NDArray[np.float64]) -> tuple[float, str | None]:
    """How many labels of a class are expected to be wrong; 0 and the reason where nothing can be expected."""
    if len(doubt_n) < FEWEST:
        return 0.0, f"a mixture needs {FEWEST} samples"
    count_m, edge_m = np.histogram(doubt_n, bins=BINS)
    value_m, count_m = (edge_m[:-1] + edge_m[1:])[count_m > 0] / 2, count_m[count_m > 0].astype(np.float64)
    if len(value_m) < PARAMETERS:
        return 0.0, "the network is equally sure of all"
    mixture = fit_mixture(value_m, count_m)
    gained = mixture.log_likelihood - single_log_likelihood(value_m, count_m)
    if 2 * gained < PARAMETERS * np.log(len(doubt_n)):  # Bayes' information criterion
        return 0.0, "they are one group, not two"
    return float(mixture.upper(doubt_n).sum()), None
