"""What several raters said of a picture, in tables of their own that are joined by the picture's name.

n = rows asked for, C = classes. Votes are counts where the set publishes counts, and shares where it publishes shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.errors import DataError
from ldlva_dist.packing.classes.class_index import spelling
from ldlva_dist.packing.sources.readers.tables import csv_table, need_columns
from ldlva_dist.packing.sources.rows import Rows
from ldlva_dist.packing.tables.cells import number_cells
from ldlva_dist.storage.csv_file import csv_columns, read_text


@dataclass(frozen=True)
class NameVotes:
    """The votes of a table by the names of its rows."""

    table: pa.Table
    name: str
    votes_NC: NDArray[np.float32]
    raters_N: NDArray[np.float32]
    """NaN where the table has shares: nobody says how many raters there were."""
    row_of: dict[str, int]

    def joined(self, rows: Rows, names: Sequence[str]) -> Rows:
        """The rows with the votes of ``names``; a name that the table does not have has no votes and no raters."""
        rows_n = np.array([self.row_of.get(name, -1) for name in names], dtype=np.int64)
        known_n = rows_n >= 0
        votes_nC = np.where(known_n[:, None], self.votes_NC[rows_n], np.float32(0))
        return replace(rows, votes=votes_nC, raters=np.where(known_n, self.raters_N[rows_n], np.float32(np.nan)))

    def column(self, column: str) -> dict[str, str]:
        """Another column by name."""
        return dict(zip(self.row_of, self.table[column].take(list(self.row_of.values())).to_pylist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class VotesTable:
    """Where votes stand, and which column is of which class."""

    uri: str
    name: str
    """Column of the picture's name."""
    choices: tuple[str, ...]
    """Columns of votes: names of classes, and of what is none, such as ``unknown``."""
    class_names: tuple[str, ...]
    """Classes of the data set, which give the order of the votes; votes for no class of it count as raters only."""
    has_header: bool = True
    """Whether it is a CSV with a header; otherwise blanks stand between name and numbers, in the order of choices."""

    def read(self) -> NameVotes:
        """The table, read once per process; a DataError for what is none."""
        return _read(self)


def votes_in_order(votes_nV: NDArray[np.float32], choices: Sequence[str], class_names: Sequence[str]) -> NDArray[Any]:
    """[n, C] the columns of ``choices`` that are the classes, in their order; zeros where a class has no column."""
    places = {spelling(choice): place for place, choice in enumerate(choices)}
    votes_nC = np.zeros((len(votes_nV), len(class_names)), dtype=np.float32)
    for place, name in enumerate(class_names):
        if spelling(name) in places:
            votes_nC[:, place] = votes_nV[:, places[spelling(name)]]
    return votes_nC


def raters_of(votes_nV: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n] how many raters there were; NaN where the votes are shares, which do not say."""
    votes_nV = np.where(np.isfinite(votes_nV), votes_nV, 0)
    total_n = votes_nV.sum(axis=1)
    are_counts_n = np.all(votes_nV == votes_nV.round(), axis=1) & (total_n != 1)
    return np.where(are_counts_n, total_n, np.float32(np.nan)).astype(np.float32)


@lru_cache(maxsize=2)
def _read(where: VotesTable) -> NameVotes:
    table = _table(where)
    names = [name.strip() for name in table[where.name].to_pylist()]
    votes_NV = np.stack([number_cells(table[c], f"column {c!r} of {where.uri}") for c in where.choices], axis=1)
    bad_N = ~(np.isfinite(votes_NV) & (votes_NV >= 0)).all(axis=1)
    if bad_N.any():
        raise DataError(f"{where.uri}: the votes of {names[int(bad_N.argmax())]!r} are no numbers")
    row_of = {name: row for row, name in enumerate(names) if name}
    if len(row_of) < sum(map(bool, names)):
        again = next(name for row, name in enumerate(names) if name and row_of[name] != row)
        raise DataError(f"{where.uri} has votes of {again!r} twice")
    votes_NC = votes_in_order(votes_NV, where.choices, where.class_names)
    return NameVotes(table, where.name, votes_NC, raters_of(votes_NV), row_of)


def _table(where: VotesTable) -> pa.Table:
    if where.has_header:
        need_columns(csv_columns(where.uri), (where.name, *where.choices), where.uri)
        return csv_table(where.uri)
    lines = [line.split() for line in read_text(where.uri).splitlines() if line.strip()]
    names = (where.name, *where.choices)
    if wrong := next((line for line in lines if len(line) != len(names)), None):
        raise DataError(f"{where.uri} must have a name and {len(where.choices)} numbers a line, got {wrong}")
    return pa.table({name: pa.array([line[at] for line in lines], pa.string()) for at, name in enumerate(names)})
