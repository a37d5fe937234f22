"""Settings of the kinds of source that fit anybody's data; tables of image files stand in `image_tables.py`.

The command line reads this before anything is imported: a source is imported where it is made.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ldlva_dist.errors import SettingError
from ldlva_dist.packing.classes.class_index import ClassIndex, StatedClasses, spelling
from ldlva_dist.packing.sources.common import Common, check_there
from ldlva_dist.packing.sources.rows import EXTENSIONS, REFERENCE_CLASSES, Part, Source
from ldlva_dist.values.settings import Range, Share

if TYPE_CHECKING:
    from ldlva_dist.packing.sources.readers.parquet import ParquetSource

_PART = re.compile(r"(train|validation|valid|val|dev|test)(?=[-_.])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Parquet(Common):
    """Parquet files with encoded images in a column; rows keep the files' order."""

    EXTRAS: ClassVar[tuple[str, ...] | None] = None
    train: tuple[str, ...]
    """Files of the training rows, or folders of them."""
    test: tuple[str, ...] = ()
    """Files of the test rows, or folders of them."""
    image_column: str | None = None
    """Column of image bytes; found by its type if not given."""
    key_column: str | None = None
    """Column of unique names; rows are numbered if not given."""
    label_column: str | None = None
    valence_column: str | None = None
    arousal_column: str | None = None
    va_scale: tuple[float, float] | None = None
    """Numbers that stand for -1 and 1 in the columns of valence and arousal, such as 1 9; -1 1 if not given."""
    votes: tuple[str, ...] = ()
    """Columns with the number of raters for each class, in the order of --classes."""
    keep: tuple[str, ...] = ()
    """Boolean columns, used in the files that have them: keep only rows where they are true."""
    drop: tuple[str, ...] = ()
    """Boolean columns, used in the files that have them: leave out rows where they are true."""

    def numbers_are_affectnets(self) -> bool:
        """Whether every file has AffectNet's column of labels, or valence and arousal beside its own."""
        return self._source(()).numbers_are_affectnets()

    def source(self) -> Source:
        """The rows to pack."""
        check_order_of_votes(self.votes, self.stated().names)
        return self._source(self.votes)

    def _source(self, votes: tuple[str, ...]) -> "ParquetSource":
        from ldlva_dist.packing.sources.readers.parquet import ParquetSource
        from ldlva_dist.packing.sources.user_columns import UserColumns
        from ldlva_dist.packing.tables.cells import check_scale

        for uri in (*self.train, *self.test):
            check_there("--train and --test", uri)
        given: dict[Part, tuple[str, ...]] = {"train": self.train, "test": self.test}
        files: dict[Part, tuple[str, ...]] = {
            part: tuple(file for uri in uris for file in _files_of_a_part(uri, part)) for part, uris in given.items()
        }
        check_scale(self.va_scale)
        columns = UserColumns(
            label=self.label_column,
            valence=self.valence_column,
            arousal=self.arousal_column,
            va_scale=self.va_scale,
        )
        return ParquetSource(
            files=files,
            columns=columns,
            image=self.image_column,
            key=self.key_column,
            votes=votes,
            keep=self.keep,
            drop=self.drop,
            extra=self.extra(),
        )


def check_order_of_votes(columns: Sequence[str], class_names: Sequence[str]) -> None:
    """Refuse columns of votes of which one bears the name of another class than that in whose place it stands.

    Raises:
        SettingError: also for more or fewer columns than classes, where there are any.
    """
    if not columns:
        return
    if len(columns) != len(class_names):
        raise SettingError(
            f"--votes must name one column for each of the {len(class_names)} classes, got {len(columns)}"
        )
    shared = len(commonprefix(columns))  # noqa: RUF071 - letters of names such as votes_happy, no paths
    places = {spelling(name): name for name in class_names}
    for column, expected in zip(columns, class_names, strict=True):
        for named in (places.get(spelling(column)), places.get(spelling(column[shared:]))):
            if named not in (None, expected):
                raise SettingError(
                    f"--votes must stand in the order of the classes, {' '.join(class_names)}: "
                    f"got {column} in the place of {expected}"
                )


def _files_of_a_part(uri: str, part: Part) -> tuple[str, ...]:
    """The parquet files of a file or folder; SettingError for a folder with files of several parts of a set."""
    from ldlva_dist.packing.sources.readers.row_groups import parquet_files

    files = parquet_files(uri, f"--{part}")
    parts = {found[1].lower() for file in files if (found := _PART.match(file.rpartition("/")[2]))}
    if len(parts) > 1:
        raise SettingError(f"--{part} must be one part, but {uri} has files of {', '.join(sorted(parts))}: name them")
    return files


@dataclass(frozen=True, kw_only=True)
class ClassFolders(Common):
    """One folder of images per class, such as SFEW's Train/Angry; a class is found by its folder's name."""

    train: str
    """Folder that holds the class folders of the training part."""
    test: str | None = None
    """Folder that holds the class folders of the test part."""
    validation: str | None = None
    """Folder that holds the class folders of the holdout; --holdout cuts it from the training part if not given."""

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist.packing.sources.readers.class_folders import ClassFoldersSource

        folders = self._folders()
        for uri in folders.values():
            check_there("--train, --validation and --test", uri)
        return ClassFoldersSource(folders=folders, seed=self.seed)

    def notes(self) -> list[str]:
        """What the folders hold besides, and class folders without an image."""
        from ldlva_dist.packing.sources.readers.class_folders import folder_notes

        return [note for uri in self._folders().values() for note in folder_notes(uri)]

    def _folders(self) -> dict[Part, str]:
        given: dict[Part, str | None] = {"train": self.train, "holdout": self.validation, "test": self.test}
        return {part: uri.rstrip("/") for part, uri in given.items() if uri is not None}


