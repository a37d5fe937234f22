"""Wrong labels on purpose: exact counts, and what published lists mean."""

from pathlib import Path

import numpy as np
import pytest

from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.classes.class_index import ClassIndex
from ldlva_dist.packing.noise import (
    ConfusedClasses,
    Instance,
    NoiseList,
    Symmetric,
    Votes,
    candidate_keys,
    list_labels,
    one_vote,
    parse_noise,
    read_confusion,
    read_list,
    shown_noise,
    symmetric,
    weighted,
)

RAF_DB = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
REFERENCE = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
def test_symmetric_noise_flips_exactly_the_share_that_is_asked_for(share: float) -> None:
    labels = np.random.default_rng(0).integers(0, 7, 1001).astype(np.int16)
    noisy = symmetric(labels, share, 7, seed=1)
    assert (noisy != labels).sum() == round(share * 1001)
    assert noisy.dtype == np.int16
    assert set(noisy.tolist()) <= set(range(7))


def test_symmetric_noise_is_uniform_over_the_other_classes_and_follows_the_seed() -> None:
    labels = np.zeros(60_000, dtype=np.int16)
    noisy = symmetric(labels, 1.0, 7, seed=1)
    np.testing.assert_allclose(np.bincount(noisy, minlength=7)[1:] / 60_000, 1 / 6, atol=0.006)
    assert np.array_equal(noisy, symmetric(labels, 1.0, 7, seed=1))
    assert not np.array_equal(noisy, symmetric(labels, 1.0, 7, seed=2))


def test_the_setting_is_read_or_refused() -> None:
    assert parse_noise("symmetric:0.3") == Symmetric(0.3)
    assert parse_noise("list:s3://bucket/noise.txt") == NoiseList("s3://bucket/noise.txt")
    for text in ("symmetric:1.5", "symmetric:", "pairs:0.3", "list:", "0.3"):
        with pytest.raises(SettingError, match=f"--noise must be .*got '{text}'"):
            parse_noise(text)


def test_a_list_has_a_name_and_a_label_a_line(tmp_path: Path) -> None:
    path = tmp_path / "noise.txt"
    path.write_text("a.jpg 1\nb.jpg 2\n\nc.jpg 3\nlonely\n")
    with pytest.raises(DataError, match=r"line 5: must be 'image-name label', got 'lonely'"):
        read_list(str(path))
    path.write_text("\ufefftrain_00001.jpg 5\n\ntrain_00002.jpg,4\n103/c.jpg\t2\n")
    assert read_list(str(path)) == (["train_00001.jpg", "train_00002.jpg", "103/c.jpg"], ["5", "4", "2"])


def test_a_name_is_found_with_folders_or_without_and_aligned_or_not() -> None:
    assert candidate_keys("train_00001.jpg") == ["train_00001", "train_00001_aligned"]
    assert candidate_keys("train_00001_aligned.jpg") == ["train_00001_aligned", "train_00001"]
    assert "103_face" in candidate_keys("103/face.jpg")
    assert "face" in candidate_keys("103/face.jpg")


def _indices(classes: tuple[str, ...], names: str) -> np.ndarray:
    index = ClassIndex(classes)
    return np.array([index.find(name) for name in names.split()], dtype=np.int16)


@pytest.mark.parametrize("classes", [RAF_DB, REFERENCE])
def test_raf_db_numbers_are_found_out_whatever_the_order_of_the_classes(classes: tuple[str, ...]) -> None:
    given = _indices(classes, "happy happy neutral surprise fear disgust sad anger neutral happy")
    listed = ["2", "4", "7", "1", "1", "3", "5", "6", "7", "4"]
    expected = _indices(classes, "fear happy neutral surprise surprise disgust sad anger neutral happy")
    assert list_labels("f", listed, given, classes).tolist() == expected.tolist()


def test_numbers_from_zero_and_names_are_read() -> None:
    given = np.array([0, 1, 2, 0], dtype=np.int16)
    assert list_labels("f", ["0", "1", "2", "1"], given, ("a", "b", "c")).tolist() == [0, 1, 2, 1]
    assert list_labels("f", ["1", "2", "3", "2"], given, ("a", "b", "c")).tolist() == [0, 1, 2, 1]
    assert list_labels("f", ["A", "b", "c", "b"], given, ("a", "b", "c")).tolist() == [0, 1, 2, 1]


def test_numbers_that_most_rows_contradict_are_refused() -> None:
    with pytest.raises(DataError, match="at least half of the rows"):
        list_labels("f", ["0", "0", "0"], np.array([1, 2, 1], dtype=np.int16), ("a", "b", "c"))
    with pytest.raises(DataError, match="'z' is no class"):
        list_labels("f", ["a", "z"], np.array([0, 1], dtype=np.int16), ("a", "b"))


