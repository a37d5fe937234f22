"""AffectNet by its manual lists ``training.csv`` and ``validation.csv``. n = rows of a block.

Columns: subDirectory_filePath, face_x, face_y, face_width, face_height, facial_landmarks, expression, valence, arousal;
``validation.csv`` is published without a header. Expressions: 0 Neutral, 1 Happy, 2 Sad, 3 Surprise, 4 Fear, 5 Disgust,
6 Anger, 7 Contempt, 8 None, 9 Uncertain, 10 No-Face; the order of the classes is the same. Valence and arousal lie in
[-1, 1]; -2 says that there are none.

Protocol: train on the training list and test on the validation list (the test set was never published). 8 classes leave
out 8, 9 and 10; 7 classes (the reference's) leave out Contempt too. Left-out rows are listed as such, not rejected.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.packing.classes.class_index import whole_number
from ldlva_dist.packing.classes.known_sets import AFFECTNET
from ldlva_dist.packing.sources.readers.boxes import Boxes
from ldlva_dist.packing.sources.readers.tables import (
    csv_table,
    cut,
    image_uri,
    need_columns,
    order_of,
    refuse_empty,
    spans,
)
from ldlva_dist.packing.sources.rows import LEFT_OUT, Part, Partition, Rows
from ldlva_dist.packing.sources.user_columns import require_columns
from ldlva_dist.packing.tables.cells import label_of, text_cells, va_cells
from ldlva_dist.storage.csv_file import csv_columns

BOX = ("face_x", "face_y", "face_width", "face_height")
COLUMNS = ("subDirectory_filePath", *BOX, "facial_landmarks", "expression", "valence", "arousal")
NEEDED = ("subDirectory_filePath", "expression", "valence", "arousal")
BOXES = Boxes(columns=tuple(zip(("left", "top", "width", "height"), BOX, strict=True)))


@dataclass(frozen=True, kw_only=True)
class AffectNetSource:
    """The manual lists and the folder of images, in an order shuffled by ``seed``."""

    tables: dict[Part, str]
    images: str
    """Folder that subDirectory_filePath starts from."""
    num_classes: int = 7
    crop: bool = False
    """Cut out the face's box (a JPEG of quality 95) of the upright picture; images are packed as they are otherwise."""
    extra: tuple[str, ...] = ()
    """Columns that ride along."""
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind and protocol."""
        return {"kind": "affectnet", "protocol": f"{self.num_classes} classes, tested on validation", "crop": self.crop}

    def partitions(self) -> list[Partition]:
        """Stretches of each list's shuffled order."""
        found: list[Partition] = []
        for part, uri in self.tables.items():
            rows = len(self._table(uri))
            refuse_empty(part, rows, uri)
            found += cut(part, rows, uri)
        return found

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with the uris of their images, or with the faces cut out of them."""
        table = self._table(partition.place)
        order = order_of(len(table), self.seed)
        with ThreadPoolExecutor() as pool:
            for span in spans(partition):
                numbers = order[span.start : span.stop]
                rows = table.take(numbers)
                paths = rows["subDirectory_filePath"].to_pylist()
                labels, reasons = settle(rows["expression"].to_pylist(), self.num_classes)
                images: list[bytes | str | None] = [image_uri(self.images, path) for path in paths]
                if self.crop:
                    cuts = list(pool.map(BOXES.cut_out, images, BOXES.of_rows(rows), reasons))
                    images, reasons = [image for image, _ in cuts], [reason for _, reason in cuts]
                yield Rows(
                    part=partition.part,
                    numbers=numbers,
                    keys=[sanitise_key(path) for path in paths],
                    names=paths,
                    images=images,
                    labels=labels,
                    va=va_cells(rows["valence"], rows["arousal"], partition.place),
                    reasons=reasons,
                    extra={name: text_cells(rows[name], f"{name} of {partition.place}") for name in self.extra},
                    are_made=self.crop,
                )

    def _table(self, uri: str) -> pa.Table:
        """The columns that are needed; landmarks, a kilobyte a row, are not."""
        keep, present = (*NEEDED, *BOX) if self.crop else NEEDED, csv_columns(uri)
        headless = "subDirectory_filePath" not in present and len(present) == len(COLUMNS)
        present = COLUMNS if headless else present
        need_columns(present, keep, uri)
        require_columns(present, dict.fromkeys(self.extra, "--keep-column"), uri)
        return csv_table(uri, tuple(dict.fromkeys((*keep, *self.extra))), names=COLUMNS if headless else None)


def settle(expressions: list[str], num_classes: int) -> tuple[list[str | None], list[str | None]]:
    """[n] class names, and why the protocol leaves a row out; a number that means nothing stays as it is."""
    labels = [_name(text) for text in expressions]
    reasons = [f"{LEFT_OUT}{name}" if name in AFFECTNET[num_classes:] else None for name in labels]
    return labels, reasons


def _name(expression: str) -> str | None:
    number = whole_number(expression)
    return label_of(expression) if number is None or not 0 <= number < len(AFFECTNET) else AFFECTNET[number]
