"""What every kind of source is told on the command line."""

import os
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from tyro.conf import Suppress

from ldlva_dist.errors import SettingError
from ldlva_dist.packing.classes.class_index import StatedClasses, stated_classes
from ldlva_dist.packing.classes.known_sets import AFFECTNET
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES, Source
from ldlva_dist.values.settings import Range, Seed, Share, check_name, check_options

HOLDOUT = 0.1


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every kind of source is packed with."""

    output: str = ""
    """Folder or s3:// prefix to write; must not exist."""
    name: str | None = None
    """Name of the data set, the last part of --output if not given; with add, of the version."""
    classes: tuple[str, ...] = ()
    """Class names in index order, or what the numbers mean that are the labels: 0=Angry 1=Disgust ... Labels may be
    other spellings of the names too (angry, sadness). The names alone count from 0. Default: Neutral Happy Sad Surprise
    Fear Disgust Anger; numbers then mean something only where the data say so."""
    max_rejected: Share = 0.01
    """Share of the labelled rows of each part (train, validation, test) that may be rejected."""
    on_bad_data: Literal["quarantine", "skip", "fail"] = "quarantine"
    """List bad rows in rejected.parquet, only count them, or end at the first one."""
    holdout: Annotated[float, Range(ge=0, lt=1)] | None = None
    """Share of the training rows cut off for model selection, by a hash of the key: 0.1 if not given; with add, the one
    that the data set was packed with."""
    holdout_by: str | None = None
    """Column such as a person's name: all rows of one value go to the training part, or all to the holdout."""
    drop_copies: bool = False
    """Leave out training rows whose image, pixel by pixel, stands in the test or validation part too; with add, also
    rows whose image, byte for byte, the data set has already."""
    keep_column: tuple[str, ...] = ()
    """Columns of the data that ride along as extra_NAME, text for groups and filters: age gender source person."""
    size: Annotated[int, Range(ge=16, le=4096)] | None = None
    """Resize images to this many pixels square; as they are if not given."""
    standardize_va: bool = False
    """Measure distances on valence-arousal of mean 0 and standard deviation 1 over the training rows."""
    shuffle_va: Seed | None = None
    """Control experiment: permute valence-arousal among the training rows by this seed."""
    noise: str | None = None
    """Train on wrong labels, the given ones kept beside them: symmetric:SHARE, confusion:SHARE:FILE
    (a CSV of the columns given and the classes, or an evaluation.json), or list:FILE of lines "name label"."""
    seed: Seed = 0

    EXTRAS: ClassVar[tuple[str, ...] | None] = ()
    """Columns that may ride along; None: any that the data have."""

    def __post_init__(self) -> None:
        stated_classes(self.classes)
        for name in self.extra():
            if self.EXTRAS is not None and name not in self.EXTRAS:
                these = f"one of {', '.join(self.EXTRAS)}" if self.EXTRAS else "nothing for this kind of source"
                raise SettingError(f"--keep-column and --holdout-by must be {these}, got {name!r}")
        check_options(self)
        if self.name is not None:
            check_name("--name", self.name)

    def source(self) -> Source:
        """The rows to pack."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Sentences on what lies beside the rows and is passed over."""
        return []

    def extra(self) -> tuple[str, ...]:
        """The columns that ride along."""
        return tuple(dict.fromkeys((*self.keep_column, *([self.holdout_by] if self.holdout_by else []))))

    def numbers_are_affectnets(self) -> bool:
        """Whether the layout itself says that numbers are in AffectNet's order, as the reference's lists have them."""
        return False

    def numbers(self) -> dict[int, str] | None:
        """What the layout itself says that numbers mean; None where it says nothing."""
        return dict(enumerate(AFFECTNET)) if self.numbers_are_affectnets() else None

    def stated(self) -> StatedClasses:
        """The classes, and what numbers mean: by ``--classes``, else by the layout, else nothing."""
        stated = stated_classes(self.classes)
        numbers = None if self.classes else self.numbers()
        return stated if numbers is None else StatedClasses(stated.names, numbers)


@dataclass(frozen=True, kw_only=True)
class KnownClasses(Common):
    """A data set whose classes are the reference's, with Contempt or without."""

    classes: Suppress[tuple[str, ...]] = REFERENCE_CLASSES
    num_classes: Literal[7, 8] = 7
    """7 as in the reference, or 8 with Contempt; rows of a class that is not among them are left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "classes", (*REFERENCE_CLASSES, "Contempt")[: self.num_classes])


def check_there(setting: str, uri: str) -> None:
    """SettingError unless a file or folder is there, and its name is text."""
    from ldlva_dist import storage

    check_text(setting, uri)
    if not storage.exists(uri):
        raise SettingError(f"{setting} must name what exists, got {uri!r}")


def check_text(setting: str, uri: str) -> None:
    """SettingError for a path with bytes that are no UTF-8: tables and messages could not name it."""
    if os.fsencode(uri) != uri.encode(errors="replace"):
        raise SettingError(f"{setting} must be UTF-8 text, got {os.fsencode(uri)!r}")
