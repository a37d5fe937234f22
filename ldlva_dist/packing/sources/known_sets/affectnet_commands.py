"""Settings of AffectNet in its three layouts; the protocol stands at the top of `affectnet.py`.

The command line reads this before anything is imported: a source is imported where it is made.
"""

from dataclasses import dataclass
from typing import ClassVar

from ldlva_dist.packing.sources.common import KnownClasses, check_there
from ldlva_dist.packing.sources.rows import Part, Source


@dataclass(frozen=True, kw_only=True)
class AffectNet(KnownClasses):
    """AffectNet by its manual lists: training.csv, validation.csv and Manually_Annotated_Images."""

    EXTRAS: ClassVar[tuple[str, ...] | None] = None
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
            tables=tables,
            images=self.images,
            num_classes=self.num_classes,
            crop=self.crop,
            extra=self.extra(),
            seed=self.seed,
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
class AffectNetPlus(KnownClasses):
    """AffectNet+: human_annotated/train_set and validation_set, each with images/N.jpg and annotations/N.json."""

    EXTRAS: ClassVar[tuple[str, ...] | None] = ("age", "gender", "race", "pose", "subset")
    root: str
    """AffectNet+, or its folder human_annotated."""

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist import storage
        from ldlva_dist.packing.sources.known_sets.affectnet_plus import AffectNetPlusSource

        nested = storage.join(self.root, "human_annotated")
        root = nested if storage.exists(nested) else self.root
        folders: dict[Part, str] = {
            "train": storage.join(root, "train_set"),
            "test": storage.join(root, "validation_set"),
        }
        for uri in folders.values():
            check_there("--root must hold train_set and validation_set, which", uri)
        extra = tuple(name for name in self.extra() if name != "subset")
        return AffectNetPlusSource(folders=folders, num_classes=self.num_classes, extra=extra, seed=self.seed)

    def notes(self) -> list[str]:
        """What lies among the images and is none."""
        from ldlva_dist import storage
        from ldlva_dist.packing.sources.known_sets.affectnet_plus import AffectNetPlusSource
        from ldlva_dist.packing.sources.listing import list_images

        source = self.source()
        assert isinstance(source, AffectNetPlusSource), "made above"
        folders = [storage.join(uri, "images") for uri in source.folders.values()]
        return [f"{line} in {uri}" for uri in folders for line in list_images(uri).passed_over()]
