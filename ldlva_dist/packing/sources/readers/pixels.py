"""A table whose cells hold the pixels: ``emotion,pixels,Usage``, as FER2013 and ``ckextended.csv`` have it.

n = rows of a block. ``pixels`` are the greys of a square picture, row by row, with blanks between. Row i of the file is
the picture that the authors' script of FER+ calls ``fer%07d.png`` by i: votes are joined by that name, and a ``Usage``
that differs says that the two tables do not belong together. Pictures are packed as PNG, which keeps every grey.
"""

import io
import math
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from ldlva_dist import storage
from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError
from ldlva_dist.packing.classes.class_index import whole_number
from ldlva_dist.packing.classes.known_sets import FER2013
from ldlva_dist.packing.sources.readers.tables import csv_table, cut, need_columns, order_of, refuse_empty, spans
from ldlva_dist.packing.sources.rows import LEFT_OUT, Part, Partition, Rows
from ldlva_dist.packing.sources.votes import NameVotes, VotesTable
from ldlva_dist.packing.tables.cells import label_of
from ldlva_dist.storage.csv_file import csv_columns, read_csv

COLUMNS = ("emotion", "pixels", "Usage")
BAD_PIXELS = "the pixels are no greys of a square picture"
MAX_PIXELS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PixelsSource:
    """The rows of some usages of a table, in an order shuffled by ``seed``. No valence-arousal."""

    table: str
    usages: Mapping[Part, tuple[str, ...]]
    """Values of ``Usage`` of each part."""
    packed: tuple[Part, ...] = ("train", "holdout", "test")
    """Parts that are packed."""
    order: tuple[str, ...] = FER2013
    """Meaning of 0, 1, ... in ``emotion``."""
    left_out: tuple[str, ...] = ()
    """Classes of the order that the protocol leaves out."""
    kind: str = "fer2013"
    extra: tuple[str, ...] = ()
    votes: VotesTable | None = None
    """Votes of raters by the name of the picture."""
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind, table, and which usage is which part."""
        usages = {part: " ".join(self.usages[part]) for part in self.packed}
        return {"kind": self.kind, "table": posixpath.basename(self.table), **usages}

    def partitions(self) -> list[Partition]:
        """Stretches of each part's shuffled order.

        Raises:
            DataError: for a table without the columns, or with votes that are of other rows.
        """
        need_columns(csv_columns(self.table), (*COLUMNS, *self.extra), self.table)
        usage_N = np.asarray(self._table()["Usage"], dtype=np.str_)
        known = {usage for usages in self.usages.values() for usage in usages}
        if strange := sorted(set(usage_N.tolist()) - known):
            raise DataError(f"{self.table}: Usage must be one of {', '.join(sorted(known))}, got {strange[0]!r}")
        if self.votes is not None:
            self._check_votes(usage_N, self.votes.read())
        found: list[Partition] = []
        for part in self.packed:
            lines = self._lines(part)
            if part != "holdout":
                refuse_empty(part, len(lines), self.table)
            found += cut(part, len(lines), self.table)
        return found

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with their pictures as PNG."""
        table, lines = self._table(), self._lines(partition.part)
        order = order_of(len(lines), self.seed)
        votes = None if self.votes is None else self.votes.read()
        for span in spans(partition):
            numbers = lines[order[span.start : span.stop]]
            rows = table.take(numbers)
            names = [_name(number) for number in numbers.tolist()]
            images = [_png(text) for text in rows["pixels"].to_pylist()]
            labels = [self._label(label) for label in rows["emotion"].to_pylist()]
            found = Rows(
                part=partition.part,
                numbers=numbers,
                keys=[sanitise_key(name) for name in names],
                names=names,
                images=images,
                labels=labels,
                va=np.full((len(names), 2), np.nan, dtype=np.float32),
                reasons=[self._reason(*pair) for pair in zip(labels, images, strict=True)],
                extra={name: rows[name].to_pylist() for name in self.extra},
                are_made=True,
            )
            yield found if votes is None else votes.joined(found, names)

    def label_counts(self) -> dict[str, Counter[str]]:
        """How often each label stands in each part; no pixel is read."""
        table = csv_table(self.table, ("emotion", "Usage"))
        return {
            part: Counter(
                label
                for label in map(self._label, table["emotion"].take(self._lines_of(table, part)).to_pylist())
                if label is not None
            )
            for part in self.packed
        }

    def _label(self, cell: str) -> str | None:
        number = whole_number(cell)
        return label_of(cell) if number is None or not 0 <= number < len(self.order) else self.order[number]

    def _reason(self, label: str | None, image: bytes | None) -> str | None:
        if label in self.left_out:
            return f"{LEFT_OUT}{label}"
        return BAD_PIXELS if image is None else None

    def _table(self) -> pa.Table:
        return _combined(self.table, storage.stamp(self.table), (*COLUMNS, *self.extra))

    def _lines(self, part: Part) -> NDArray[np.int64]:
        return self._lines_of(self._table(), part)

    def _lines_of(self, table: pa.Table, part: Part) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(np.asarray(table["Usage"], dtype=np.str_), self.usages[part]))

    def _check_votes(self, usage_N: NDArray[np.str_], votes: NameVotes) -> None:
        """The votes name every row of the table, or leave some out, and put each into the same part."""
        usages = votes.column("Usage")
        for number, usage in enumerate(usage_N.tolist()):
            if usages.get(_name(number), usage) != usage:
                raise DataError(
                    f"--votes must be of the rows of {self.table}: {_name(number)} is {usages[_name(number)]} there, "
                    f"row {number} is {usage} here"
                )
        if beyond := next((name for name in usages if name and name >= _name(len(usage_N))), None):
            raise DataError(f"--votes must be of the rows of {self.table}, which has {len(usage_N)}: got {beyond}")


@lru_cache(maxsize=1)
def _combined(uri: str, stamp: str, columns: tuple[str, ...]) -> pa.Table:
    """The columns, parsed once per process; in one piece, as rows taken out of many are slow."""
    del stamp
    return read_csv(uri, columns).combine_chunks()


def _name(number: int) -> str:
    return f"fer{number:07d}.png"


def _png(text: str) -> bytes | None:
    """The picture; None for what is none."""
    text = text.strip()
    if not (text.isascii() and text.replace(" ", "").isdigit()):
        return None
    greys = np.fromstring(text, dtype=np.int64, sep=" ")  # six times as fast as splitting
    side = math.isqrt(len(greys))
    if side * side != len(greys) or len(greys) > MAX_PIXELS or greys.max() > 255:
        return None
    stream = io.BytesIO()
    Image.fromarray(greys.astype(np.uint8).reshape(side, side)).save(stream, "PNG")
    return stream.getvalue()