def test_the_other_kinds_of_noise_are_parsed_and_nothing_else() -> None:
    assert parse_noise("confusion:0.3:s3://bucket/matrix.csv") == ConfusedClasses(0.3, "s3://bucket/matrix.csv")
    assert parse_noise("instance:0.2") == Instance(0.2)
    assert parse_noise("votes") == Votes()
    for text in ("confusion:0.3", "instance:0.2:file", "votes:0.3", "instance", "confusion:2:file", "instance:nan"):
        with pytest.raises(SettingError, match=r"--noise must be .*votes, or list:FILE, got"):
            parse_noise(text)


def test_weighted_flips_are_exactly_as_many_as_asked_for_and_in_proportion_to_their_weights() -> None:
    labels_N = np.arange(20_000, dtype=np.int16) % 2
    weights_NC = np.array([[9.0, 1.0, 3.0, 0.0], [4.0, 9.0, 0.0, 4.0]])[labels_N]  # its own 9 do not count
    noisy_N = weighted(labels_N, weights_NC, 0.1, seed=7)
    flipped_N = noisy_N != labels_N
    assert flipped_N.sum() == 2000
    np.testing.assert_array_equal(noisy_N, weighted(labels_N, weights_NC, 0.1, seed=7))
    assert (noisy_N != weighted(labels_N, weights_NC, 0.1, seed=8)).any()
    counts = np.bincount(noisy_N[flipped_N & (labels_N == 0)], minlength=4)
    assert counts[[0, 3]].tolist() == [0, 0]
    assert counts[2] / counts[1] == pytest.approx(3, rel=0.2)
    by_label = [flipped_N[labels_N == label].sum() for label in (0, 1)]
    assert by_label[1] / by_label[0] == pytest.approx(2, rel=0.15)  # drawn by 8 and 4, a tenth of all


def test_rows_that_could_be_nothing_else_are_never_flipped_and_too_many_flips_are_refused() -> None:
    labels_N, sure_NC = np.zeros(10, dtype=np.int16), np.eye(3)[np.zeros(10, dtype=int)]
    sure_NC[:4, 1] = 0.5
    assert weighted(labels_N, sure_NC, 0.4, seed=0).tolist() == [1] * 4 + [0] * 6
    with pytest.raises(SettingError, match=r"a noise level must be at most 0\.4, .*, got 0\.5"):
        weighted(labels_N, sure_NC, 0.5, seed=0)


def test_one_vote_is_drawn_of_each_sample_and_a_sample_without_votes_keeps_its_label() -> None:
    votes_NC = np.tile([2.0, 0.0, 8.0], (5000, 1))
    votes_NC[:10] = 0
    noisy_N = one_vote(np.full(5000, 1, dtype=np.int16), votes_NC, seed=3)
    assert (noisy_N[:10] == 1).all()
    assert np.bincount(noisy_N[10:], minlength=3)[1] == 0
    assert (noisy_N[10:] == 2).mean() == pytest.approx(0.8, abs=0.02)


def test_a_confusion_matrix_is_read_from_a_table_or_an_evaluation(tmp_path: Path) -> None:
    csv, evaluation = tmp_path / "confusion.csv", tmp_path / "evaluation.json"
    csv.write_text("given,glad,calm\ncalm,1,3\nglad,6,2\n")
    evaluation.write_text('{"given": {"confusion": [[6, 2], [1, 3]]}}')
    for path in (csv, evaluation):
        assert read_confusion(str(path), ("glad", "calm")).tolist() == [[0.75, 0.25], [0.25, 0.75]]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("some.csv", "given,glad\nglad,6\n", "must have the columns given, glad, calm and a row for each class"),
        ("twice.csv", "given,glad,calm\ncalm,1,3\ncalm,6,2\n", "must have the columns given, glad, calm"),
        ("words.csv", "given,glad,calm\ncalm,1,x\nglad,6,2\n", "the cells must be numbers"),
        ("zeros.csv", "given,glad,calm\ncalm,0,0\nglad,6,2\n", "not all of them 0"),
        ("below.csv", "given,glad,calm\ncalm,-1,2\nglad,6,2\n", "numbers >= 0"),
        ("small.json", '{"given": {"confusion": [[6]]}}', "got a matrix of 1 x 1"),
        ("word.json", '{"given": {"confusion": "x"}}', r"must have given\.confusion, a matrix of numbers"),
        ("none.json", '{"given": 3}', "must have"),
    ],
)
def test_what_is_no_confusion_matrix_of_the_classes_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read_confusion(str(tmp_path / name), ("glad", "calm"))


@pytest.mark.parametrize(
    ("noise", "shown"),
    [
        ("symmetric:0.3", "symmetric:0.3"),
        ("votes", "votes"),
        ("list:s3://bucket/a/noise.txt", "list:noise.txt"),
        ("confusion:0.3:/home/me/matrix.csv", "confusion:0.3:matrix.csv"),
    ],
)
def test_noise_is_told_without_the_folders_of_its_file(noise: str, shown: str) -> None:
    assert shown_noise(noise) == shown
