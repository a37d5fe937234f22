"""Pictures whose file names say who shows what: KDEF, JAFFE. n = rows of a block.

What the pattern finds besides the class rides along: the person, by whom the holdout is cut.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldlva_dist import storage
from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.packing.classes.known_layouts import NamedFiles
from ldlva_dist.packing.sources.listing import list_images
from ldlva_dist.packing.sources.readers.tables import cut, order_of, refuse_empty, spans
from ldlva_dist.packing.sources.rows import LEFT_OUT, Partition, Rows

NO_PATTERN = "the file is not named as the set names its files"


@dataclass(frozen=True, kw_only=True)
class FileNamesSource:
    """The pictures of a folder and of those below, in an order shuffled by ``seed``. No valence-arousal."""

    images: str
    layout: NamedFiles
    angles: tuple[str, ...] = ()
    """Codes of the views that are packed, where the names have such; none stands for all."""
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind, and which views."""
        return {
            "kind": self.layout.kind,
            "folder": posixpath.basename(self.images.rstrip("/")),
            "angles": list(self.angles),
        }

    def partitions(self) -> list[Partition]:
        """Stretches of the shuffled order."""
        listing = list_images(self.images)
        refuse_empty("train", len(listing.paths), self.images, listing.passed_over())
        return list(cut("train", len(listing.paths), self.images))

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with the uris of their images."""
        files = list_images(self.images).paths
        order = order_of(len(files), self.seed)
        for span in spans(partition):
            numbers = order[span.start : span.stop]
            paths = files.take(numbers).to_pylist()
            facts = [self.layout.facts(path.rpartition("/")[2]) for path in paths]
            yield Rows(
                part="train",
                numbers=numbers,
                keys=[sanitise_key(path) for path in paths],
                names=paths,
                images=[storage.join(self.images, path) for path in paths],
                labels=[fact.get("class") for fact in facts],
                va=np.full((len(paths), 2), np.nan, dtype=np.float32),
                reasons=[self._reason(fact) for fact in facts],
                extra={name: [fact.get(name) for fact in facts] for name in self.layout.extras},
            )

    def _reason(self, fact: dict[str, str]) -> str | None:
        if not fact:
            return NO_PATTERN
        return f"{LEFT_OUT}angle {fact['angle']}" if self.angles and fact["angle"] not in self.angles else None
