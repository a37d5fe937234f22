"""FER+: the faces of FER2013 with the votes of ten raters. n = rows of a block.

Layout: ``fer2013new.csv`` with the columns Usage, Image name, neutral, happiness, surprise, sadness, anger, disgust,
fear, contempt, unknown, NF (not a face), and the PNG files in ``FER2013Train``, ``FER2013Valid`` and ``FER2013Test``,
as the authors' script writes them, or all in one folder.

Label, as in the authors' mode "majority" (github.com/microsoft/FERPlus, ``_process_data``): votes of a single rater are
dropped, in all ten columns; the label is the column with MORE THAN HALF of the votes that are left. A row without such
a column (every tie is one), or whose majority is unknown or NF, is left out; so is Contempt with 7 classes. Left-out
rows are listed as such, not rejected. The votes that are kept are the raw counts of the classes.
Split: Training trains, PrivateTest is the test part; PublicTest is the data set's own validation part: the holdout.
The order of the classes is the reference's, with Contempt last, not that of the columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.packing.sources.readers.tables import csv_table, cut, image_uri, need_columns, order_of, spans
from ldlva_dist.packing.sources.rows import LEFT_OUT, Part, Partition, Rows
from ldlva_dist.packing.tables.cells import number_cells
from ldlva_dist.storage.csv_file import csv_columns

CLASSES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
VOTES = (*CLASSES, "unknown", "NF")
COLUMNS = ("Usage", "Image name", *VOTES)
USAGES: dict[Part, str] = {"train": "Training", "holdout": "PublicTest", "test": "PrivateTest"}
FOLDERS: dict[Part, str] = {"train": "FER2013Train", "holdout": "FER2013Valid", "test": "FER2013Test"}
NO_MAJORITY, NO_NAME, BAD_VOTES = f"{LEFT_OUT}no majority", f"{LEFT_OUT}it names no image", "the votes are no numbers"


@dataclass(frozen=True, kw_only=True)
class FerPlusSource:
    """The table of votes and the folders of images, in an order shuffled by ``seed``. No valence-arousal."""

    table: str
    images: dict[Part, str]
    """Folder of each part that is packed."""
    num_classes: int = 8
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind and protocol."""
        usages = {part: USAGES[part] for part in self.images}
        return {"kind": "ferplus", "protocol": f"majority, {self.num_classes} classes", **usages}

    def partitions(self) -> list[Partition]:
        """Stretches of each part's shuffled order."""
        need_columns(csv_columns(self.table), COLUMNS, self.table)
        return [piece for part in self.images for piece in cut(part, len(self._lines(part)), self.table)]

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with the uris of their images, the majority and the raw votes."""
        lines = self._lines(partition.part)
        order = order_of(len(lines), self.seed)
        for span in spans(partition):
            numbers = lines[order[span.start : span.stop]]
            rows = self._table().take(numbers)
            names = [name.strip() for name in rows["Image name"].to_pylist()]
            votes_nV = np.stack(
                [number_cells(rows[name], f"column {name!r} of {self.table}") for name in VOTES], axis=1
            )
            labels, reasons = majority(votes_nV, self.num_classes)
            yield Rows(
                part=partition.part,
                numbers=numbers,
                keys=[sanitise_key(name) for name in names],
                names=names,
                images=[image_uri(self.images[partition.part], name) for name in names],
                labels=labels,
                va=np.full((len(names), 2), np.nan, dtype=np.float32),
                votes=votes_nV[:, : self.num_classes],
                raters=np.where(np.isfinite(votes_nV), votes_nV, 0).sum(axis=1).astype(np.float32),
                reasons=[reason if name else reason or NO_NAME for name, reason in zip(names, reasons, strict=True)],
            )

    def _table(self) -> pa.Table:
        return csv_table(self.table, COLUMNS)

    def _lines(self, part: Part) -> NDArray[np.int64]:
        return np.flatnonzero(np.asarray(self._table()["Usage"]) == USAGES[part])


def majority(votes_nV: NDArray[np.float32], num_classes: int) -> tuple[list[str], list[str | None]]:
    """[n] the column with the most votes, and why a row is left out or rejected; V = the columns of VOTES."""
    bad_n = np.any(~np.isfinite(votes_nV) | (votes_nV < 0), axis=1)
    kept_nV = np.where(votes_nV > 1, votes_nV, 0)
    best_n = kept_nV.argmax(axis=1)
    none_n = np.less_equal(kept_nV.max(axis=1) * 2, kept_nV.sum(axis=1))
    labels = [VOTES[best] for best in best_n.tolist()]
    reasons: list[str | None] = [None if best < num_classes else LEFT_OUT + VOTES[best] for best in best_n.tolist()]
    for row in np.flatnonzero(np.logical_or(none_n, bad_n)).tolist():
        reasons[row] = BAD_VOTES if bad_n[row] else NO_MAJORITY
    return labels, reasons
