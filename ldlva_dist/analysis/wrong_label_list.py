"""Which given labels are probably wrong, and how many: one mixture of two for each class, over a score of suspicion.

The labels of one class are two groups, right ones with low scores and wrong ones with high scores. A mixture of two
normal distributions of the scores' logits tells how many are in the upper group, class by class: a class that the
network is seldom sure of has high scores throughout, and is not wrong for that. The count is the mixture's; the order
is the score's. Source of the idea, and its name: IntraClass-divide (IEEE T-BIOM 7-1, 2025).
N = samples, C = classes, n = samples of one class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from ldlva_dist.analysis.score_mixture import fit_mixture, single_log_likelihood

FEWEST = 50
"""Samples that a class must have for a mixture."""
BINS = 2048
"""The logits of a class's scores are counted in so many bins: a mixture of 100 M samples is as cheap as one of 100."""
SURE = 1e-3
"""Scores nearer to 0 or 1 count as this near; float16 knows no nearer ones to 1."""
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
    expected_listed: float = 0.0
    """How many of the listed ones are expected to be wrong."""
    threshold: float | None = None
    """Lowest score that is listed; None where none is."""
    reason: str | None = None
    """Why the class has no list; None where it has one."""

    def __str__(self) -> str:
        """For people."""
        if self.reason:
            return f"none listed of {self.samples:,}: {self.reason}"
        return f"{self.listed:,} listed of {self.samples:,}" + (
            "" if self.threshold is None else f", from a suspicion of {self.threshold:.3f} on"
        )


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

    @property
    def expected_listed(self) -> float:
        """How many of the listed ones are expected to be wrong."""
        return sum(found.expected_listed for found in self.classes)

    def __str__(self) -> str:
        """For people."""
        return (
            f"{self.num_listed:,} of {len(self.is_listed_N):,} labels are listed as wrong: so many are expected to be; "
            f"of the listed ones about {self.expected_listed:,.0f} are"
        )

    def lines(self, class_names: Sequence[str]) -> Iterator[str]:
        """For the terminal: the whole, and each class."""
        yield str(self)
        for name, found in zip(class_names, self.classes, strict=True):
            yield f"  {name}: {found}"


def list_wrong_labels(
    score_N: NDArray[np.floating], labels_N: NDArray[np.integer], num_classes: int
) -> WrongLabelList:
    """As many labels of each class as are expected to be wrong, those with the highest scores; ties by id.

    Args:
        score_N: Scores in [0, 1], high = the label is probably wrong.
        labels_N: Given class indices, 0..C-1.
        num_classes: C.
    """
    is_listed_N = np.zeros(len(labels_N), dtype=bool)
    classes = []
    for label in range(num_classes):
        ids_n = np.flatnonzero(labels_N == label)
        order_n = ids_n[np.argsort(-score_N[ids_n], kind="stable")]
        found = _expect(score_N[order_n].astype(np.float64))
        is_listed_N[order_n[: found.listed]] = True
        classes.append(found)
    return WrongLabelList(classes=classes, is_listed_N=is_listed_N)


def _expect(score_n: NDArray[np.float64]) -> ExpectedWrong:
    """Of the scores of one class, the highest first."""
    samples = len(score_n)
    if samples < FEWEST:
        return ExpectedWrong(samples=samples, reason=f"a mixture needs {FEWEST} samples")
    logit_n = logit(np.clip(score_n, SURE, 1 - SURE))
    count_m, edge_m = np.histogram(logit_n, bins=BINS)
    value_m, count_m = (edge_m[:-1] + edge_m[1:])[count_m > 0] / 2, count_m[count_m > 0].astype(np.float64)
    if len(value_m) < PARAMETERS:
        return ExpectedWrong(samples=samples, reason="all its scores are alike")
    mixture = fit_mixture(value_m, count_m)
    gained = mixture.log_likelihood - single_log_likelihood(value_m, count_m)
    if 2 * gained < PARAMETERS * np.log(samples):  # Bayes' information criterion
        return ExpectedWrong(samples=samples, reason="its scores are one group, not two")
    wrong_n = mixture.upper(logit_n)
    listed = round(wrong_n.sum())
    return ExpectedWrong(
        samples=samples,
        expected=float(wrong_n.sum()),
        listed=listed,
        expected_listed=float(wrong_n[:listed].sum()),
        threshold=float(score_n[listed - 1]) if listed else None,
    )
