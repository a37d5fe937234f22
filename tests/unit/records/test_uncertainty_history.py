"""The uncertainties over a run come back as they were written, however many ranks wrote them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldlva_dist.config import TrainingConfig
from ldlva_dist.errors import DataError
from ldlva_dist.records.uncertainty_history import drop_history, read_history, write_history
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training.schedule import due_at

EPOCHS = {10: 0.5, 20: 1.0, 30: 1.5}
TABLE = np.random.default_rng(0).random((len(EPOCHS), 20), dtype=np.float32)


def write(run: str, ranks: int) -> None:
    for row, (step, epoch) in enumerate(EPOCHS.items()):
        for rank, ids in enumerate(np.array_split(np.arange(20), ranks)):
            write_history(run, TABLE[row, ids], step=step, epoch=epoch, rank=rank, first_id=int(ids[0]))


@pytest.mark.parametrize("ranks", [1, 3])
def test_what_was_written_comes_back_to_half_a_level(tmp_path: Path, ranks: int) -> None:
    write(str(tmp_path), ranks)
    ids = np.array([0, 6, 7, 19])
    history = read_history(str(tmp_path), ids)
    assert history.epochs.tolist() == list(EPOCHS.values())
    np.testing.assert_allclose(history.uncertainty, TABLE[:, ids], atol=0.5 / 255 + 1e-6)


def test_the_folder_is_a_table_of_ids_steps_epochs_and_uncertainties_at_about_a_byte_each(tmp_path: Path) -> None:
    """What a person reads with pandas; ids, steps and epochs cost next to nothing."""
    rows, values = 100_000, np.random.default_rng(0).random(100_000, dtype=np.float32)
    for rank, ids in enumerate(np.array_split(np.arange(rows), 2)):
        write_history(str(tmp_path), values[ids], step=7, epoch=0.5, rank=rank, first_id=int(ids[0]))
    found = pd.read_parquet(tmp_path / "history")
    assert found["id"].tolist() == list(range(rows))
    assert set(found["step"]) == {7}
    assert set(found["epoch"]) == {0.5}
    np.testing.assert_allclose(found["uncertainty"], values, atol=0.5 / 255 + 1e-6)
    assert sum(file.stat().st_size for file in (tmp_path / "history").iterdir()) < 1.1 * rows


@pytest.mark.parametrize(("epochs", "every"), [(3.0, 1.0), (64.0, 1.0), (65.0, 1.0), (200.0, 0.5)])
def test_a_run_keeps_evenly_spaced_evaluations_and_its_last_but_no_more_than_64(epochs: float, every: float) -> None:
    plan = Plan(shard_rows=(100,), batch_size=10, chunk_rows=16, seed=0)
    training = TrainingConfig(epochs=epochs, evaluate_every_epochs=every)
    kept = [step for step in range(1, int(epochs) * 10 + 1) if due_at(training, plan, step).history]
    assert kept[-1] == epochs * 10
    assert min(64, epochs / every) / 2 <= len(kept) <= 64
    assert len(set(np.diff([0, *kept[:-1]]))) == 1
    assert all(due_at(training, plan, step).evaluation for step in kept)


def test_a_run_that_goes_on_forgets_later_steps(tmp_path: Path) -> None:
    write(str(tmp_path), 2)
    drop_history(str(tmp_path), 10)
    assert read_history(str(tmp_path), np.arange(20)).epochs.tolist() == [0.5]


def test_a_run_without_a_history_has_no_epochs(tmp_path: Path) -> None:
    history = read_history(str(tmp_path), np.arange(3))
    assert (history.epochs.shape, history.uncertainty.shape) == ((0,), (0, 3))


def test_a_step_of_which_a_rank_is_missing_is_refused(tmp_path: Path) -> None:
    write(str(tmp_path), 2)
    (tmp_path / "history" / "step-00000020-rank-00001.parquet").unlink()
    assert len(read_history(str(tmp_path), np.arange(10)).epochs) == 3
    with pytest.raises(DataError, match="lacks 2 of 3 samples at step 20"):
        read_history(str(tmp_path), np.array([0, 11, 12]))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "history").mkdir()
    path = tmp_path / "history" / "step-00000001-rank-00000.parquet"
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="is no part of a history"):
        read_history(str(tmp_path), np.arange(3))
    pq.write_table(pa.table({"uncertainty": [0.1, 0.2]}), path)
    with pytest.raises(DataError, match="is no part of a history"):
        read_history(str(tmp_path), np.arange(3))
