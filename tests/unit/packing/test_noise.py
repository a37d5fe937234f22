"""Wrong labels on purpose: exact counts, and what published lists mean."""

from pathlib import Path

import numpy as np
import pytest

from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.classes.class_index import ClassIndex
from ldlva_dist.packing.noise import (
    NoiseList,
    Symmetric,
    candidate_keys,
    list_labels,
    parse_noise,
    read_list,
    symmetric,
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
