"""The log of ids: what later steps left behind goes when a run starts again at a checkpoint."""

from pathlib import Path

import numpy as np

from ldlva_dist.messages import Batch
from ldlva_dist.records.ids_log import IdsLog, read_ids


def _batch(step: int, rank: int, world_size: int) -> Batch:
    positions = np.arange(rank, 6, world_size, dtype=np.int32)
    n = len(positions)
    return Batch(
        step=step,
        positions=positions,
        ids=positions + 10 * step,
        images=np.zeros((n, 2, 2, 1), np.uint8),
        labels=np.zeros(n, np.int64),
        va=np.zeros((n, 2), np.float32),
    )


def _run(folder: Path, first_step: int, flushes: list[int], world_size: int) -> None:
    logs = [IdsLog(str(folder), first_step, rank) for rank in range(world_size)]
    for step in range(first_step, flushes[-1]):
        for rank, log in enumerate(logs):
            log.add(_batch(step, rank, world_size))
            if step + 1 in flushes:
                log.flush()


def test_the_log_holds_the_surviving_lineage_whatever_the_ranks_were(tmp_path: Path) -> None:
    _run(tmp_path, 0, [4, 8, 12], world_size=3)  # its checkpoints at 8 and 12 are lost
    (tmp_path / "ids" / ".step-00000000-rank-00001.parquet.0123.part").write_bytes(b"killed while writing")
    _run(tmp_path, 4, [6, 10], world_size=2)
    table = read_ids(str(tmp_path))
    assert table["step"].to_pylist() == [step for step in range(10) for _ in range(6)]
    assert table["position"].to_pylist() == list(range(6)) * 10
    np.testing.assert_array_equal(table["id"], table["position"].to_numpy() + 10 * table["step"].to_numpy())
