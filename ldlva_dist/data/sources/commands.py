"""What each kind of source is told on the command line: ``python jobs/make_shards.py KIND --SETTING VALUE ...``."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import subcommand

from ldlva_dist.data import storage
from ldlva_dist.data.faces import FacesSource
from ldlva_dist.data.rows import REFERENCE_CLASSES, Part, Source
from ldlva_dist.data.sources.folder import FolderSource
from ldlva_dist.data.sources.parquet import ParquetSource
from ldlva_dist.data.user_columns import Columns
from ldlva_dist.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every kind of source is packed with."""

    output: str
    """Folder or s3:// prefix to write; must not exist."""
    name: str | None = None
    """Name of the data set; the last part of --output if not given."""
    classes: tuple[str, ...] = REFERENCE_CLASSES
    """Class names in index order. Labels may be these names, other spellings of them (angry, sadness), or indices."""
    max_rejected: float = 0.01
    """Share of the labelled rows that may be rejected."""
    holdout: float = 0.1
    """Share of the training rows cut off for model selection, by a hash of the key."""
    size: int | None = None
    """Resize images to this many pixels square; as they are if not given."""
    standardize_va: bool = False
    """Measure distances on valence-arousal of mean 0 and standard deviation 1 over the training rows."""
    shuffle_va: int | None = None
    """Control experiment: permute valence-arousal among the training rows by this seed."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise SettingError(f"--holdout must be in [0, 1), got {self.holdout}")
        if not 0 <= self.max_rejected <= 1:
            raise SettingError(f"--max-rejected must be in [0, 1], got {self.max_rejected}")
        if self.size is not None and self.size < 16:
            raise SettingError(f"--size must be >= 16 pixels, got {self.size}")
        if self.seed < 0 or (self.shuffle_va or 0) < 0:
            raise SettingError(f"--seed and --shuffle-va must be >= 0, got {self.seed} and {self.shuffle_va}")


@dataclass(frozen=True, kw_only=True)
class Folder(Common):
    """A folder of images and a CSV that names them; the reference's layout is recognised by its header."""

    table: str
    """CSV of the training rows."""
    images: str
    """Folder that the paths in the CSV start from."""
    test_table: str | None = None
    """CSV of the test rows."""
    test_images: str | None = None
    """Folder of the test images; --images if not given."""
    path_column: str | None = None
    label_column: str | None = None
    valence_column: str | None = None
    arousal_column: str | None = None

    def source(self) -> Source:
        """The rows to pack."""
        tables: dict[Part, str] = {"train": self.table}
        images: dict[Part, str] = {"train": self.images}
        if self.test_table is not None:
            tables["test"], images["test"] = self.test_table, self.test_images or self.images
        for uri in (*tables.values(), *images.values()):
            check_there("--table and --images", uri)
        columns = Columns(
            path=self.path_column, label=self.label_column, valence=self.valence_column, arousal=self.arousal_column
        )
        return FolderSource(tables=tables, images=images, columns=columns, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Parquet(Common):
    """Parquet files with encoded images in a column; rows keep the files' order."""

    train: tuple[str, ...]
    """Files of the training rows."""
    test: tuple[str, ...] = ()
    """Files of the test rows."""
    image_column: str | None = None
    """Column of image bytes; found by its type if not given."""
    key_column: str | None = None
    """Column of unique names; rows are numbered if not given."""
    label_column: str | None = None
    valence_column: str | None = None
    arousal_column: str | None = None
    votes: tuple[str, ...] = ()
    """Columns with the number of raters for each class, in the order of --classes."""
    keep: tuple[str, ...] = ()
    """Boolean columns, used in the files that have them: keep only rows where they are true."""
    drop: tuple[str, ...] = ()
    """Boolean columns, used in the files that have them: leave out rows where they are true."""

    def source(self) -> Source:
        """The rows to pack."""
        if self.votes and len(self.votes) != len(self.classes):
            raise SettingError(
                f"--votes must name one column for each of the {len(self.classes)} classes, got {len(self.votes)}"
            )
        files: dict[Part, tuple[str, ...]] = {"train": self.train, "test": self.test}
        for uri in (*self.train, *self.test):
            check_there("--train and --test", uri)
        columns = Columns(label=self.label_column, valence=self.valence_column, arousal=self.arousal_column)
        return ParquetSource(
            files=files,
            columns=columns,
            image=self.image_column,
            key=self.key_column,
            votes=self.votes,
            keep=self.keep,
            drop=self.drop,
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
    flip_share: float = 0.3
    """Share of the training labels that are replaced by another class."""

    def source(self) -> Source:
        """The rows to pack."""
        if len(self.classes) != len(REFERENCE_CLASSES):
            raise SettingError(f"--classes must be {len(REFERENCE_CLASSES)} names for drawn faces, got {self.classes}")
        return FacesSource(
            train=self.train, test=self.test, pixels=self.pixels, flip_share=self.flip_share, seed=self.seed
        )


Command = (
    Annotated[Folder, subcommand("folder")]
    | Annotated[Parquet, subcommand("parquet")]
    | Annotated[Faces, subcommand("faces")]
)


def check_there(setting: str, uri: str) -> None:
    """SettingError unless a file or folder is there."""
    if not storage.exists(uri):
        raise SettingError(f"{setting} must name what exists, got {uri!r}")
