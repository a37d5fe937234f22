"""Facts about the sets that people hold: in which order each numbers its classes, and how many faces of each it has.

The orders contradict each other, which is why a number alone is never read. The counts are the published ones; they
tell whether a set that was packed is what it seems to be.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES

AFFECTNET = (*REFERENCE_CLASSES, "Contempt", "None", "Uncertain", "No-Face")
"""Meaning of 0, 1, ... in AffectNet's lists; the reference implementation has the first seven."""
RAF_DB = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
"""Meaning of 1, 2, ... in RAF-DB's list."""
FER2013 = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")


@dataclass(frozen=True)
class KnownOrder:
    """An order in which classes are numbered."""

    where: str
    """The sets and copies that have it."""
    names: tuple[str, ...]
    first: int = 0

    @property
    def numbers(self) -> dict[int, str]:
        """What each number means."""
        return dict(enumerate(self.names, self.first))


ORDERS = (
    KnownOrder("AffectNet, the reference implementation, EfficientFace's RAF-DB", REFERENCE_CLASSES),
    KnownOrder("AffectNet with Contempt", AFFECTNET[:8]),
    KnownOrder("AffectNet's whole lists", AFFECTNET),
    KnownOrder("FER2013, ExpW", FER2013),
    KnownOrder("CK+ as ckextended.csv", (*FER2013, "Contempt")),
    KnownOrder(
        "class folders in alphabetical order", ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
    ),
    KnownOrder(
        "AffectNet in YOLO format",
        ("Anger", "Contempt", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"),
    ),
    KnownOrder(
        "the columns of FER+",
        ("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt"),
    ),
    KnownOrder(
        "AffectNetC25",
        ("Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt", "Neutral"),
    ),
    KnownOrder("CK+", ("Neutral", "Anger", "Contempt", "Disgust", "Fear", "Happy", "Sadness", "Surprise")),
    KnownOrder("RAF-DB", RAF_DB, first=1),
)


@dataclass(frozen=True)
class PublishedPart:
    """Faces of each class in one part of a set."""

    of: str
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Of all classes."""
        return sum(self.counts.values())


def _part(of: str, names: tuple[str, ...], *counts: int) -> PublishedPart:
    return PublishedPart(of, dict(zip(names, counts, strict=True)))


PUBLISHED = (
    _part("RAF-DB's training part", RAF_DB, 1290, 281, 717, 4772, 1982, 705, 2524),
    _part("RAF-DB's test part", RAF_DB, 329, 74, 160, 1185, 478, 162, 680),
    _part("FER2013's Training", FER2013, 3995, 436, 4097, 7215, 4830, 3171, 4965),
    _part("FER2013's PublicTest", FER2013, 467, 56, 496, 895, 653, 415, 607),
    _part("FER2013's PrivateTest", FER2013, 491, 55, 528, 879, 594, 416, 626),
    _part("FER2013's PublicTest and PrivateTest together", FER2013, 958, 111, 1024, 1774, 1247, 831, 1233),
    _part("AffectNet's training list, 7 classes", REFERENCE_CLASSES, 74874, 134415, 25459, 14090, 6378, 3803, 24882),
    _part("AffectNet's training list, 8 classes", AFFECTNET[:8], 74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750),
    _part("AffectNet's validation list, 7 classes", REFERENCE_CLASSES, *[500] * 7),
    _part("AffectNet's validation list, 8 classes", AFFECTNET[:8], *[500] * 8),
    _part("ExpW", FER2013, 3671, 3995, 1088, 30537, 10559, 7060, 34883),
)
