"""Intervals against closed forms, and the bootstrap of a matrix against that of its samples."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from ldlva_dist.analysis import metrics
from ldlva_dist.analysis.intervals import confusion_intervals, mean_interval, share_interval


@pytest.mark.parametrize(("hits", "samples"), [(0, 7), (7, 7), (13, 50), (900, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits: int, samples: int) -> None:
    z, share = 1.959963984540054, hits / samples
    middle = (share + z**2 / (2 * samples)) / (1 + z**2 / samples)
    reach = z / (1 + z**2 / samples) * np.sqrt(share * (1 - share) / samples + z**2 / (4 * samples**2))
    assert share_interval(hits, samples) == pytest.approx((middle - reach, middle + reach), abs=1e-12)


def test_nothing_has_no_interval() -> None:
    assert share_interval(0, 0) is None
    assert confusion_intervals(np.zeros((3, 3), np.int64)) == {}


def test_the_interval_of_a_mean_holds_it_in_nineteen_of_twenty_draws() -> None:
    values = np.random.default_rng(0).exponential(2.0, (2000, 200))
    errors = values.std(axis=1, ddof=1) / np.sqrt(200)
    ends = [mean_interval(mean, error) for mean, error in zip(values.mean(axis=1), errors, strict=True)]
    assert np.mean([low < 2.0 < high for low, high in ends]) == pytest.approx(0.95, abs=0.02)


def test_the_bootstrap_of_a_confusion_matrix_is_that_of_its_samples() -> None:
    generator, classes = np.random.default_rng(1), 4
    labels_N = generator.choice(classes, 150, p=[0.6, 0.2, 0.15, 0.05])
    predicted_N = np.where(generator.random(150) < 0.7, labels_N, generator.integers(0, classes, 150))
    found = confusion_intervals(metrics.confusion_matrix(labels_N, predicted_N, classes))
    for name, (low, high) in found.items():

        def figure(rows: np.ndarray, name: str = name) -> float:
            probs_NC = np.eye(classes)[predicted_N[rows]]
            return metrics.classification(labels_N[rows], probs_NC, num_classes=classes)[name]

        drawn = bootstrap(
            (np.arange(150),), figure, vectorized=False, n_resamples=1000, method="percentile", rng=generator
        ).confidence_interval
        assert (low, high) == pytest.approx((drawn.low, drawn.high), abs=0.02)
    assert set(found) == {"mean_class_accuracy", "macro_f1"}
