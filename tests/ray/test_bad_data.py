"""A run over damaged data stops at once with one sentence, or goes on; both leave the list."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ldlva_dist.config import LossConfig, RunConfig, SweepConfig, TrainingConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import DataError
from ldlva_dist.run import launch
from ldlva_dist.run.sweep import sweep
from ldlva_dist.stream.quarantine import read_quarantine
from testing.tiny_runs import tiny_run

pytestmark = pytest.mark.usefixtures("cluster")
BAD = 100


@pytest.fixture
def config(faces: str, tmp_path: Path) -> RunConfig:
    """A run over a copy of the faces with one changed byte."""
    copy = shutil.copytree(faces, tmp_path / "faces")
    row = Dataset.open(faces).columns(["shard", "offset"], first_id=BAD, rows=1).to_pylist()[0]
    shard = copy / Dataset.open(faces).info.shards[row["shard"]].name
    data = bytearray(shard.read_bytes())
    data[row["offset"] + 99] ^= 1
    shard.write_bytes(data)
    run = tiny_run(str(copy), tmp_path / "runs", "run")
    return replace(
        run,
        loss=LossConfig(recipe="ce", class_weights="balanced"),
        training=TrainingConfig(epochs=1.5),
        placement=replace(run.placement, max_failures=3),  # which are not tried
    )


def test_over_the_budget_the_run_ends_at_the_first_try_and_its_list_stays(config: RunConfig) -> None:
    config = replace(config, data=replace(config.data, on_bad_data="quarantine"))
    uri = f"{config.uri}/quarantine.parquet"
    with pytest.raises(DataError, match=rf"^1 bad rows of \d+ are more than data\.max_bad_share=0\.001.*{uri}$"):
        launch.fit(config)
    assert [row.id for row in read_quarantine(uri)] == [BAD]


def test_within_the_budget_a_balanced_run_goes_to_its_end_and_lists_the_row(config: RunConfig) -> None:
    data = replace(config.data, on_bad_data="quarantine", max_bad_share=0.01, balance=1.0)
    result = launch.fit(replace(config, data=data))
    assert result.checkpoint.uri.endswith("step-00000015")
    assert [row.id for row in read_quarantine(f"{result.run_uri}/quarantine.parquet")] == [BAD]


def test_a_sweep_whose_trials_all_meet_the_bad_row_ends_with_the_sentence_about_the_data(config: RunConfig) -> None:
    with pytest.raises(DataError, match=r"^all 1 trials failed; the first said: .*\.tar"):
        sweep(replace(config, name="sweep", sweep=SweepConfig(num_samples=1, scheduler="none")))
