"""AffectNet+: a small JSON beside each face. n = rows of a block, C = classes.

``human_annotated/train_set`` and ``validation_set`` each hold ``images/N.jpg`` and ``annotations/N.json``:
``human-label`` (AffectNet's numbers), ``soft-label`` (shares of the eight classes in their order), ``subset`` (0 easy,
1 challenging, 2 difficult) and ``meta-data`` with ``age``, ``gender``, ``race``, ``pose``, ``valence``, ``arousal`` and
landmarks. Keys are read whatever their capitals, hyphens and underscores: copies differ.

Protocol: as ``affectnet.py``; ``validation_set`` is the test part. The soft label is kept as votes, for judging; it has
no number of raters. ``subset`` rides along. Faces without a human's label (``no_human_annotated``) are not packed.
"""

import json
import posixpath
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldlva_dist import storage
from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError
from ldlva_dist.packing.classes.class_index import whole_number
from ldlva_dist.packing.classes.known_layouts import SUBSETS
from ldlva_dist.packing.sources.known_sets.affectnet import settle
from ldlva_dist.packing.sources.listing import list_images
from ldlva_dist.packing.sources.readers.tables import cut_images, order_of, spans
from ldlva_dist.packing.sources.rows import Part, Partition, Rows
from ldlva_dist.packing.tables.cells import CellError, float32, label_of, number_of, scaled_va

READERS = 16
SOFT_CLASSES = 8
NO_JSON, BAD_JSON = "its annotation is missing", "its annotation is no JSON object"
NO_HUMAN_LABEL, BAD_SOFT_LABEL = "its annotation has no human-label", "its soft-label is not eight shares"
EXTRAS = ("age", "gender", "race", "pose")


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    """What a JSON says."""

    label: str = ""
    va: tuple[float, float] = (np.nan, np.nan)
    soft: tuple[float, ...] = (0.0,) * SOFT_CLASSES
    extra: Mapping[str, str | None] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class AffectNetPlusSource:
    """Folders of images and annotations, in an order shuffled by ``seed``."""

    folders: dict[Part, str]
    """``train_set`` and ``validation_set``."""
    num_classes: int = 7
    extra: tuple[str, ...] = ()
    """What of EXTRAS rides along besides ``subset``."""
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Kind and protocol."""
        return {"kind": "affectnet-plus", "protocol": f"{self.num_classes} classes, tested on validation_set"}

    def partitions(self) -> list[Partition]:
        """Stretches of each part's shuffled order; each folder is listed once a process, no annotation is read."""
        return cut_images(self.folders)

    def read(self, partition: Partition) -> Iterator[Rows]:
        """Rows with the uris of their images and what their annotations say."""
        images = storage.join(partition.place, "images")
        files = list_images(images).paths
        order = order_of(len(files), self.seed)
        with ThreadPoolExecutor(READERS) as pool:
            for span in spans(partition):
                numbers = order[span.start : span.stop]
                names = files.take(numbers).to_pylist()
                stems = [storage.join(partition.place, "annotations", name.rpartition(".")[0]) for name in names]
                said = list(pool.map(lambda stem: _read(f"{stem}.json"), stems))
                labels, reasons = settle([one.label for one in said], self.num_classes)
                soft_n8 = float32([one.soft for one in said]).reshape(-1, SOFT_CLASSES)
                yield Rows(
                    part=partition.part,
                    numbers=numbers,
                    keys=[sanitise_key(f"{posixpath.basename(partition.place)}/{name}") for name in names],
                    names=names,
                    images=[storage.join(images, name) for name in names],
                    labels=labels,
                    va=scaled_va(float32([one.va for one in said]).reshape(-1, 2), None),
                    votes=soft_n8[:, : self.num_classes],
                    raters=np.full(len(names), np.nan, dtype=np.float32),
                    reasons=[one.reason or reason for one, reason in zip(said, reasons, strict=True)],
                    extra={name: [one.extra.get(name) for one in said] for name in ("subset", *self.extra)},
                )


def _read(uri: str) -> _Annotation:
    try:
        return parse_annotation(storage.read_bytes(uri))
    except DataError:
        return _Annotation(reason=NO_JSON)


def parse_annotation(data: bytes) -> _Annotation:
    """What an annotation says, or why it cannot be read."""
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        return _Annotation(reason=BAD_JSON)
    if not isinstance(facts, dict):
        return _Annotation(reason=BAD_JSON)
    facts = _plain_keys(facts)
    meta = facts.get("metadata")
    meta = _plain_keys(meta) if isinstance(meta, dict) else {}
    try:
        label = label_of(facts.get("humanlabel"))
    except CellError:
        label = None
    if label is None:
        return _Annotation(reason=NO_HUMAN_LABEL)
    soft = facts.get("softlabel")
    shares = tuple(map(number_of, soft)) if isinstance(soft, list) else ()
    if len(shares) != SOFT_CLASSES or not all(0 <= share < np.inf for share in shares):
        return _Annotation(reason=BAD_SOFT_LABEL)
    valence, arousal = number_of(meta.get("valence")), number_of(meta.get("arousal"))
    extra = {name: _text(meta.get(name)) for name in EXTRAS}
    return _Annotation(label=label, va=(valence, arousal), soft=shares, extra={**extra, "subset": _subset(facts)})


def _subset(facts: Mapping[str, Any]) -> str | None:
    text = _text(facts.get("subset"))
    number = whole_number(text) if text is not None else None
    return SUBSETS[number] if number is not None and 0 <= number < len(SUBSETS) else text


def _text(value: Any) -> str | None:
    """A value as text; of shares of several values the largest one's name."""
    if isinstance(value, dict):
        shares = {name: number_of(share) for name, share in value.items()}
        return (
            max(shares, key=lambda name: shares[name]) if shares and np.isfinite(list(shares.values())).all() else None
        )
    try:
        return label_of(value)
    except CellError:
        return None


def _plain_keys(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).lower().replace("-", "").replace("_", ""): value for key, value in facts.items()}
