"""AffectNet in its later layout, a few small files an image. n = rows of a block.

``train_set`` and ``val_set`` each hold ``images/N.jpg`` (faces of 224 x 224) and ``annotations/N_exp.npy``,
``N_val.npy``, ``N_aro.npy``: one text or number each. ``N_lnd.npy`` (landmarks) is not read. Expressions, order of the
classes and the protocol are those of ``affectnet.py``: ``val_set`` is the test part. An annotation is parsed as one
plain value of the npy format; nothing in it is ever unpickled.
"""

import io
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ldlva_dist import storage
from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError
from ldlva_dist.packing.sources.known_sets.affectnet import settle
from ldlva_dist.packing.sources.listing import list_images
from ldlva_dist.packing.sources.readers.tables import cut, order_of, refuse_empty, spans
from ldlva_dist.packing.sources.rows import Part, Partition, Rows
from ldlva_dist.packing.tables.cells import float32, scaled_va

READERS = 16
KINDS = ("exp", "val", "aro")
NO_ANNOTATION = "an annotation is missing"
BAD_ANNOTATION = "an annotation is no plain npy value"


@dataclass(frozen=True, kw_only=True)
class AffectNetFoldersSource:
    """Folders of images and annotations, in an order shuffled by ``seed``."""

    folders: dict[Part, str]
    """``train_set`` and ``val_set``."""
    num_classes: int = 7
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind and protocol."""
        return {"kind": "affectnet-folders", "protocol": f"{self.num_classes} classes, tested on val_set"}

    def partitions(self) -> list[Partition]:
        """Stretches of each part's shuffled order."""
        found: list[Partition] = []
        for part, uri in self.folders.items():
            listing = list_images(_images(uri))
            refuse_empty(part, len(listing.paths), uri, listing.passed_over())
            found += cut(part, len(listing.paths), uri)
        return found

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with the uris of their images and what their annotations say."""
        files = list_images(_images(partition.place)).paths
        order = order_of(len(files), self.seed)
        with ThreadPoolExecutor(READERS) as pool:
            for span in spans(partition):
                numbers = order[span.start : span.stop]
                names = files.take(numbers).to_pylist()
                stems = [storage.join(partition.place, "annotations", name.rpartition(".")[0]) for name in names]
                facts = list(pool.map(_facts, stems))
                labels, reasons = settle([expression for expression, _, _ in facts], self.num_classes)
                yield Rows(
                    part=partition.part,
                    numbers=numbers,
                    keys=[sanitise_key(f"{posixpath.basename(partition.place)}/{name}") for name in names],
                    names=names,
                    images=[storage.join(_images(partition.place), name) for name in names],
                    labels=labels,
                    va=scaled_va(float32([va for _, va, _ in facts]).reshape(-1, 2), None),
                    reasons=[bad or reason for (_, _, bad), reason in zip(facts, reasons, strict=True)],
                )


def npy_value(data: bytes) -> str | float:
    """The one text or number in a npy file; ValueError for anything else, objects among them."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    rest = stream.read()
    if dtype.kind not in "Ufiu" or prod(shape) != 1 or len(rest) != dtype.itemsize:
        raise ValueError(f"wanted one value, got {shape} of {dtype}")
    return np.frombuffer(rest, dtype)[0].item()


def _facts(stem: str) -> tuple[str, tuple[float, float], str | None]:
    """Expression as digits, valence and arousal, and what is wrong with them."""
    try:
        expression, valence, arousal = (float(npy_value(storage.read_bytes(f"{stem}_{kind}.npy"))) for kind in KINDS)
    except DataError:
        return "", (np.nan, np.nan), NO_ANNOTATION
    except ValueError:
        return "", (np.nan, np.nan), BAD_ANNOTATION
    return f"{expression:g}", (valence, arousal), None


def _images(uri: str) -> str:
    return storage.join(uri, "images")
