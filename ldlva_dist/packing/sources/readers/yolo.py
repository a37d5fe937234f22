"""Detection data in YOLO format: ``{train,valid,test}/{images,labels}`` and ``data.yaml``. n = rows of a block.

A line of ``labels/NAME.txt`` is ``class cx cy w h``, the box in shares of the picture; ``names`` in ``data.yaml`` says
what the classes mean. A picture has a row for every line of its file.
"""

import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from ldlva_dist import storage
from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError
from ldlva_dist.packing.classes.class_index import whole_number
from ldlva_dist.packing.sources.listing import list_images
from ldlva_dist.packing.sources.readers.boxes import Box, cut_face
from ldlva_dist.packing.sources.readers.tables import cut_images, order_of, spans
from ldlva_dist.packing.sources.rows import BLOCK_ROWS, Part, Partition, Rows
from ldlva_dist.packing.tables.cells import number_of
from ldlva_dist.storage.csv_file import read_text

READERS = 16
NO_LABELS, NO_LINE = "its file of labels is missing", "its file of labels has no line"
BAD_LINE = "its line is not: class cx cy w h"
SEVERAL = "its picture has several boxes (--crop cuts them out)"


@dataclass(frozen=True, kw_only=True)
class _Face:
    """A line of a picture's file, or why there is none."""

    path: str
    number: int
    """The picture's place in the listing."""
    line: int = 0
    label: str | None = None
    box: Box = (0.0, 0.0, 0.0, 0.0)
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class YoloSource:
    """Pictures with files of labels, in an order shuffled by ``seed``. No valence-arousal."""

    folders: dict[Part, str]
    """Of each part: holds ``images`` and ``labels``."""
    class_names: tuple[str, ...]
    """Meaning of 0, 1, ..., by ``data.yaml``."""
    crop: bool = True
    """Cut the boxes out; otherwise the whole picture is packed, where it has one box."""
    margin: float = 0.0
    """Share of a box's width and height that is added on each side."""
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind and folders."""
        folders = {part: posixpath.basename(uri) for part, uri in self.folders.items()}
        return {"kind": "yolo", **folders, "crop": self.crop, "margin": self.margin}

    def partitions(self) -> list[Partition]:
        """Stretches of each part's shuffled order of pictures."""
        return cut_images(self.folders)

    def read(self, partition: Partition) -> Iterator[Rows]:
        """The faces of one stretch of pictures."""
        files = list_images(storage.join(partition.place, "images")).paths
        order = order_of(len(files), self.seed)
        with ThreadPoolExecutor(READERS) as pool:
            for span in spans(partition):
                numbers = order[span.start : span.stop]
                pictures = zip(files.take(numbers).to_pylist(), numbers.tolist(), strict=True)
                found = pool.map(lambda picture: self._faces(partition.place, *picture), pictures)
                faces = [face for of_one in found for face in of_one]
                for at in range(0, len(faces), BLOCK_ROWS):
                    yield self._rows(partition, faces[at : at + BLOCK_ROWS], pool)

    def _faces(self, folder: str, path: str, number: int) -> list[_Face]:
        uri = storage.join(folder, "labels", f"{path.rpartition('.')[0]}.txt")
        try:
            lines = [line.split() for line in read_text(uri).splitlines() if line.strip()]
        except DataError:
            return [_Face(path=path, number=number, reason=NO_LABELS if not storage.exists(uri) else BAD_LINE)]
        if not lines:
            return [_Face(path=path, number=number, reason=NO_LINE)]
        if len(lines) > 1 and not self.crop:
            return [_Face(path=path, number=number, reason=SEVERAL)]
        return [self._face(path, number, at, cells) for at, cells in enumerate(lines)]

    def _face(self, path: str, number: int, line: int, cells: Sequence[str]) -> _Face:
        code = whole_number(cells[0])
        center_x, center_y, width, height = (
            [number_of(cell) for cell in cells[1:5]] if len(cells) == 5 else [np.inf] * 4
        )
        if code is None or not np.isfinite([center_x, center_y, width, height]).all():
            return _Face(path=path, number=number, line=line, reason=BAD_LINE)
        known = 0 <= code < len(self.class_names)
        return _Face(
            path=path,
            number=number,
            line=line,
            label=self.class_names[code] if known else f"class {code} of data.yaml",
            box=(center_x - width / 2, center_y - height / 2, width, height),
        )

    def _rows(self, partition: Partition, faces: Sequence[_Face], pool: ThreadPoolExecutor) -> Rows:
        prefix = f"{posixpath.basename(partition.place)}/" if len(self.folders) > 1 else ""
        names = [f"{face.path}@{face.line}" if face.line else face.path for face in faces]
        images: list[bytes | str | None] = [storage.join(partition.place, "images", face.path) for face in faces]
        reasons = [face.reason for face in faces]
        if self.crop:
            cuts = list(pool.map(self._cut_out, images, faces))
            images, reasons = [image for image, _ in cuts], [reason for _, reason in cuts]
        return Rows(
            part=partition.part,
            numbers=np.array([face.number for face in faces], dtype=np.int64),
            keys=[sanitise_key(prefix + name) for name in names],
            names=names,
            images=images,
            labels=[face.label for face in faces],
            va=np.full((len(faces), 2), np.nan, dtype=np.float32),
            reasons=reasons,
            are_made=self.crop,
        )

    def _cut_out(self, image: bytes | str | None, face: _Face) -> tuple[bytes | str | None, str | None]:
        if face.reason is not None:
            return image, face.reason
        return cut_face(image, face.box, "fraction", self.margin)


def class_names_of(uri: str) -> tuple[str, ...]:
    """``names`` of a ``data.yaml``, a list or numbers with names; a DataError for anything else."""
    try:
        said = yaml.safe_load(read_text(uri))
        names = said["names"]
        if isinstance(names, dict):
            names = [names[number] for number in range(len(names))]
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"names is {names!r}")
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{uri} does not say the names of its classes: {str(error).splitlines()[0]}") from error
    return tuple(names)
