"""How the uncertainties went over a run: RUN/history, a small parquet file of each rank at start and evaluations.

The folder is one table of id, step, epoch and uncertainty (``pandas.read_parquet("RUN/history")``). Uncertainties are
rounded to 1/255, so that their dictionary makes them one byte a sample and evaluation; ids, steps and epochs take next
to nothing. At most :data:`MOST` evaluations are kept, evenly spaced: 100 M samples take 6.4 GB at most. A run that goes
on at a checkpoint first drops the files of later steps. n = samples asked for, E = evaluations.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.errors import DataError

FOLDER = "history"
SCALE = 255
MOST = 64
"""Evaluations that the history of a run keeps."""
_META = b"history"
_NAME = re.compile(r"step-\d{8,15}-rank-\d{5,9}\.parquet", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class History:
    """Uncertainties of some samples over a run."""

    epochs: NDArray[np.float64]
    """[E] ascending."""
    uncertainty: NDArray[np.float32]
    """[E, n] in [0, 1], to 1/510."""


def write_history(
    run_uri: str, uncertainty_n: NDArray[np.floating], *, step: int, epoch: float, rank: int, first_id: int
) -> None:
    """Write one rank's rows [first_id, first_id + n) of the table, as uncertainties in [0, 1], after ``step`` steps."""
    values_n = (np.rint(np.asarray(uncertainty_n) * SCALE) / SCALE).astype(np.float32)
    rows = len(values_n)
    columns = {
        "id": pa.array(np.arange(first_id, first_id + rows)),
        "step": pa.array(np.full(rows, step)),
        "epoch": pa.array(np.full(rows, epoch)),
        "uncertainty": pa.array(values_n),
    }
    facts = json.dumps({"step": step, "epoch": epoch, "first_id": first_id}).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table(columns).replace_schema_metadata({_META: facts}),
        sink,
        compression="zstd",
        use_dictionary=["step", "epoch", "uncertainty"],  # pyright: ignore[reportArgumentType] (its stub knows bool)
        column_encoding={"id": "DELTA_BINARY_PACKED"},
    )
    name = f"step-{step:08d}-rank-{rank:05d}.parquet"
    storage.write_bytes(storage.join(run_uri, FOLDER, name), sink.getvalue().to_pybytes())


def drop_history(run_uri: str, after_step: int) -> None:
    """Forget what was written after ``after_step``, or was not written to its end: another lineage's."""
    storage.delete_unfinished(storage.join(run_uri, FOLDER))
    for name in _names(run_uri):
        if _step_of(name) > after_step:
            storage.delete_file(storage.join(run_uri, FOLDER, name))


def read_history(run_uri: str, ids_n: NDArray[np.int64], last_step: int | None = None) -> History:
    """The history of some samples, to its end or to ``last_step``; E = 0 where the run kept none.

    Every step up to a finished checkpoint's is whole; of a later one, ranks may still be writing, or have been killed.

    Raises:
        DataError: for a file that is damaged, or a step of which some of the samples are missing.
    """
    found: dict[int, tuple[float, NDArray[np.float32]]] = {}
    for name in _names(run_uri):
        if last_step is not None and _step_of(name) > last_step:
            continue
        uri = storage.join(run_uri, FOLDER, name)
        try:
            table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)), columns=["uncertainty"])
            facts = _facts((table.schema.metadata or {})[_META])
            values = _in_range(table["uncertainty"])
        except (pa.ArrowException, OSError, KeyError, ValueError, RecursionError) as error:
            raise DataError(f"{uri} is no part of a history: {str(error)[:200]}") from error
        _, row_n = found.setdefault(facts["step"], (facts["epoch"], np.full(len(ids_n), np.nan, np.float32)))
        inside_n = (ids_n >= facts["first_id"]) & (ids_n < facts["first_id"] + len(values))
        row_n[inside_n] = values[ids_n[inside_n] - facts["first_id"]]
    for step, (_, row_n) in found.items():
        if np.isnan(row_n).any():
            raise DataError(f"{run_uri}/{FOLDER} lacks {np.isnan(row_n).sum()} of {len(ids_n)} samples at step {step}")
    rows = [found[step] for step in sorted(found)]
    return History(
        epochs=np.array([epoch for epoch, _ in rows]),
        uncertainty=np.stack([row_n for _, row_n in rows]) if rows else np.empty((0, len(ids_n)), np.float32),
    )


def _facts(text: bytes) -> dict[str, Any]:
    """What a part says of itself; ValueError where it says something else."""
    facts = json.loads(text)
    kinds = {"step": (int,), "first_id": (int,), "epoch": (int, float)}
    if not isinstance(facts, dict) or any(type(facts.get(name)) not in kind for name, kind in kinds.items()):
        raise ValueError(f"step, epoch and first_id must be numbers, got {ascii(facts)[:80]}")
    return facts


def _in_range(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """[n] the uncertainties of a part; ValueError where they are none."""
    if column.type != pa.float32() or column.null_count:
        raise ValueError(f"uncertainty must be float32 without nulls, got {column.type}")
    values = column.to_numpy()
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("uncertainty must be in [0, 1]")
    return values


def _names(run_uri: str) -> list[str]:
    return [name for name in storage.list_folder(storage.join(run_uri, FOLDER)) if _NAME.fullmatch(name)]


def _step_of(name: str) -> int:
    return int(name.split("-")[1])
