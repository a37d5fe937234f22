"""What becomes of accepted rows: splits, ids and labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldlva_dist.dataset.shards import key_hash
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.passes.choose import choose_rows
from ldlva_dist.packing.passes.pass1_survey import DUPLICATE
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.survey_columns import Columns, repeats
from ldlva_dist.packing.sources.rows import Part, Partition

SETTINGS = PackSettings(name="set", class_names=("calm", "glad"), holdout=0.5)


def _columns(*rows: int) -> tuple[Columns, list[str]]:
    """Partitions of so many rows with labels 0 1 0 1 ..., and the keys."""
    keys = [f"k{i}" for i in range(sum(rows))]
    label = np.arange(len(keys), dtype=np.int16) % 2
    columns = Columns(
        rows_P=np.array(rows),
        hash_N=np.array([key_hash(key) for key in keys], dtype=np.uint64),
        label_N=label,
        va_N2=np.stack([label, -label], axis=1).astype(np.float32),
        identity_N=np.array([key_hash(key) for key in keys], dtype=np.uint64),
        size_N=np.ones(len(keys), dtype=np.int32),
        checksum_N=np.arange(len(keys), dtype=np.uint32),
        pixels_N=np.arange(len(keys), dtype=np.uint64),
        flipped_N=None,
        code_N=np.full(len(keys), -1, dtype=np.int32),
        reasons=[],
        labels={},
        unknown={},
        optional=(),
    )
    return columns, keys


def _partitions(*parts: Part) -> list[Partition]:
    return [Partition(part=part, first=0, rows=0) for part in parts]


def test_ids_are_dense_and_train_comes_first() -> None:
    columns, _ = _columns(40, 20)
    chosen = choose_rows(columns, _partitions("train", "test"), SETTINGS)
    assert sorted(chosen.id_A.tolist()) == list(range(60))
    assert (np.diff(chosen.split_A[np.argsort(chosen.id_A)]) >= 0).all()
    assert (chosen.split_A[40:] == 2).all()
    assert 10 < (chosen.split_A == 1).sum() < 30


def test_a_source_with_a_holdout_of_its_own_loses_no_training_row() -> None:
    columns, _ = _columns(40, 10, 20)
    chosen = choose_rows(columns, _partitions("train", "holdout", "test"), SETTINGS)
    assert np.bincount(chosen.split_A).tolist() == [40, 10, 20]


def test_the_holdout_does_not_depend_on_the_order_of_the_rows() -> None:
    columns, _ = _columns(40)
    split = choose_rows(columns, _partitions("train"), SETTINGS).split_A
    columns.hash_N = columns.hash_N[::-1].copy()
    assert choose_rows(columns, _partitions("train"), SETTINGS).split_A.tolist() == split[::-1].tolist()


def test_only_the_first_of_two_rows_that_are_one_is_accepted() -> None:
    columns, _ = _columns(10)
    columns.identity_N[7] = columns.identity_N[2]
    repeated = columns.reject_duplicates()
    assert (repeated.row_D.tolist(), repeated.first_D.tolist()) == ([7], [2])
    assert np.flatnonzero(columns.code_N >= 0).tolist() == [7]
    assert columns.counts() == {DUPLICATE: 1}


def test_repeated_values_are_found_with_their_first_places() -> None:
    values = np.random.default_rng(0).integers(0, 300, 500).astype(np.uint64)
    again, first = repeats(values)
    seen: dict[int, int] = {}
    expected = [(i, seen[value]) for i, value in enumerate(values.tolist()) if seen.setdefault(value, i) != i]
    assert list(zip(again.tolist(), first.tolist(), strict=True)) == expected
    assert [len(part) for part in repeats(np.arange(9, dtype=np.uint64))] == [0, 0]
    assert [len(part) for part in repeats(np.zeros(0, dtype=np.uint64))] == [0, 0]


def test_a_rejected_row_does_not_shadow_a_good_one_that_is_the_same() -> None:
    columns, _ = _columns(10)
    columns.identity_N[7] = columns.identity_N[2]
    columns.reject(np.arange(10) == 2, "bad")
    columns.reject_duplicates()
    assert columns.counts() == {"bad": 1}


def test_a_noise_list_may_name_test_rows_but_not_change_them(tmp_path: Path) -> None:
    columns, keys = _columns(10, 4)
    lines = [f"{key}.jpg {('calm', 'glad')[i % 2]}" for i, key in enumerate(keys)]
    path = tmp_path / "noise.txt"
    settings = replace(SETTINGS, holdout=0.0, noise=f"list:{path}")
    path.write_text("\n".join(["k0.jpg glad", *lines[1:]]))
    chosen = choose_rows(columns, _partitions("train", "test"), settings)
    assert chosen.flipped_A is not None
    assert np.flatnonzero(chosen.flipped_A).tolist() == [0]
    path.write_text("\n".join([*lines[:-1], "k13.jpg calm"]))
    with pytest.raises(DataError, match="test labels stay as they are"):
        choose_rows(columns, _partitions("train", "test"), settings)


def test_valence_arousal_that_does_not_vary_cannot_be_standardised() -> None:
    columns, _ = _columns(10)
    columns.va_N2[:, 1] = 0.5
    chosen = choose_rows(columns, _partitions("train"), replace(SETTINGS, holdout=0.0))
    with pytest.raises(SettingError, match="--standardize-va needs"):
        chosen.va_transform()


def test_labels_are_confused_while_packing_and_those_of_the_test_part_stay(tmp_path: Path) -> None:
    columns, _ = _columns(10, 4)
    path = tmp_path / "confusion.csv"
    path.write_text("given,calm,glad\ncalm,3,1\nglad,1,0\n")
    settings = replace(SETTINGS, holdout=0.0, noise=f"confusion:0.5:{path}")
    chosen = choose_rows(columns, _partitions("train", "test"), settings)
    assert chosen.flipped_A is not None
    assert chosen.flipped_A[:10].sum() == 5
    assert not chosen.flipped_A[10:].any()
    assert settings.describe()["noise"] == "confusion:0.5:confusion.csv"
    with pytest.raises(SettingError, match=r"noise --kind instance or votes makes versions of it, got votes"):
        choose_rows(columns, _partitions("train", "test"), replace(settings, noise="votes"))
