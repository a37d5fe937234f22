"""What a run trained on against its plan."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.stream.plan import Plan


def assert_exactly_once(log: pa.Table, plan: Plan, total: int) -> None:
    """The log is the plan: every step, every position in it, once; and so every row once in each whole epoch."""
    assert log.num_rows == total * plan.batch_size
    np.testing.assert_array_equal(log["step"], np.repeat(np.arange(total), plan.batch_size))
    np.testing.assert_array_equal(log["position"], np.tile(np.arange(plan.batch_size), total))
    lanes = log["id"].to_numpy().reshape(total, plan.num_lanes, plan.rows_per_step).swapaxes(0, 1)
    by_epoch: dict[int, list[int]] = {}
    for lane in range(plan.num_lanes):
        ids, epochs = [], []
        for superstep in range(-(-total // plan.steps_per_superstep)):
            runs, order = plan.window(lane, superstep)
            ids += np.concatenate([run.first_id + np.arange(run.rows) for run in runs])[order].tolist()
            epochs += np.repeat([run.epoch for run in runs], [run.rows for run in runs])[order].tolist()
        trained = lanes[lane].ravel().tolist()
        assert trained == ids[: len(trained)]
        for epoch, sample in zip(epochs, trained, strict=False):
            by_epoch.setdefault(epoch, []).append(sample)
    whole = total * plan.batch_size // plan.num_rows - 1  # lanes are not at the same place of an epoch
    assert len(by_epoch) > whole > 0
    for epoch in range(whole):
        assert sorted(by_epoch[epoch]) == list(range(plan.num_rows)), "no row is left out or comes twice"


def ids_of(plan: Plan, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
    """The ids of a rank's rows of a step; -1 - id for those of later epochs."""
    superstep, within = divmod(step, plan.steps_per_superstep)
    ids = []
    for lane in plan.lanes_of(rank, world_size):
        runs, order = plan.window(lane, superstep)
        epochs = np.concatenate([np.full(run.rows, run.epoch) for run in runs])[order]
        given = np.concatenate([run.first_id + np.arange(run.rows) for run in runs])[order]
        place = slice(within * plan.rows_per_step, (within + 1) * plan.rows_per_step)
        ids.append(np.where(epochs[place] == 0, given[place], -1 - given[place]))
    return np.concatenate(ids)
