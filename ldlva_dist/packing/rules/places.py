"""Where rows stand, in the user's words: for messages, and to tell rows of one key apart. n = some rows."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.packing.passes.pass1_survey import DUPLICATE, SCHEMA, survey_name
from ldlva_dist.packing.passes.stage import Stage
from ldlva_dist.packing.passes.survey_columns import READ_THREADS, Columns, Repeated
from ldlva_dist.packing.sources.rows import Partition


@dataclass(frozen=True)
class Places:
    """Looks rows up in the survey; only the pieces that hold them are read."""

    stage: Stage
    found: Columns
    partitions: Sequence[Partition]

    def of(self, rows_n: NDArray[np.int64]) -> list[str]:
        """[n] the path of a row's image file, or its name, and its row in a table or tar."""
        rows = self.look_up(rows_n, ["name", "path", "number"]).to_pylist()
        tables = [self.partitions[number].place for number in self.found.partition_of(rows_n).tolist()]
        return [
            f"{row['path'] or row['name']!r} in row {row['number']}" + (f" of {table}" if table else "")
            for row, table in zip(rows, tables, strict=True)
        ]

    def reasons(self, repeated: Repeated) -> pa.Array:
        """[D] the reason of each repeated row, with the place of the row that it repeats."""
        return pa.array([f"{DUPLICATE}: first as {place}" for place in self.of(repeated.first_D)], pa.string())

    def look_up(self, rows_n: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """[n] some columns of the survey."""
        partition_n = self.found.partition_of(rows_n)
        order_n = np.argsort(partition_n, kind="stable")
        numbers, begins = np.unique(partition_n[order_n], return_index=True)
        groups = np.split(rows_n[order_n], begins[1:])

        def read(partition: int, rows: NDArray[np.int64]) -> pa.Table:
            with self.stage.open_piece(survey_name(partition)) as piece:
                return piece.read(list(columns)).take(rows - self.found.first_P[partition])

        with ThreadPoolExecutor(READ_THREADS) as pool:
            tables = list(pool.map(read, numbers.tolist(), groups))
        if not tables:
            return SCHEMA.empty_table().select(list(columns))
        return pa.concat_tables(tables).take(np.argsort(order_n))
