"""RAF-DB, the basic (single-label) subset. n = rows of a block.

Layout: ``EmoLabel/list_patition_label.txt`` (so spelt) with a line ``train_00001.jpg 5`` for each image, and
``Image/aligned/train_00001_aligned.jpg``, 100 x 100 pixels. The labels count from 1: 1 Surprise, 2 Fear, 3 Disgust,
4 Happiness, 5 Sadness, 6 Anger, 7 Neutral; they become names, and the data set has the order of ``--classes``.
The official split is in the names: ``train_`` 12,271 images, ``test_`` 3,068. Without valence-arousal, which
``jobs/annotate_va.py`` adds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.packing.classes.class_index import whole_number
from ldlva_dist.packing.classes.known_sets import RAF_DB
from ldlva_dist.packing.sources.readers.tables import csv_table, cut, image_uri, order_of, spans
from ldlva_dist.packing.sources.rows import Part, Partition, Rows

NAMES = ("name", "label")
NO_SPLIT = "the name begins with neither train_ nor test_"


@dataclass(frozen=True, kw_only=True)
class RafDbSource:
    """The list of labels and the folder of images, in an order shuffled by ``seed``."""

    labels: str
    """``list_patition_label.txt``."""
    images: str
    suffix: str = "_aligned"
    """Between the name and its extension in the names of the image files."""
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind and the official protocol."""
        return {"kind": "raf-db", "protocol": "basic: train_ and test_ as named"}

    def partitions(self) -> list[Partition]:
        """Stretches of each part's shuffled order."""
        parts: tuple[Part, ...] = ("train", "test")
        return [piece for part in parts for piece in cut(part, len(self._lines(part)), self.labels)]

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with the uris of their images; a line of no part is a rejected row of the training part."""
        lines = self._lines(partition.part)
        order = order_of(len(lines), self.seed)
        for span in spans(partition):
            numbers = lines[order[span.start : span.stop]]
            table = self._table().take(numbers)
            names, labels = table["name"].to_pylist(), table["label"].to_pylist()
            yield Rows(
                part=partition.part,
                numbers=numbers,
                keys=[sanitise_key(name) for name in names],
                names=names,
                images=[self._image(name) for name in names],
                labels=[_name(label) for label in labels],
                va=np.full((len(names), 2), np.nan, dtype=np.float32),
                reasons=[None if name.startswith(("train_", "test_")) else NO_SPLIT for name in names],
            )

    def _table(self) -> pa.Table:
        return csv_table(self.labels, names=NAMES, delimiter=" ")

    def _lines(self, part: Part) -> NDArray[np.int64]:
        is_test = np.strings.startswith(np.asarray(self._table()["name"], dtype=np.str_), "test_")
        return np.flatnonzero(is_test == (part == "test"))

    def _image(self, name: str) -> str | None:
        stem, dot, extension = name.rpartition(".")
        return image_uri(self.images, f"{stem}{self.suffix}{dot}{extension}")


def _name(label: str) -> str:
    number = whole_number(label)
    return f"RAF-DB label {label}" if number is None or not 0 < number <= len(RAF_DB) else RAF_DB[number - 1]
