"""Settings that are chosen by the size of the data and the machine."""

import pytest

from ldlva_dist.config import RunConfig
from ldlva_dist.config.by_size import DataSize, MachineSize, choose_settings


def chosen(
    rows: int = 3000, pixels: int = 48, *, grey: bool = True, va: bool = True, cpus: float = 2, gpus: int = 0
) -> RunConfig:
    data = DataSize(rows=rows, pixels=pixels, is_grey=grey, has_valence_arousal=va)
    return choose_settings(data, MachineSize(cpus=cpus, gpus=gpus))


@pytest.mark.parametrize(("rows", "preset"), [(600, "demo"), (7_999, "demo"), (8_000, "ferplus"), (450_000, "ferplus")])
def test_the_preset_follows_from_the_rows(rows: int, preset: str) -> None:
    assert chosen(rows).name == preset


def test_on_gpus_there_is_a_worker_for_each_and_a_large_network() -> None:
    config = chosen(30_000, 300, grey=False, cpus=32, gpus=4)
    assert (config.name, config.model.name, config.data.image_size) == ("rafdb_resnet18", "resnet18", 224)
    assert (config.placement.num_workers, config.placement.use_gpu, config.data.batch_size) == (4, True, 128)
    assert chosen(30_000, 112, gpus=1).data.image_size == 112


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("va", [True, False])
def test_a_run_fits_the_cpus_with_its_pipelines_and_its_index(cpus: float, va: bool) -> None:
    place = chosen(cpus=cpus, va=va).placement
    assert place.max_workers * (place.cpus_per_worker + place.data_cpus) + place.cpus_per_index <= cpus + 1e-9


def test_images_are_never_enlarged_and_keep_their_colours() -> None:
    assert chosen(pixels=32).data.image_size == 32
    assert chosen(pixels=500).data.image_size == 48
    assert (chosen(grey=True).data.channels, chosen(grey=False).data.channels) == (1, 3)


def test_small_sets_have_more_epochs_and_large_ones_no_more_than_ten() -> None:
    epochs = [chosen(rows).training.epochs for rows in (60, 600, 3_000, 30_000, 450_000)]
    assert epochs == [40, 40, 20, 10, 10]


@pytest.mark.parametrize("rows", [20, 60, 600, 30_000, 450_000])
def test_without_valence_arousal_neighbours_are_read_once_there_are_some(rows: int) -> None:
    config = chosen(rows, va=False)
    assert config.index.space == "feature"
    assert 1.5 * config.index.rebuild_every_epochs <= config.loss.warmup_epochs < config.training.epochs
    assert config.index.rebuild_every_epochs * rows / config.data.batch_size >= 4
    assert config.neighbors.num_neighbors < rows
