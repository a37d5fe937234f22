"""Rows that cannot be trained on: what is wrong with each, the budget for them, and the list that is left of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from ldlva_dist import storage
from ldlva_dist.dataset.stored_rows import open_rows
from ldlva_dist.errors import DataError

FILE = "quarantine.parquet"
SCHEMA = pa.schema([("id", pa.int64()), ("shard", pa.string()), ("offset", pa.int64()), ("reason", pa.string())])


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """One row whose bytes are missing, changed or no image."""

    id: int
    shard: str
    """uri of the tar file."""
    offset: int
    """Byte offset of the image in the shard."""
    reason: str

    def __str__(self) -> str:
        return f"row {self.id}, at byte {self.offset} of {self.shard}: {self.reason}"


class Quarantine:
    """The bad rows that a run met, each counted once however often an epoch comes back to it."""

    def __init__(self, *, num_rows: int, max_share: float, uri: str | None) -> None:
        """Go on with the list at ``uri``, if there is one; None keeps no list.

        Args:
            num_rows: N, the rows of the training split.
            max_share: The budget, as a share of N.
            uri: Where the list is written.
        """
        self._num_rows, self._max_share, self._uri = num_rows, max_share, uri
        self._rows: dict[int, BadRow] = {}
        if uri and storage.exists(uri):
            self._rows = {row.id: row for row in read_quarantine(uri)}

    def add(self, rows: Sequence[BadRow]) -> None:
        """Note bad rows; a DataError once there are more than the budget allows, with the list already written."""
        new = {row.id: row for row in rows if row.id not in self._rows}
        self._rows |= new
        if new and self._uri:
            write_quarantine(self._uri, sorted(self._rows.values(), key=lambda row: row.id))
        if len(self._rows) > self._max_share * self._num_rows:
            where = f"the list is {self._uri}" if self._uri else f"the last is {rows[-1]}"
            raise DataError(
                f"{len(self._rows)} bad rows of {self._num_rows} are more than data.max_bad_share={self._max_share:g} "
                f"allows; {where}"
            )


def write_quarantine(uri: str, rows: Sequence[BadRow]) -> None:
    """Write the list anew; it appears complete or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA), sink)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def read_quarantine(uri: str) -> list[BadRow]:
    """The list of a run; a damaged one is a DataError."""
    with open_rows(uri, SCHEMA, SCHEMA.names) as file:
        return [BadRow(**row) for row in file.read(SCHEMA.names, 0, file.num_rows).to_pylist()]
