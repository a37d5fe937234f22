"""Settings of a folder of images with tables that name them.

The command line reads this before anything is imported: a source is imported where it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ldlva_dist.errors import SettingError
from ldlva_dist.packing.sources.common import Common, check_there
from ldlva_dist.packing.sources.rows import Part
from ldlva_dist.values.settings import Range

if TYPE_CHECKING:
    from ldlva_dist.packing.sources.readers.folder import FolderSource


@dataclass(frozen=True, kw_only=True)
class Folder(Common):
    """A folder of images and a CSV that names them; the reference's layout is recognised by its header."""

    EXTRAS: ClassVar[tuple[str, ...] | None] = None
    table: tuple[str, ...]
    """CSVs of the training rows, with commas, semicolons or tabs."""
    images: str
    """Folder that the paths in the CSVs start from."""
    test_table: tuple[str, ...] = ()
    """CSVs of the test rows."""
    test_images: str | None = None
    """Folder of the test images; --images if not given."""
    validation_table: tuple[str, ...] = ()
    """CSVs of the holdout; --holdout cuts it from the training rows if not given."""
    path_column: str | None = None
    label_column: str | None = None
    valence_column: str | None = None
    arousal_column: str | None = None
    va_scale: tuple[float, float] | None = None
    """Numbers that stand for -1 and 1 in the columns of valence and arousal, such as 1 9; -1 1 if not given."""
    delimiter: str | None = None
    """Character between the cells of the CSVs; taken from their headers if not given."""
    box_columns: tuple[str, ...] = ()
    """Columns of a face's box, two edges of each axis: left=x top=y width=w height=h; right, bottom, center-x and
    center-y are edges too. The face is cut out."""
    box_unit: Literal["pixels", "fraction"] = "pixels"
    """Numbers of a box count pixels, or are shares of the picture's width and height."""
    box_margin: Annotated[float, Range(ge=0, le=2)] = 0.0
    """Share of a box's width and height that is added on each side."""
    at_least: tuple[str, ...] = ()
    """COLUMN=NUMBER: rows with a smaller number, or none, are left out, such as relFCs=0.7."""
    label_by: Literal["column", "folder"] | None = None
    """Where both the column and the first folder of the path name a class, the one that is right."""

    def notes(self) -> list[str]:
        """What was taken from the headers, and how often folder and label differ."""
        from ldlva_dist.packing.sources.readers.folder import label_by_notes
        from ldlva_dist.storage.csv_file import delimiter_remark

        source = self.source()
        uris = [uri for uris in source.tables.values() for uri in uris]
        remarks = (delimiter_remark(uri, source.delimiter) for uri in uris)
        return [*filter(None, remarks), *label_by_notes(source)]

    def numbers_are_affectnets(self) -> bool:
        """Whether every table has AffectNet's column of labels, or valence and arousal beside its own."""
        return self.source().numbers_are_affectnets()

    def source(self) -> "FolderSource":
        """The rows to pack."""
        from ldlva_dist.packing.sources.readers.boxes import stated_boxes
        from ldlva_dist.packing.sources.readers.folder import FolderSource
        from ldlva_dist.packing.sources.user_columns import UserColumns
        from ldlva_dist.packing.tables.cells import check_scale
        from ldlva_dist.storage.csv_file import delimiter_option

        given: dict[Part, tuple[str, ...]] = {
            "train": self.table,
            "holdout": self.validation_table,
            "test": self.test_table,
        }
        tables: dict[Part, tuple[str, ...]] = {part: uris for part, uris in given.items() if uris}
        images: dict[Part, str] = dict.fromkeys(tables, self.images)
        if self.test_images is not None and "test" in images:
            images["test"] = self.test_images
        for uri in (*(uri for uris in tables.values() for uri in uris), *images.values()):
            check_there("--table and --images", uri)
        check_scale(self.va_scale)
        columns = UserColumns(
            path=self.path_column,
            label=self.label_column,
            valence=self.valence_column,
            arousal=self.arousal_column,
            va_scale=self.va_scale,
        )
        return FolderSource(
            tables=tables,
            images=images,
            columns=columns,
            delimiter=delimiter_option(self.delimiter),
            boxes=stated_boxes(self.box_columns, self.box_unit, self.box_margin),
            at_least=_thresholds(self.at_least),
            label_by=self.label_by,
            extra=self.extra(),
            seed=self.seed,
        )


def _thresholds(words: Sequence[str]) -> tuple[tuple[str, float], ...]:
    pairs = [word.rpartition("=") for word in words]
    try:
        return tuple((column, float(number)) for column, _, number in pairs)
    except ValueError as error:
        raise SettingError(f"--at-least must say COLUMN=NUMBER, got {' '.join(words)!r}") from error
