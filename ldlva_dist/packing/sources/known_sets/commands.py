"""Settings of the data sets whose layout and protocol are known; each protocol stands at the top of its source.

The command line reads this before anything is imported: a source is imported where it is made.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from tyro.conf import Suppress

from ldlva_dist.packing.sources.common import Common, KnownClasses, check_there
from ldlva_dist.packing.sources.rows import Part, Source
from ldlva_dist.values.settings import Range, Share

if TYPE_CHECKING:
    from ldlva_dist.packing.sources.votes import VotesTable


@dataclass(frozen=True, kw_only=True)
class RafDb(Common):
    """RAF-DB, the basic subset: EmoLabel and Image/aligned, or the copy DATASET/{train,test}/{1..7}."""

    root: str
    """Folder that holds EmoLabel and Image, or DATASET."""
    labels: str | None = None
    """The list, where it stands elsewhere."""
    images: str | None = None
    """Folder of the images, where it is another one."""
    suffix: str = "_aligned"
    """Text before the extension in the names of the files that the list does not have; '' for the original images."""
    votes: str | None = None
    """distribution_basic.txt; EmoLabel/distribution_basic.txt if not given, where it is there."""

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist import storage
        from ldlva_dist.packing.sources.known_sets.raf_db import RafDbCopySource, RafDbSource

        copy = storage.join(self.root, "DATASET")
        if self.labels is None and self.images is None and storage.exists(copy):
            parts: tuple[Part, ...] = ("train", "test")
            lists: dict[Part, str] = {part: storage.join(self.root, f"{part}_labels.csv") for part in parts}
            folders: dict[Part, str] = {part: storage.join(copy, part) for part in parts}
            for uri in folders.values():
                check_there("--root", uri)
            there: dict[Part, str] = {part: uri for part, uri in lists.items() if storage.exists(uri)}
            return RafDbCopySource(
                folders=folders, lists=there, suffix=self.suffix, votes=self._votes(), seed=self.seed
            )
        labels = self.labels or storage.join(self.root, "EmoLabel", "list_patition_label.txt")
        images = self.images or storage.join(self.root, "Image", "aligned")
        check_there("--root or --labels", labels)
        check_there("--root or --images", images)
        return RafDbSource(labels=labels, images=images, suffix=self.suffix, votes=self._votes(), seed=self.seed)

    def _votes(self) -> "VotesTable | None":
        from ldlva_dist import storage
        from ldlva_dist.packing.classes.known_layouts import RAF_DB_CHOICES
        from ldlva_dist.packing.sources.votes import VotesTable

        uri = self.votes or storage.join(self.root, "EmoLabel", "distribution_basic.txt")
        if self.votes is None and not storage.exists(uri):
            return None
        check_there("--votes", uri)
        names = self.stated().names
        return VotesTable(uri=uri, name="name", choices=RAF_DB_CHOICES, class_names=names, has_header=False)


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


@dataclass(frozen=True, kw_only=True)
class PixelTable(KnownClasses):
    """A table of pixels: columns emotion, pixels, Usage."""

    KIND: ClassVar[str]
    EXTRAS: ClassVar[tuple[str, ...] | None] = None
    table: str
    """The CSV."""
    public_test: bool = True
    """Pack PublicTest as the holdout; otherwise it is left out, and --holdout is cut from Training."""

    def source(self) -> Source:
        """The rows to pack."""
        return self._source(None)

    def _source(self, votes: "VotesTable | None") -> Source:
        from ldlva_dist.packing.classes.known_layouts import PIXEL_ORDERS
        from ldlva_dist.packing.sources.readers.pixels import PixelsSource

        check_there("--table", self.table)
        order = PIXEL_ORDERS[self.KIND]
        usages: dict[Part, tuple[str, ...]] = {"train": ("Training",), "test": ("PrivateTest",)}
        usages["holdout"] = ("PublicTest",)
        return PixelsSource(
            table=self.table,
            usages={part: usages[part] for part in ("train", "holdout", "test")},
            packed=("train", "holdout", "test") if self.public_test else ("train", "test"),
            order=order,
            left_out=order[self.num_classes :],
            extra=self.extra(),
            votes=votes,
            kind=self.KIND,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Fer2013(PixelTable):
    """FER2013 as its CSV of pixels: emotion,pixels,Usage."""

    KIND: ClassVar[str] = "fer2013"
    num_classes: Suppress[Literal[7, 8]] = 7
    votes: str | None = None
    """fer2013new.csv of FER+: votes are kept, joined by the name that its authors' script gives each row; the labels
    stay those of FER2013."""

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist.packing.classes.known_layouts import FER_PLUS_CHOICES
        from ldlva_dist.packing.sources.votes import VotesTable

        if self.votes is None:
            return self._source(None)
        check_there("--votes", self.votes)
        votes = VotesTable(uri=self.votes, name="Image name", choices=FER_PLUS_CHOICES, class_names=self.classes)
        return self._source(votes)


@dataclass(frozen=True, kw_only=True)
class CkExtended(PixelTable):
    """CK+ as ckextended.csv: emotion,pixels,Usage, where 7 is contempt."""

    KIND: ClassVar[str] = "ckextended"
    num_classes: Literal[7, 8] = 8
    """8 with Contempt, or 7; rows of a class that is not among them are left out."""


@dataclass(frozen=True, kw_only=True)
class ExpW(Common):
    """ExpW: image/origin and label/label.lst, a line for each face with its box; the faces are cut out."""

    EXTRAS: ClassVar[tuple[str, ...] | None] = ("face_id_in_image", "confidence")
    root: str
    """Folder that holds image/origin and label/label.lst."""
    labels: str | None = None
    """The list, where it stands elsewhere."""
    images: str | None = None
    """Folder of the images, where it is another one."""
    max_rejected: Share = 0.05
    """Share of the faces that may be rejected; the list has some rows twice."""
    min_confidence: float = 0.0
    """Faces of a smaller confidence are left out; it goes up to 100 and beyond."""
    box_margin: Annotated[float, Range(ge=0, le=2)] = 0.0
    """Share of a box's width and height that is added on each side."""

    def numbers(self) -> dict[int, str]:
        """The set's own order."""
        from ldlva_dist.packing.classes.known_sets import FER2013

        return dict(enumerate(FER2013))

    def source(self) -> Source:
        """The rows to pack."""
        from ldlva_dist import storage
        from ldlva_dist.packing.classes.known_layouts import EXPW_COLUMNS
        from ldlva_dist.packing.sources.readers.boxes import Boxes
        from ldlva_dist.packing.sources.readers.folder import FolderSource
        from ldlva_dist.packing.sources.user_columns import UserColumns

        labels = self.labels or storage.join(self.root, "label", "label.lst")
        images = self.images or storage.join(self.root, "image", "origin")
        check_there("--root or --labels", labels)
        check_there("--root or --images", images)
        edges = ("top", "left", "right", "bottom")
        return FolderSource(
            tables={"train": (labels,)},
            images={"train": images},
            columns=UserColumns(path="image_name", label="expression"),
            delimiter=" ",
            names=EXPW_COLUMNS,
            boxes=Boxes(columns=tuple(zip(edges, edges, strict=True)), margin=self.box_margin),
            at_least=(("confidence", self.min_confidence),) if self.min_confidence else (),
            extra=self.extra(),
            kind="expw",
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class NamedFaces(Common):
    """Faces whose file names say who shows what."""

    KIND: ClassVar[str]
    EXTRAS: ClassVar[tuple[str, ...] | None] = ("person",)
    images: str
    """Folder of the images; those of folders below are packed too."""
    holdout_by: str | None = "person"

    def source(self) -> Source:
        """The rows to pack."""
        return self._source(())

    def notes(self) -> list[str]:
        """What is passed over in the folder."""
        from ldlva_dist.packing.sources.listing import list_images

        return [f"{line} in {self.images}" for line in list_images(self.images).passed_over()]

    def _source(self, angles: tuple[str, ...]) -> Source:
        from ldlva_dist.packing.classes.known_layouts import NAMED_FILES
        from ldlva_dist.packing.sources.readers.file_names import FileNamesSource

        check_there("--images", self.images)
        layout = next(layout for layout in NAMED_FILES if layout.kind == self.KIND)
        return FileNamesSource(images=self.images, layout=layout, angles=angles, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Kdef(NamedFaces):
    """KDEF by its file names: AF01/AF01AFS.JPG is session A, person F01, afraid, seen straight."""

    KIND: ClassVar[str] = "kdef"
    EXTRAS: ClassVar[tuple[str, ...] | None] = ("person", "session", "angle")
    angles: tuple[Literal["FL", "HL", "S", "HR", "FR"], ...] = ("FL", "HL", "S", "HR", "FR")
    """Views that are packed: full and half left, straight, half and full right."""

    def source(self) -> Source:
        """The rows to pack."""
        return self._source(self.angles)


@dataclass(frozen=True, kw_only=True)
class Jaffe(NamedFaces):
    """JAFFE by its file names: KA.AN1.39.tiff is person KA, angry."""

    KIND: ClassVar[str] = "jaffe"
