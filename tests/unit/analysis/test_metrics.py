"""Metrics against naive loops, scipy, and numbers checked by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import distance
from scipy.stats import entropy

from ldlva_dist.analysis import metrics

Array = NDArray[Any]


def drawn(rows: int = 300, classes: int = 5, seed: int = 0) -> tuple[Array, Array, Array]:
    """True distributions with some zeros, predicted ones, labels of all classes but the last."""
    rng = np.random.default_rng(seed)
    truth_NC = rng.multinomial(6, rng.dirichlet(np.ones(classes), rows)) / 6
    return truth_NC, rng.dirichlet(np.ones(classes), rows), rng.integers(0, classes - 1, rows)


def test_classification_equals_loops_over_rows_and_classes() -> None:
    _, probs_NC, labels_N = drawn()
    result = metrics.classification(labels_N, probs_NC.astype(np.float32), num_classes=5)

    predicted_N = [max(range(5), key=lambda c, row=row: row[c]) for row in probs_NC]
    confusion = [[0] * 5 for _ in range(5)]
    for label, predicted in zip(labels_N, predicted_N, strict=True):
        confusion[label][predicted] += 1
    recalls, f1s = [], []
    for c in range(5):
        hits, given, guessed = confusion[c][c], sum(confusion[c]), sum(row[c] for row in confusion)
        recalls += [hits / given] if given else []
        f1s += [2 * hits / (given + guessed)] if given + guessed else []
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, label, predicted in zip(probs_NC, labels_N, predicted_N, strict=True):
        bins[min(14, int(row.max() * 15))].append((row.max(), label == predicted))
    gaps = [abs(sum(confidence - hit for confidence, hit in inside)) for inside in bins]

    assert result["confusion"] == confusion
    assert result["accuracy"] == pytest.approx(sum(confusion[c][c] for c in range(5)) / 300)
    assert result["mean_class_accuracy"] == pytest.approx(np.mean(recalls))
    assert len(recalls) == 4
    assert result["macro_f1"] == pytest.approx(np.mean(f1s))
    assert result["ece"] == pytest.approx(sum(gaps) / 300, abs=1e-6)


def test_classification_of_four_faces_by_hand() -> None:
    probs_NC = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.3, 0.7, 0.0], [0.4, 0.6, 0.0]])
    result = metrics.classification(np.array([0, 1, 1, 1]), probs_NC, num_classes=3)
    assert result["confusion"] == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert result["accuracy"] == 0.75
    assert result["mean_class_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert result["ece"] == pytest.approx((0.1 + 0.8 + 0.3 + 0.4) / 4)


def test_the_calibration_error_is_that_of_the_reliability_diagram_also_for_a_confidence_of_one() -> None:
    probs_NC = np.array([[0.05, 0.95]] * 10 + [[0.0, 1.0]] * 10, np.float32)
    labels_N = np.array([1] * 19 + [0])
    result = metrics.classification(labels_N, probs_NC, num_classes=2)
    assert len(result["reliability"]) == 1  # .95 and 1 are both in (14/15, 1]
    assert result["ece"] == pytest.approx(abs(0.975 - 0.95), abs=1e-6)


@pytest.mark.parametrize("rows", ["certain", "even", "one class", "drawn"])
def test_the_calibration_error_equals_a_loop_over_bins(rows: str) -> None:
    probs_NC, labels_N = drawn(200, 4)[1], drawn(200, 4)[2]
    if rows == "certain":
        probs_NC = np.eye(4)[np.arange(200) % 4]
    if rows == "even":
        probs_NC = np.full((200, 4), 0.25)
    if rows == "one class":
        labels_N = np.zeros(200, np.int64)
    confidence_N, right_N = probs_NC.max(axis=1), probs_NC.argmax(axis=1) == labels_N
    error = 0.0
    for low in range(15):
        inside = (confidence_N > low / 15) & (confidence_N <= (low + 1) / 15)
        error += abs((confidence_N[inside] - right_N[inside]).sum()) / 200
    assert metrics.classification(labels_N, probs_NC, num_classes=4)["ece"] == pytest.approx(error, abs=1e-12)


def test_the_reliability_of_a_class_is_that_of_what_is_predicted_to_be_it() -> None:
    probs_NC, labels_N = drawn(200, 4)[1], drawn(200, 4)[2]
    probs_NC[probs_NC.argmax(axis=1) == 3] = [0.6, 0.2, 0.2, 0]
    found = metrics.class_reliability(labels_N, probs_NC)
    assert len(found) == 4
    assert found[3] == []
    for index, bins in enumerate(found[:3]):
        expected = []
        for low in range(15):
            inside = [
                (row.max(), label == index)
                for row, label in zip(probs_NC, labels_N, strict=True)
                if row.argmax() == index and low / 15 < row.max() <= (low + 1) / 15
            ]
            if inside:
                confidence, accuracy = np.mean(inside, axis=0)
                expected.append({"samples": len(inside), "confidence": confidence, "accuracy": accuracy})
        assert bins == [pytest.approx(each) for each in expected]


def test_classes_that_nobody_has_or_nobody_predicts_count_as_documented() -> None:
    result = metrics.classification(np.array([0, 0, 2]), np.eye(4)[[0, 1, 1]], num_classes=4)
    assert result["mean_class_accuracy"] == pytest.approx((1 / 2 + 0) / 2)  # of the labels' classes 0 and 2
    assert result["macro_f1"] == pytest.approx((2 / 3 + 0 + 0) / 3)  # class 3 is nowhere


def test_nothing_to_judge_gives_none_and_not_nan() -> None:
    result = metrics.classification(np.zeros(0, dtype=int), np.zeros((0, 3)), num_classes=3)
    assert result["accuracy"] is result["ece"] is result["macro_f1"] is result["mean_class_accuracy"] is None
    assert result["confusion"] == [[0] * 3] * 3
    assert set(metrics.label_distribution(np.zeros((0, 3)), np.zeros((0, 3))).values()) == {None}


def test_label_distribution_equals_scipy_row_by_row() -> None:
    truth_NC, probs_NC, _ = drawn()
    assert (truth_NC == 0).any()
    result = metrics.label_distribution(truth_NC, probs_NC)
    pairs = list(zip(truth_NC, probs_NC, strict=True))
    expected = {
        "kl": [entropy(t, p) for t, p in pairs],
        "jensen_shannon": [distance.jensenshannon(t, p) ** 2 for t, p in pairs],
        "chebyshev": [distance.chebyshev(t, p) for t, p in pairs],
        "clark": [math.sqrt(sum((a - b) ** 2 / (a + b) ** 2 for a, b in zip(t, p, strict=True))) for t, p in pairs],
        "canberra": [distance.canberra(t, p) for t, p in pairs],
        "cosine": [1 - distance.cosine(t, p) for t, p in pairs],
        "intersection": [sum(min(a, b) for a, b in zip(t, p, strict=True)) for t, p in pairs],
    }
    assert result == {name: pytest.approx(np.mean(rows)) for name, rows in expected.items()}


def test_equal_distributions_are_at_no_distance_even_with_zeros() -> None:
    truth_NC = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    result = metrics.label_distribution(truth_NC, truth_NC)
    ones = {"cosine", "intersection"}
    assert result == {name: pytest.approx(float(name in ones), abs=1e-12) for name in result}


def test_a_predicted_zero_keeps_kl_finite() -> None:
    result = metrics.label_distribution(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]))
    assert result["kl"] == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-10))
    assert result["jensen_shannon"] is not None
    assert result["jensen_shannon"] < math.log(2)


def naive_auroc(scores: Array, wrong: Array) -> float:
    pairs = [(a, b) for a in scores[wrong] for b in scores[~wrong]]
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)


def naive_average_precision(scores: Array, wrong: Array) -> float:
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = scores >= threshold
        reached = wrong[found].sum() / wrong.sum()
        area += (reached - recall) * wrong[found].mean()
        recall = reached
    return area


@pytest.mark.parametrize("levels", [4, 1000])
def test_noise_finding_equals_loops_over_pairs_and_thresholds(levels: int) -> None:
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, 150) / levels
    wrong = rng.random(150) < 0.2 + 0.4 * scores
    result = metrics.noise_finding(scores.astype(np.float32), wrong)
    assert result["auroc"] == pytest.approx(naive_auroc(scores, wrong))
    assert result["average_precision"] == pytest.approx(naive_average_precision(scores, wrong), abs=1e-6)


def test_noise_finding_does_not_depend_on_the_scale_of_the_score() -> None:
    rng = np.random.default_rng(0)
    scores, wrong = rng.normal(size=200), rng.random(200) < 0.3
    assert metrics.noise_finding(scores, wrong) == metrics.noise_finding(1e6 * scores - 40, wrong)


def test_a_constant_score_finds_nothing() -> None:
    wrong = np.array([True, False, False, False])
    result = metrics.noise_finding(np.full(4, 0.3), wrong)
    assert result == {"auroc": 0.5, "average_precision": pytest.approx(0.25)}


def test_a_score_equal_to_the_truth_finds_everything() -> None:
    wrong = np.array([True, False, True, False])
    assert metrics.noise_finding(wrong.astype(float), wrong) == {"auroc": 1.0, "average_precision": 1.0}


@pytest.mark.parametrize("wrong", [[True] * 3, [False] * 3, []])
def test_noise_finding_is_undefined_for_one_kind_of_label(wrong: list[bool]) -> None:
    scores, flags = np.arange(len(wrong)) / 3, np.array(wrong, dtype=bool)
    assert metrics.noise_finding(scores, flags) == {"auroc": None, "average_precision": None}


def test_bayes_flip_probability_equals_the_share_of_simulated_flips() -> None:
    rng = np.random.default_rng(0)
    p_C, share, draws = np.array([0.6, 0.3, 0.1]), 0.4, 400_000
    drawn_N = rng.choice(3, size=draws, p=p_C)
    flipped_N = rng.random(draws) < share
    labels_N = np.where(flipped_N, (drawn_N + rng.integers(1, 3, draws)) % 3, drawn_N)
    posterior_3 = metrics.bayes_flip_probability(np.tile(p_C, (3, 1)), np.arange(3), share)
    for label in range(3):
        assert posterior_3[label] == pytest.approx(flipped_N[labels_N == label].mean(), abs=0.01)


def test_bayes_flip_probability_at_its_edges() -> None:
    certain, labels = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])
    assert metrics.bayes_flip_probability(certain, labels, 0.3).tolist() == [0.0, 1.0]
    assert metrics.bayes_flip_probability(certain, labels, 0.0).tolist() == [0.0, 0.0]
    assert metrics.bayes_flip_probability(np.full((1, 2), 0.5), np.array([1]), 1.0).tolist() == [1.0]


def test_no_score_ranks_flipped_labels_better_than_the_bayes_score() -> None:
    rng = np.random.default_rng(1)
    truth_NC, flipped_N = rng.dirichlet(np.ones(4), 20_000), rng.random(20_000) < 0.3
    drawn_N = (truth_NC.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    labels_N = np.where(flipped_N, (drawn_N + rng.integers(1, 4, 20_000)) % 4, drawn_N)
    best = metrics.noise_finding(metrics.bayes_flip_probability(truth_NC, labels_N, 0.3), flipped_N)
    other = metrics.noise_finding(-truth_NC.max(axis=1), flipped_N)
    assert best["auroc"] is not None
    assert other["auroc"] is not None
    assert best["auroc"] > 0.75 > other["auroc"]


def test_results_are_json_ready() -> None:
    truth_NC, probs_NC, labels_N = drawn(40)
    result = [
        metrics.classification(labels_N, probs_NC, num_classes=5),
        metrics.label_distribution(truth_NC, probs_NC.astype(np.float32)),
        metrics.noise_finding(probs_NC[:, 0], labels_N == 0),
    ]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
