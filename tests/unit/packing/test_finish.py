"""The manifest's row groups, whatever pieces the rows come in."""

import numpy as np
import pyarrow as pa
import pytest

from ldlva_dist.dataset.manifest import ROW_GROUP_ROWS
from ldlva_dist.dataset.stored_rows import regrouped


@pytest.mark.parametrize("sizes", [[5], [ROW_GROUP_ROWS], [60_000, 0, 6_000, 150_000, 3], [ROW_GROUP_ROWS, 1], [0], []])
def test_rows_come_in_whole_row_groups_and_in_their_order(sizes: list[int]) -> None:
    ids = np.arange(sum(sizes))
    ends = np.cumsum(sizes)
    tables = [pa.table({"id": ids[end - size : end]}) for size, end in zip(sizes, ends, strict=True)]
    groups = list(regrouped(tables, ROW_GROUP_ROWS))
    assert all(len(group) == ROW_GROUP_ROWS for group in groups[:-1])
    assert np.array_equal(np.concatenate([ids[:0], *(group["id"].to_numpy() for group in groups)]), ids)
