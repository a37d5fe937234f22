"""Who changed which label in which round: ``relabelled.parquet`` beside a version's manifest, a row a decision.

A version carries the rounds of the version that it was made from, oldest first, and its own at the end.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.stored_rows import open_rows
from ldlva_dist.errors import SettingError

RELABELLED = "relabelled.parquet"
ROUNDS = pa.schema(
    [
        ("id", pa.int64()),
        ("key", pa.string()),
        ("round", pa.string()),
        ("given", pa.string()),  # class before the round
        ("decision", pa.string()),  # class after it; the same where it was confirmed
        ("reviewers", pa.list_(pa.string())),
    ]
)


def read_rounds(dataset: Dataset) -> pa.Table:
    """All decisions that led to a version, in the order of their rounds; no rows where there were none."""
    uri = storage.join(dataset.uri, RELABELLED)
    if not storage.exists(uri):
        return ROUNDS.empty_table()
    with open_rows(uri, ROUNDS, ROUNDS.names) as file:
        return file.read(ROUNDS.names, 0, file.num_rows)


def with_round(dataset: Dataset, name: str, decided: pa.Table) -> bytes:
    """The file for a version made from ``dataset``: its rounds, and a new one with the other columns of ROUNDS.

    Raises:
        SettingError: for a round that there was already.
    """
    before = read_rounds(dataset)
    known = round_names(before)
    if name in known:
        raise SettingError(f"--round must be new in this line of versions ({', '.join(known)}), got {name!r}")
    columns = {field.name: decided[field.name] for field in ROUNDS if field.name != "round"}
    columns["round"] = pa.array([name] * len(decided), pa.string())
    return _file(pa.concat_tables([before, pa.table(columns).select(ROUNDS.names).cast(ROUNDS)]))


def moved_rounds(rounds: pa.Table, moved: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> bytes:
    """The file for a version with more rows: the same rounds, of samples whose ids are now what ``moved`` says."""
    return _file(rounds.set_column(0, "id", pa.array(moved(rounds["id"].to_numpy()))).cast(ROUNDS))


def round_names(rounds: pa.Table) -> list[str]:
    """The rounds of a table, oldest first."""
    return list(dict.fromkeys(rounds["round"].to_pylist()))


def _file(rounds: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rounds, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
