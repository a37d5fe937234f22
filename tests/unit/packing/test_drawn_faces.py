"""Drawn faces: the statistics that the demo stands on."""

import numpy as np
import pytest

from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.sources.drawn_faces.faces import CLASSES, FacesSource, draw_faces, draw_people
from ldlva_dist.packing.sources.rows import all_rows

PEOPLE = draw_people(20_000, np.random.default_rng(0), 0.3)


def test_the_largest_entry_of_the_true_distribution_is_about_three_quarters() -> None:
    np.testing.assert_allclose(PEOPLE.distribution.sum(axis=1), 1, rtol=1e-5)
    assert 0.70 < PEOPLE.distribution.max(axis=1).mean() < 0.80


def test_the_share_of_flips_is_exact() -> None:
    assert PEOPLE.flipped.sum() == 6000
    assert draw_people(1001, np.random.default_rng(1), 0.25).flipped.sum() == 250
    assert not draw_people(100, np.random.default_rng(1), 0.0).flipped.any()


def test_flips_change_the_label_to_any_other_class_alike() -> None:
    before = draw_people(20_000, np.random.default_rng(0), 0.0).labels
    step = (PEOPLE.labels - before) % CLASSES
    assert ((step != 0) == PEOPLE.flipped).all()
    counts = np.bincount(step[PEOPLE.flipped], minlength=CLASSES)[1:]
    assert counts.min() > 900
    assert counts.max() < 1100


def test_labels_that_are_not_flipped_follow_the_true_distribution() -> None:
    fair = ~PEOPLE.flipped
    expected = PEOPLE.distribution[fair].mean(axis=0)
    found = np.bincount(PEOPLE.labels[fair], minlength=CLASSES) / fair.sum()
    np.testing.assert_allclose(found, expected, atol=0.012)
    assert found.min() > 0.08


def test_valence_arousal_is_recorded_in_range_and_says_much_of_the_class() -> None:
    assert np.abs(PEOPLE.va).max() <= 1
    truth = PEOPLE.distribution.argmax(axis=1)
    happy, sad = PEOPLE.va[truth == 1].mean(axis=0), PEOPLE.va[truth == 2].mean(axis=0)
    assert happy[0] > 0.5
    assert sad[0] < -0.4


def test_the_same_settings_draw_the_same_bytes() -> None:
    first, second = (list(all_rows(FacesSource(train=20, test=5, seed=3))) for _ in range(2))
    assert [rows.images for rows in first] == [rows.images for rows in second]
    other = list(all_rows(FacesSource(train=20, test=5, seed=4)))
    assert first[0].images != other[0].images


def test_test_labels_are_never_flipped() -> None:
    rows = list(all_rows(FacesSource(train=10, test=40, flip_share=1.0)))
    assert rows[0].flipped is not None
    assert rows[0].flipped.all()
    assert rows[-1].part == "test"
    assert rows[-1].flipped is not None
    assert not rows[-1].flipped.any()


@pytest.mark.parametrize("pixels", [48, 64])
def test_faces_of_different_expressions_differ_around_eyes_and_mouth(pixels: int) -> None:
    pure = np.eye(CLASSES, dtype=np.float32)
    faces = np.stack(
        [draw_faces(np.repeat(pure[c : c + 1], 64, axis=0), np.random.default_rng(0), pixels) for c in range(CLASSES)]
    )
    assert faces.shape == (CLASSES, 64, pixels, pixels, 3)
    mean = faces.astype(np.float64).mean(axis=(1, 4))  # the same 64 people with each expression
    for a in range(CLASSES):
        for b in range(a):
            difference = np.abs(mean[a] - mean[b])
            assert difference.max() > 10
            assert difference[: pixels // 8].max() < 5


@pytest.mark.parametrize("settings", [{"pixels": 32}, {"flip_share": 1.5}])
def test_settings_out_of_range_are_named(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="must be"):
        FacesSource(train=10, test=0, **settings)  # type: ignore[arg-type]


def test_no_faces_is_an_empty_data_set() -> None:
    with pytest.raises(DataError, match="empty"):
        FacesSource(train=0, test=0)
