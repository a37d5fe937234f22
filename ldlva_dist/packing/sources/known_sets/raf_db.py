"""RAF-DB, the basic (single-label) subset. n = rows of a block.

Layout: ``EmoLabel/list_patition_label.txt`` (so spelt) with a line ``train_00001.jpg 5`` for each image, and
``Image/aligned/train_00001_aligned.jpg``, 100 x 100 pixels. The labels count from 1: 1 Surprise, 2 Fear, 3 Disgust,
4 Happiness, 5 Sadness, 6 Anger, 7 Neutral; they become names, and the data set has the order of ``--classes``.
The official split is in the names: ``train_`` 12,271 images, ``test_`` 3,068. Without valence-arousal, which
``jobs/annotate_va.py`` adds. ``EmoLabel/distribution_basic.txt`` has the shares of about forty raters for each image;
they are kept as votes.

The copy that goes round on Kaggle has ``DATASET/train/5/train_00001_aligned.jpg`` and ``train_labels.csv`` beside
``DATASET`` instead, with the same numbers: the folder is the label, and a list that says something else is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError
from ldlva_dist.packing.classes.class_index import whole_number
from ldlva_dist.packing.classes.known_sets import RAF_DB
from ldlva_dist.packing.sources.listing import list_images
from ldlva_dist.packing.sources.readers.tables import csv_table, cut, image_uri, order_of, refuse_empty, spans
from ldlva_dist.packing.sources.rows import Part, Partition, Rows
from ldlva_dist.packing.sources.votes import VotesTable
from ldlva_dist.storage.csv_file import csv_columns

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
    votes: VotesTable | None = None
    """Shares of the raters by the names of the list."""
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
        votes = None if self.votes is None else self.votes.read()
        for span in spans(partition):
            numbers = lines[order[span.start : span.stop]]
            table = self._table().take(numbers)
            names, labels = table["name"].to_pylist(), table["label"].to_pylist()
            found = Rows(
                part=partition.part,
                numbers=numbers,
                keys=[sanitise_key(name) for name in names],
                names=names,
                images=[self._image(name) for name in names],
                labels=[_name(label) for label in labels],
                va=np.full((len(names), 2), np.nan, dtype=np.float32),
                reasons=[None if name.startswith(("train_", "test_")) else NO_SPLIT for name in names],
            )
            yield found if votes is None else votes.joined(found, names)

    def _table(self) -> pa.Table:
        return csv_table(self.labels, names=NAMES, delimiter=" ")

    def _lines(self, part: Part) -> NDArray[np.int64]:
        is_test = np.strings.startswith(np.asarray(self._table()["name"], dtype=np.str_), "test_")
        return np.flatnonzero(is_test == (part == "test"))

    def _image(self, name: str) -> str | None:
        stem, dot, extension = name.rpartition(".")
        return image_uri(self.images, f"{stem}{self.suffix}{dot}{extension}")


@dataclass(frozen=True, kw_only=True)
class RafDbCopySource:
    """The copy with a folder for each number, in an order shuffled by ``seed``."""

    folders: dict[Part, str]
    """``DATASET/train`` and ``DATASET/test``."""
    lists: dict[Part, str]
    """``train_labels.csv`` and ``test_labels.csv``, where they are there."""
    suffix: str = "_aligned"
    """Between the name and its extension in the names of the image files."""
    votes: VotesTable | None = None
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind and the official protocol."""
        return {"kind": "raf-db", "protocol": "basic: folders train and test of a copy"}

    def partitions(self) -> list[Partition]:
        """Stretches of each part's shuffled order; a DataError where folders and lists contradict each other."""
        found: list[Partition] = []
        for part, uri in self.folders.items():
            listing = list_images(uri)
            refuse_empty(part, len(listing.paths), uri, listing.passed_over())
            if part in self.lists:
                _refuse_contradictions(listing.paths.to_pylist(), self.lists[part])
            found += cut(part, len(listing.paths), uri)
        return found

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with the uris of their images."""
        files = list_images(partition.place).paths
        order = order_of(len(files), self.seed)
        votes = None if self.votes is None else self.votes.read()
        for span in spans(partition):
            numbers = order[span.start : span.stop]
            paths = files.take(numbers).to_pylist()
            names = [path.rpartition("/")[2].replace(f"{self.suffix}.", ".") for path in paths]
            found = Rows(
                part=partition.part,
                numbers=numbers,
                keys=[sanitise_key(name) for name in names],
                names=paths,
                images=[storage.join(partition.place, path) for path in paths],
                labels=[_name(path.partition("/")[0]) for path in paths],
                va=np.full((len(paths), 2), np.nan, dtype=np.float32),
            )
            yield found if votes is None else votes.joined(found, names)


def _refuse_contradictions(paths: list[str], uri: str) -> None:
    """DataError where a list gives images of a folder another number."""
    image, label, *_ = (*csv_columns(uri), "")
    table = csv_table(uri)
    listed = dict(zip(table[image].to_pylist(), table[label].to_pylist(), strict=True))
    pairs = [(path, listed.get(path.rpartition("/")[2])) for path in paths]
    wrong = [(path, label) for path, label in pairs if label is not None and label.strip() != path.partition("/")[0]]
    if wrong:
        raise DataError(
            f"{uri} contradicts the folders for {len(wrong)} of {len(paths)} images, {wrong[0][0]!r} is {wrong[0][1]} "
            "there"
        )


def _name(label: str) -> str:
    number = whole_number(label)
    return f"RAF-DB label {label}" if number is None or not 0 < number <= len(RAF_DB) else RAF_DB[number - 1]
