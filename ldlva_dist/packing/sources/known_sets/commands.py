"""Settings of the data sets whose layout and protocol are known; each protocol stands at the top of its source.

The command line reads this before anything is imported: a source is imported where it is made.
"""

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Suppress

from ldlva_dist.packing.sources.common import Common, check_there
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES, Part, Source


@dataclass(frozen=True, kw_only=True)
class KnownClasses(Common):
    """A data set whose classes are the reference's, with Contempt or without."""

    classes: Suppress[tuple[str, ...]] = REFERENCE_CLASSES
    num_classes: Literal[7, 8] = 7
    """7 as in the reference, or 8 with Contempt; rows of a class that is not among them are left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "classes", (*REFERENCE_CLASSES, "Contempt")[: self.num_classes])


@dataclass(frozen=True, kw_only=True)
class AffectNet(KnownClasses):
    """AffectNet by its manual lists: training.csv, validation.csv and Manually_Annotated_Images."""

    train: str
    """training.csv."""
    test: str | None = None
    """validation.csv, the usual test part."""
    images: str
    """Folder that the paths in the lists start from."""
    crop: bool = False
    """Cut out the face by its box in the list (and encode it again); images are packed as they are otherwise. The box
    is one of the upright picture: where photographs have an orientation tag, look at what was cut out."""

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist.packing.sources.known_sets.affectnet import AffectNetSource

        tables: dict[Part, str] = {"train": self.train}
        if self.test is not None:
            tables["test"] = self.test
        for uri in (*tables.values(), self.images):
            check_there("--train, --test and --images", uri)
        return AffectNetSource(
            tables=tables, images=self.images, num_classes=self.num_classes, crop=self.crop, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class AffectNetFolders(KnownClasses):
    """AffectNet in its later layout: train_set and val_set, each with images/N.jpg and annotations/N_exp.npy ..."""

    root: str
    """Folder that holds train_set and val_set."""

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist import storage
        from ldlva_dist.packing.sources.known_sets.affectnet_folders import AffectNetFoldersSource

        folders: dict[Part, str] = {
            "train": storage.join(self.root, "train_set"),
            "test": storage.join(self.root, "val_set"),
        }
        for uri in folders.values():
            check_there("--root must hold train_set and val_set, which", uri)
        return AffectNetFoldersSource(folders=folders, num_classes=self.num_classes, seed=self.seed)

    def notes(self) -> list[str]:
        """What lies among the images and is none."""
        from ldlva_dist import storage
        from ldlva_dist.packing.sources.listing import list_images

        folders = [storage.join(self.root, name, "images") for name in ("train_set", "val_set")]
        return [f"{line} in {uri}" for uri in folders for line in list_images(uri).passed_over()]


@dataclass(frozen=True, kw_only=True)
class RafDb(Common):
    """RAF-DB, the basic subset: EmoLabel/list_patition_label.txt and Image/aligned."""

    root: str
    """Folder that holds EmoLabel and Image."""
    labels: str | None = None
    """The list, where it stands elsewhere."""
    images: str | None = None
    """Folder of the images, where it is another one."""
    suffix: str = "_aligned"
    """Text before the extension in the names of the files that the list does not have; '' for the original images."""

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist import storage
        from ldlva_dist.packing.sources.known_sets.raf_db import RafDbSource

        labels = self.labels or storage.join(self.root, "EmoLabel", "list_patition_label.txt")
        images = self.images or storage.join(self.root, "Image", "aligned")
        check_there("--root or --labels", labels)
        check_there("--root or --images", images)
        return RafDbSource(labels=labels, images=images, suffix=self.suffix, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class FerPlus(KnownClasses):
    """FER+: fer2013new.csv and the PNG files that its authors' script writes; labels by majority, votes are kept."""

    table: str
    """fer2013new.csv."""
    images: str
    """Folder that holds FER2013Train, FER2013Valid and FER2013Test, or all the PNG files."""
    num_classes: Literal[7, 8] = 8
    """8, or 7 without Contempt; rows of a class that is not among them are left out."""
    public_test: bool = True
    """Pack PublicTest as the holdout; it is left out otherwise, and --holdout is cut from Training."""

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist import storage
        from ldlva_dist.packing.sources.known_sets import fer_plus

        check_there("--table", self.table)
        check_there("--images", self.images)
        parts: tuple[Part, ...] = ("train", "holdout", "test") if self.public_test else ("train", "test")
        nested: dict[Part, str] = {part: storage.join(self.images, fer_plus.FOLDERS[part]) for part in parts}
        images: dict[Part, str] = {part: uri if storage.exists(uri) else self.images for part, uri in nested.items()}
        return fer_plus.FerPlusSource(table=self.table, images=images, num_classes=self.num_classes, seed=self.seed)
