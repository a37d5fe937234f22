"""Which samples every step trained on: RUN/ids, written by each rank for itself (``training.log_ids``).

A file holds one rank's steps between two checkpoints. A run that resumes at a checkpoint first drops the files of later
steps, so what lies there is the lineage that survived.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.errors import DataError
from ldlva_dist.messages import Batch

FOLDER = "ids"
_NAME = re.compile(r"step-\d{8,15}-rank-\d{5,9}\.parquet", re.ASCII)
_COLUMNS = ["step", "position", "id"]


class IdsLog:
    """One rank's part of the log."""

    def __init__(self, folder_uri: str, first_step: int, rank: int) -> None:
        """Go on at ``first_step``, counted from 0; rank 0 drops what other lineages wrote from there on."""
        self._uri, self._first_step, self._rank = storage.join(folder_uri, FOLDER), first_step, rank
        self._rows: list[tuple[int, NDArray[np.int32], NDArray[np.int64]]] = []
        if rank == 0:
            storage.delete_unfinished(self._uri)
            for name in _names(self._uri):
                if int(name.split("-")[1]) >= first_step:
                    storage.delete_file(storage.join(self._uri, name))

    def add(self, batch: Batch) -> None:
        """Note a batch that was trained on."""
        self._rows.append((batch.step, batch.positions, batch.ids.copy()))

    def flush(self) -> None:
        """Write what was noted, before the checkpoint that makes it count."""
        if not self._rows:
            return
        table = pa.table(
            {
                "step": np.concatenate([np.full(len(ids), step) for step, _, ids in self._rows]),
                "position": np.concatenate([positions for _, positions, _ in self._rows]),
                "id": np.concatenate([ids for _, _, ids in self._rows]),
            }
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        name = f"step-{self._first_step:08d}-rank-{self._rank:05d}.parquet"
        storage.write_bytes(storage.join(self._uri, name), sink.getvalue().to_pybytes())
        self._first_step, self._rows = self._rows[-1][0] + 1, []


def read_ids(folder_uri: str) -> pa.Table:
    """step, position and id of every row that the run trained on, in the order of training."""
    uri = storage.join(folder_uri, FOLDER)
    tables = [_read(storage.join(uri, name)) for name in _names(uri)]
    if not tables:
        raise DataError(f"{uri} holds no log of ids")
    return pa.concat_tables(tables).sort_by([("step", "ascending"), ("position", "ascending")])


def _read(uri: str) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{uri} is no part of a log of ids: {str(error)[:200]}") from error
    if table.column_names != _COLUMNS or not all(pa.types.is_integer(kind) for kind in table.schema.types):
        raise DataError(f"{uri} is no part of a log of ids: it must have whole numbers {_COLUMNS}, got {table.schema}")
    return table


def _names(uri: str) -> list[str]:
    return [name for name in storage.list_folder(uri) if _NAME.fullmatch(name)]
