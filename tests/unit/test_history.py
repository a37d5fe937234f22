"""The uncertainties over a run come back as they were written, however many ranks wrote them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldlva_dist.errors import DataError
from ldlva_dist.reporting.history import drop_history, read_history, write_history

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
    pq.write_table(pa.table({"uncertainty": [1, 2]}), path)
    with pytest.raises(DataError, match="is no part of a history"):
        read_history(str(tmp_path), np.arange(3))
