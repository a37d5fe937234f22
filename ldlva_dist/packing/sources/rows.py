"""Rows as a user has them, before they are verified. n = rows of one block, C = classes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "holdout", "test"]
"""Split of the user's files; a source that brings its own validation part calls it holdout, and none is cut then."""
USUAL_NAMES = {"path": "subDirectory_filePath", "label": "expression", "valence": "valence", "arousal": "arousal"}
"""Columns of the reference's lists."""
PERSONS = ("person", "subject", "subject_id", "identity")
"""How columns are called that say whose face it is."""
NO_VALUE = frozenset({"", "na", "n/a", "<na>", "#n/a", "none", "null", "nan"})
"""How "there is none" is written in a cell, in small letters."""
EXTENSIONS = ("jpg", "jpeg", "jpe", "jfif", "png", "apng", "bmp", "webp", "gif", "tif", "tiff", "avif")
EXTENSIONS += ("jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "ppm", "pgm", "pbm", "pnm")
"""Of image files, of every kind that can be decoded."""
REFERENCE_CLASSES = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger")
BLOCK_ROWS = 512
PARTITION_ROWS = 2048
LEFT_OUT = "left out: "
"""How the reason begins of a row that a protocol leaves out: listed like a rejected row, outside the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A block of up to some hundred rows; images may be bytes or the uri of a file."""

    part: Part
    numbers: NDArray[np.int64]
    """[n] place in the user's table, from 0."""
    keys: Sequence[str]
    """A slug of each name; rows whose slugs meet are told apart by their names, when all rows are known."""
    images: Sequence[bytes | str | None]
    labels: Sequence[str | None]
    """As the source has them: class names, or numbers whose meaning somebody must say; None where there is none."""
    va: NDArray[np.float32]
    """[n, 2] valence and arousal; NaN where the row has none."""
    votes: NDArray[np.float32] | None = None
    """[n, C] how many raters chose each class, or their share."""
    raters: NDArray[np.float32] | None = None
    """[n] all who were asked, those who chose no class among them; NaN where nobody says."""
    truth: NDArray[np.float32] | None = None
    """[n, C] true distribution."""
    flipped: NDArray[np.bool_] | None = None
    names: Sequence[str] | None = None
    """[n] what the user calls each row: its path in the folder, table or tar of its part. The keys where not given."""
    reasons: Sequence[str | None] | None = None
    """[n] why the source itself rejects a row (nothing more of it is checked), or leaves it out (``LEFT_OUT``)."""
    extra: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """The user's own columns, by name: [n] texts."""
    are_made: bool = False
    """Whether the source encoded the images that come as bytes: they are sound, and not worth making again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A stretch of a source that one task reads: plain values, the same ones every time."""

    part: Part
    first: int
    """Place of its first row in the order its part is packed in, from 0."""
    rows: int
    """Rows before filters; 0 where only reading tells."""
    place: str = ""
    """The file or table they stand in; for the source that made it, and for messages."""
    begin: int = 0
    """Its first row within ``place``, where that differs from ``first``."""


class Source(Protocol):
    """What a user has, and how to read it anywhere: a source is sent to the tasks, so it holds plain values only."""

    def partitions(self) -> Sequence[Partition]:
        """All stretches in packing order, training part first; cheap, no image is read.

        Raises:
            SettingError: for a table, column or folder that is not as the settings say.
        """
        ...

    def read(self, partition: Partition) -> Iterator[Rows]:
        """The rows of one stretch, some hundred at a time, the same rows in the same order every time."""
        ...

    def describe(self) -> dict[str, Any]:
        """A few plain values for ``dataset.json``."""
        ...


def all_rows(source: Source) -> Iterator[Rows]:
    """Every row of a source in one process, training part first.

    Args:
        source: Where the rows come from.
    """
    for partition in source.partitions():
        yield from source.read(partition)
