"""Settings that do not fit: one clear sentence before a worker starts, the right exit code, nothing half-written."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.state_file import write_state
from ldlva_dist.config import NeighborConfig, PlacementConfig, RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import write_info
from ldlva_dist.errors import DataError, LdlvaError, SettingError
from ldlva_dist.run import launch
from testing.clusters.job_scripts import Scripts
from testing.tiny_runs import tiny_run

pytestmark = pytest.mark.usefixtures("cluster")
Change = Callable[[RunConfig, Path], RunConfig]


@pytest.fixture
def config(faces: str, tmp_path: Path) -> RunConfig:
    return tiny_run(faces, tmp_path / "runs", "run")


def _k_of_the_whole_set(config: RunConfig, _: Path) -> RunConfig:
    return replace(config, neighbors=NeighborConfig(num_neighbors=Dataset.open(config.data.dataset).info.num_train))


def _k_above_the_graph(config: RunConfig, _: Path) -> RunConfig:
    return replace(config, neighbors=NeighborConfig(num_neighbors=20))


def _batch_above_an_epoch(config: RunConfig, _: Path) -> RunConfig:
    return replace(config, data=replace(config.data, batch_size=640))


def _too_many_workers_for_the_lanes(config: RunConfig, _: Path) -> RunConfig:
    config = replace(config, data=replace(config.data, batch_size=67))  # no divisor up to 64: one lane
    return replace(config, placement=PlacementConfig(num_workers=2, cpus_per_worker=0.5, data_cpus_per_worker=0.5))


def _too_many_cpus(config: RunConfig, _: Path) -> RunConfig:
    return replace(config, placement=PlacementConfig(num_workers=16))


def _gpus_where_none_are(config: RunConfig, _: Path) -> RunConfig:
    return replace(config, placement=replace(config.placement, use_gpu=True))


def _storage_below_a_file(config: RunConfig, folder: Path) -> RunConfig:
    (folder / "file").touch()
    return replace(config, storage_path=str(folder / "file" / "runs"))


def _no_dataset(config: RunConfig, folder: Path) -> RunConfig:
    return replace(config, data=replace(config.data, dataset=str(folder / "nowhere")))


def _unnamed_dataset(config: RunConfig, _: Path) -> RunConfig:
    return replace(config, data=replace(config.data, dataset=""))


def _dataset_without_plane(config: RunConfig, folder: Path) -> RunConfig:
    copy = _copy(config.data.dataset, folder)
    write_info(copy, replace(Dataset.open(copy).info, has_valence_arousal=False))
    return replace(config, data=replace(config.data, dataset=copy))


def _no_plane_and_no_wait_for_neighbours(config: RunConfig, folder: Path) -> RunConfig:
    config = _dataset_without_plane(config, folder)
    return replace(
        config,
        index=replace(config.index, space="feature", rebuild_every_epochs=0.5),
        loss=replace(config.loss, warmup_epochs=0.7),
    )


def _dataset_without_graph(config: RunConfig, folder: Path) -> RunConfig:
    copy = _copy(config.data.dataset, folder)
    (Path(copy) / "graph-K16" / "graph.json").unlink()
    return replace(config, data=replace(config.data, dataset=copy))


def _unknown_model(config: RunConfig, _: Path) -> RunConfig:
    return replace(config, model=replace(config.model, name="resnet19"))


def _copy(dataset: str, folder: Path) -> str:
    return shutil.copytree(dataset, str(folder / "copy"))


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        (_k_of_the_whole_set, SettingError, r"neighbors\.num_neighbors must be < the number of training samples"),
        (_k_above_the_graph, SettingError, r"num_neighbors.*20"),
        (_batch_above_an_epoch, SettingError, r"data\.batch_size must be <= the rows of one epoch \(\d+\), got 640"),
        (
            _too_many_workers_for_the_lanes,
            SettingError,
            r"data\.batch_size=67 and data\.max_lanes=64 give 1 lanes.*num_workers=2",
        ),
        (_too_many_cpus, SettingError, r"placement needs 32 CPUs .* got a cluster with 4 CPUs"),
        (_gpus_where_none_are, SettingError, r"placement needs .* 1 GPUs .* 0 GPUs"),
        (_storage_below_a_file, SettingError, r"storage path must be writable.*file/runs"),
        (_no_dataset, DataError, r"nowhere is not a data set"),
        (_unnamed_dataset, SettingError, r"data\.dataset must name a data set"),
        (_dataset_without_plane, SettingError, r"loss\.recipe='official' needs valence-arousal"),
        (
            _no_plane_and_no_wait_for_neighbours,
            SettingError,
            r"loss\.warmup_epochs must be >= 1\.5 x index\.rebuild_every_epochs \(0\.75\).*got 0\.7",
        ),
        (_dataset_without_graph, DataError, r"build_index"),
        (_unknown_model, SettingError, r"model\.name must be one of resnet10.* got 'resnet19'"),
    ],
)
def test_a_run_that_cannot_work_is_refused_before_it_starts(
    config: RunConfig, tmp_path: Path, change: Change, kind: type[LdlvaError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        launch.fit(change(config, tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_tracker_that_cannot_be_found_is_refused_before_a_run_starts(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(SettingError, match=r"training\.tracker=mlflow needs MLFLOW_TRACKING_URI"):
        launch.fit(replace(config, training=replace(config.training, tracker="mlflow")))
    assert not (tmp_path / "runs").exists()


def test_a_name_is_not_used_for_other_settings(config: RunConfig) -> None:
    launch.prepare(config)
    launch.write_settings(config)
    launch.prepare(replace(config, placement=replace(config.placement, data_cpus_per_worker=0.25)))
    with pytest.raises(SettingError, match=r"name must be new.*another loss\.gamma"):
        launch.prepare(replace(config, loss=replace(config.loss, gamma=0.5)))


def test_a_checkpoint_of_another_data_set_or_class_order_is_refused(
    config: RunConfig, faces: str, tmp_path: Path
) -> None:
    info = Dataset.open(faces).info
    facts = {"class_names": list(info.class_names), "content_hash": info.content_hash, "step": 3}
    write_state(str(tmp_path), facts, {})
    saved = Checkpoint.open(str(tmp_path))
    assert saved.facts["step"] == 3
    saved.require_data_set(info)
    with pytest.raises(SettingError, match=r"version the checkpoint was trained on"):
        saved.require_data_set(replace(info, content_hash="0" * 64))
    swapped = replace(info, class_names=(*info.class_names[1:], info.class_names[0]))
    with pytest.raises(SettingError, match=r"checkpoint's classes in its order"):
        saved.require_data_set(swapped)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nonsense"], 2, "the first argument must be a preset"),
        (["demo", "--data.batch-size", "0"], 2, "data.batch_size must be a whole number >= 1 and <= 1048576, got 0"),
        (["demo", "--data.dataset", "nowhere"], 3, "nowhere is not a data set"),
        (["--config", "nowhere.json"], 3, "nowhere.json"),
    ],
)
def test_a_job_says_one_sentence_and_ends_with_its_exit_code(
    scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = scripts.run("train", *arguments)
    assert done.code == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
