"""One folder per class: ``Train/Angry/x.png``. n = rows of a block.

SFEW 2.0 comes so: folders Train, Val and Test, in them Angry, Disgust, Fear, Happy, Neutral, Sad, Surprise. Its test
labels are not public, so results are reported on Val: ``--train Train --test Val``. A class is found by the name of its
folder, in any spelling that classes/class_index.py knows, so the folders' order says nothing; files deeper inside
belong to the class too.
"""

import posixpath
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ldlva_dist import storage
from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.packing.sources.listing import list_images
from ldlva_dist.packing.sources.readers.tables import cut, order_of, refuse_empty, spans
from ldlva_dist.packing.sources.rows import Part, Partition, Rows

NO_CLASS = "the image stands in no class folder"


def folder_notes(uri: str) -> list[str]:
    """What is passed over in a folder of class folders, and which of these hold no image."""
    listing = list_images(uri)
    notes = [f"{line} in {uri}" for line in listing.passed_over()]
    empty = [name for name in sorted(listing.folders) if not _has_image(listing.paths, f"{name}/")]
    return [*notes, f"class folders without an image in {uri}: {', '.join(map(repr, empty))}"] if empty else notes


def _has_image(paths: pa.StringArray, folder: str) -> bool:
    place = bisect_left(paths, folder, key=str)
    return place < len(paths) and str(paths[place]).startswith(folder)


@dataclass(frozen=True, kw_only=True)
class ClassFoldersSource:
    """Images in folders named by their class, in an order shuffled by ``seed``. No valence-arousal."""

    folders: dict[Part, str]
    """The folder that holds the class folders of each part."""
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind and folder names."""
        return {"kind": "class-folders", **{part: posixpath.basename(uri) for part, uri in self.folders.items()}}

    def partitions(self) -> list[Partition]:
        """Stretches of each part's shuffled order."""
        found: list[Partition] = []
        for part, uri in self.folders.items():
            listing = list_images(uri)
            refuse_empty(part, len(listing.paths), uri, listing.passed_over())
            found += cut(part, len(listing.paths), uri)
        return found

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with the uris of their images."""
        root, files = partition.place, list_images(partition.place).paths
        order = order_of(len(files), self.seed)
        prefix = posixpath.basename(root) + "/" if len(self.folders) > 1 else ""
        for span in spans(partition):
            numbers = order[span.start : span.stop]
            paths = files.take(numbers).to_pylist()
            parts = [path.partition("/") for path in paths]
            yield Rows(
                part=partition.part,
                numbers=numbers,
                keys=[sanitise_key(prefix + path) for path in paths],
                names=paths,
                images=[storage.join(root, path) for path in paths],
                labels=[folder if slash else None for folder, slash, _ in parts],
                va=np.full((len(paths), 2), np.nan, dtype=np.float32),
                reasons=[None if slash else NO_CLASS for _, slash, _ in parts],
            )
