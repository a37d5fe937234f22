"""Versions with flipped labels or shuffled points: exactly so many, the same for the same seed, graphs that fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldlva_dist.dataset import manifest
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.index.graph import build_graph, copy_graphs, read_graph, require_graph
from ldlva_dist.packing.noisy_versions import Control, controlled
from testing.toy_dataset import HOLDOUT, ROWS, TRAIN, toy_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.open(toy_dataset(tmp_path))


def column(version: Dataset, name: str) -> np.ndarray:
    return version.columns([name])[name].to_numpy()


def test_exactly_the_share_of_train_and_holdout_labels_is_flipped_and_the_test_split_is_not(dataset: Dataset) -> None:
    version = controlled(dataset, Control(noise="symmetric:0.3", seed=1))
    given, label, flipped = column(dataset, "label"), column(version, "label"), column(version, "flipped").astype(bool)
    np.testing.assert_array_equal(flipped, label != given)
    np.testing.assert_array_equal(column(version, "original_label"), given)
    assert flipped[: TRAIN + HOLDOUT].sum() == 24
    assert not flipped[TRAIN + HOLDOUT :].any()
    assert version.info.flip_share == pytest.approx(0.3)
    np.testing.assert_array_equal(version.va(0, ROWS), dataset.va(0, ROWS))


def test_seeds_flip_other_labels_and_the_same_seed_is_not_written_again(dataset: Dataset) -> None:
    first, second = (controlled(dataset, Control(noise="symmetric:0.3", seed=seed)) for seed in (1, 2))
    assert (column(first, "flipped") != column(second, "flipped")).any()
    before = (Path(first.uri) / "manifest.parquet").stat()
    assert controlled(dataset, Control(noise="symmetric:0.3", seed=1)) == first
    assert (Path(first.uri) / "manifest.parquet").stat().st_mtime_ns == before.st_mtime_ns


def test_shuffling_deals_the_training_points_out_anew_and_leaves_the_others(dataset: Dataset) -> None:
    version = controlled(dataset, Control(shuffle_va=True, seed=3))
    there, here = dataset.va(0, ROWS), version.va(0, ROWS)
    assert sorted(map(tuple, here[:TRAIN])) == sorted(map(tuple, there[:TRAIN]))
    assert (here[:TRAIN] != there[:TRAIN]).any(axis=1).mean() > 0.9
    np.testing.assert_array_equal(here[TRAIN:], there[TRAIN:])
    np.testing.assert_array_equal(column(version, "label"), column(dataset, "label"))
    assert "flipped" not in next(version.blocks()).column_names


def test_nothing_to_do_is_the_data_set_itself(dataset: Dataset) -> None:
    assert controlled(dataset, Control(seed=5)) == dataset


def test_a_data_set_that_was_flipped_already_or_changed_since_is_refused(dataset: Dataset) -> None:
    version = controlled(dataset, Control(noise="symmetric:0.2", seed=1))
    with pytest.raises(SettingError, match=r"with labels flipped already \(20.0%\), got symmetric:0.1"):
        controlled(version, Control(noise="symmetric:0.1"))
    manifest.write_info(dataset.uri, replace(dataset.info, content_hash="1" * 64))
    with pytest.raises(SettingError, match="got one of other contents"):
        controlled(Dataset.open(dataset.uri), Control(noise="symmetric:0.2", seed=1))
    with pytest.raises(SettingError, match=r"--noise must be symmetric:SHARE, .*, got 'symmetric:1.5'"):
        Control(noise="symmetric:1.5")


def test_a_version_with_other_labels_gets_the_graphs_of_its_data_set(dataset: Dataset) -> None:
    build_graph(dataset, 8, part_rows=25)
    build_graph(dataset, 4)
    version = controlled(dataset, Control(noise="symmetric:0.3", seed=1))
    copy_graphs(dataset, version)
    assert require_graph(version, 3).num_neighbors == 4
    for k in (4, 8):
        for there, here in zip(read_graph(dataset, 7, 50, k), read_graph(version, 7, 50, k), strict=True):
            np.testing.assert_array_equal(here, there)


def test_labels_are_flipped_as_a_network_confuses_them(dataset: Dataset, tmp_path: Path) -> None:
    names = dataset.info.class_names
    one_way = [f"{name}," + ",".join("1" if other == names[0] else "0" for other in names) for name in names]
    (tmp_path / "one_way.csv").write_text("\n".join([",".join(["given", *names]), *one_way]) + "\n")
    noise = f"confusion:0.2:{tmp_path / 'one_way.csv'}"
    version = controlled(dataset, Control(noise=noise, seed=1))
    flipped = column(version, "flipped").astype(bool)
    assert flipped.sum() == round(0.2 * (TRAIN + HOLDOUT))
    assert set(column(version, "label")[flipped].tolist()) == {0}
    assert version.info.source["noise"] == "confusion:0.2:one_way.csv"
    assert str(tmp_path / "one_way.csv") not in (Path(version.uri) / "dataset.json").read_text()
    (tmp_path / "one_way.csv").write_text((tmp_path / "one_way.csv").read_text() + "\n")
    assert controlled(dataset, Control(noise=noise, seed=1)).uri != version.uri  # another file is another version


def test_noise_by_raters_needs_raters(dataset: Dataset) -> None:
    with pytest.raises(SettingError, match="this noise needs a data set with votes"):
        controlled(dataset, Control(noise="votes"))