@dataclass(frozen=True, kw_only=True)
class WebDataset(Common):
    """WebDataset tars of images with .json or .cls members; rows keep the tars' order."""

    EXTRAS: ClassVar[tuple[str, ...] | None] = None
    train: tuple[str, ...]
    """Tars of the training part, folders of tars, or patterns such as shard-{000..010}.tar; .tar.gz is read too, and
    so are tars in tars."""
    test: tuple[str, ...] = ()
    """Tars of the test part, or folders of tars."""
    validation: tuple[str, ...] = ()
    """Tars of the holdout; --holdout cuts it from the training part if not given."""
    label_field: str | None = None
    """Field of the .json that holds the label; the .cls member if not given."""
    valence_field: str | None = None
    arousal_field: str | None = None
    va_scale: tuple[float, float] | None = None
    """Numbers that stand for -1 and 1 in the fields of valence and arousal, such as 1 9; -1 1 if not given."""
    image_extensions: tuple[str, ...] = EXTENSIONS
    """Extensions of the image member, all that follows the first dot of its name; each sample must have exactly one."""
    ignore: tuple[str, ...] = ()
    """Extensions such as npy whose members are passed over unread; a sample with an unsafe member is rejected else."""
    tar_in_key: bool = False
    """Begin each key with its tar's name."""
    damaged_tars: Literal["stop", "skip"] = "stop"
    """A tar that is empty, cut off, no tar or has a hole, two images under one key, or a dot in a name that hides
    samples, ends the packing by the tar's name; skip packs what can be read and says what was left out."""

    def numbers_are_affectnets(self) -> bool:
        """Whether the labels stand in AffectNet's field, or beside valence and arousal."""
        from ldlva_dist.packing.sources.user_columns import is_affectnet_layout

        return is_affectnet_layout(self.label_field, self.valence_field, self.arousal_field)

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist.packing.sources.readers.samples import Fields
        from ldlva_dist.packing.sources.readers.web_dataset import WebDatasetSource, tars_of
        from ldlva_dist.packing.tables.cells import check_scale

        if (self.valence_field is None) != (self.arousal_field is None):
            raise SettingError(
                "--valence-field and --arousal-field must both be given, or neither, "
                f"got {self.valence_field} and {self.arousal_field}"
            )
        check_scale(self.va_scale)
        given: dict[Part, tuple[str, ...]] = {"train": self.train, "holdout": self.validation, "test": self.test}
        fields = Fields(
            image=self.image_extensions,
            label=self.label_field,
            valence=self.valence_field,
            arousal=self.arousal_field,
            ignore=self.ignore,
            va_scale=self.va_scale,
            extra=self.extra(),
        )
        tars: dict[Part, tuple[str, ...]] = {part: tuple(tars_of(uris)) for part, uris in given.items() if uris}
        skip = self.damaged_tars == "skip"
        return WebDatasetSource(tars=tars, fields=fields, tar_in_key=self.tar_in_key, skip_damaged=skip)

    def notes(self) -> list[str]:
        """What is no tar in the folders."""
        from ldlva_dist.packing.sources.readers.web_dataset import tar_notes

        return tar_notes((*self.train, *self.validation, *self.test))


@dataclass(frozen=True, kw_only=True)
class Yolo(Common):
    """Detection data in YOLO format: {train,valid,test}/{images,labels} and data.yaml, which names the classes."""

    root: str
    """Folder that holds data.yaml and the parts."""
    crop: bool = True
    """Cut the boxes out; otherwise whole pictures of one box are packed."""
    box_margin: Annotated[float, Range(ge=0, le=2)] = 0.0
    """Share of a box's width and height that is added on each side."""

    def stated(self) -> StatedClasses:
        """By ``--classes``; otherwise the reference's classes, with Contempt where data.yaml names it."""
        from ldlva_dist import storage
        from ldlva_dist.packing.sources.readers.yolo import class_names_of

        stated = super().stated()
        if self.classes or "contempt" not in map(str.lower, class_names_of(storage.join(self.root, "data.yaml"))):
            return stated
        return StatedClasses((*REFERENCE_CLASSES, "Contempt"), {})

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist import storage
        from ldlva_dist.packing.sources.readers.yolo import YoloSource, class_names_of

        data = storage.join(self.root, "data.yaml")
        check_there("--root must hold data.yaml, which", data)
        names: dict[Part, tuple[str, ...]] = {"train": ("train",), "holdout": ("valid", "val"), "test": ("test",)}
        found: dict[Part, str] = {
            part: uri
            for part, folders in names.items()
            for uri in [storage.join(self.root, folder) for folder in folders]
            if storage.exists(storage.join(uri, "images"))
        }
        check_there("--root must hold train/images, which", storage.join(self.root, "train", "images"))
        return YoloSource(
            folders=found, class_names=class_names_of(data), crop=self.crop, margin=self.box_margin, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class Faces(Common):
    """Drawn faces of the seven reference classes whose true label distributions and flipped labels are known."""

    train: int = 3000
    """Faces of the training part."""
    test: int = 1000
    """Faces of the test part; their labels are never flipped."""
    pixels: int = 48
    """Side of the drawn images, at least 48."""
    flip_share: Share = 0.3
    """Share of the training labels that are replaced by another class."""

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource

        index = ClassIndex(self.stated().names, {})
        if [index.find(name) for name in REFERENCE_CLASSES] != list(range(len(index.class_names))):
            raise SettingError(f"--classes must be {', '.join(REFERENCE_CLASSES)} for drawn faces, got {self.classes}")
        return FacesSource(
            train=self.train, test=self.test, pixels=self.pixels, flip_share=self.flip_share, seed=self.seed
        )
