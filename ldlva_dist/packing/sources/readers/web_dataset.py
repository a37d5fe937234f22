"""WebDataset tars: members ``KEY.jpg``, ``KEY.json``, ``KEY.cls`` side by side. n = rows of a block.

A key is a member's path up to the first dot of its file name, its extension all that follows; members of one key that
stand together are one sample. Only images, ``.json`` and ``.cls`` are ever opened, and nothing is unpickled or written
to disk. A sample that is not right becomes a rejected row with a reason; a tar that is not right (empty, cut off, with
a hole, or with names that hide samples) ends the packing. Rows keep the tars' order. A tar is read whole: a task needs
its size in memory, or what it holds where it is compressed (``.tar.gz``). A tar in a tar is read as one more.
"""

import gzip
import os
import posixpath
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
from braceexpand import braceexpand

from ldlva_dist import storage
from ldlva_dist.dataset.shards import sanitise_key
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.sources.common import check_text
from ldlva_dist.packing.sources.listing import count_others, is_hidden
from ldlva_dist.packing.sources.readers.samples import Fields, Sample, read_samples
from ldlva_dist.packing.sources.readers.tables import names_in, refuse_repeated
from ldlva_dist.packing.sources.rows import BLOCK_ROWS, Part, Partition, Rows
from ldlva_dist.packing.tables.cells import float32, scaled_va

BLOCK_BYTES = 32 << 20
COMPRESSED = (".tar.gz", ".tgz")
ENDINGS = (".tar", *COMPRESSED)
MAX_TARS = 100_000
"""Names that a pattern may have."""


@dataclass(frozen=True, kw_only=True)
class WebDatasetSource:
    """Tars of the parts, and where a sample's label and valence-arousal stand."""

    tars: dict[Part, tuple[str, ...]]
    fields: Fields = field(default_factory=Fields)
    tar_in_key: bool = False
    """Begin each key with the name of its tar, for people to see where it is from."""
    skip_damaged: bool = False
    """Leave out what cannot be read of a tar, where an error would end the packing."""

    def describe(self) -> dict[str, Any]:
        """Kind, tars and fields."""
        tars = {part: [posixpath.basename(uri) for uri in uris] for part, uris in self.tars.items()}
        return {"kind": "webdataset", **tars, "label": self.fields.label or ".cls"}

    def partitions(self) -> list[Partition]:
        """The tars; how many rows they hold, only reading tells."""
        parts = self.tars.items()
        refuse_repeated(chain.from_iterable(self.tars.values()))
        return [Partition(part=part, first=0, rows=0, place=uri) for part, uris in parts for uri in uris]

    def read(self, partition: Partition) -> Iterator[Rows]:
        """The samples of one tar, and what is wrong with it; a row's number counts them within the tar.

        Raises:
            DataError: for a tar that is damaged, unless such are to be skipped.
        """
        tar = memoryview(_unpacked(partition.place))
        block: list[Sample] = []
        first = num_bytes = 0
        for sample in read_samples(tar, posixpath.basename(partition.place), self.fields):
            if sample.flaw is not None and not self.skip_damaged:
                raise DataError(f"{partition.place}: {sample.flaw} (--damaged-tars skip packs what can be read)")
            block.append(sample)
            num_bytes += len(sample.image or b"")
            if len(block) == BLOCK_ROWS or num_bytes >= BLOCK_BYTES:
                yield self._rows(partition, block, first)
                first, num_bytes, block = first + len(block), 0, []
        if block:
            yield self._rows(partition, block, first)

    def _rows(self, partition: Partition, block: list[Sample], first: int) -> Rows:
        stem = posixpath.basename(partition.place).partition(".")[0]
        prefix = f"{stem}/" if self.tar_in_key else ""
        return Rows(
            part=partition.part,
            numbers=np.arange(first, first + len(block)),
            keys=[sanitise_key(prefix + sample.key) for sample in block],
            names=names_in(partition.place, self.tars[partition.part], [sample.key for sample in block]),
            images=[sample.image for sample in block],
            labels=[sample.label for sample in block],
            va=scaled_va(float32([sample.va for sample in block]).reshape(-1, 2), self.fields.va_scale),
            reasons=[sample.reason for sample in block],
            extra={
                name: [sample.extra[at] if sample.extra else None for sample in block]
                for at, name in enumerate(self.fields.extra)
            },
        )


def tars_of(uris: Sequence[str]) -> Iterator[str]:
    """The tars themselves, and in their order those of each folder; SettingError where there is none.

    A pattern such as ``shard-{000..010}.tar`` stands for all the names that it has.
    """
    for uri in chain.from_iterable(map(_expanded, uris)):
        is_file = uri.endswith(ENDINGS) or os.path.isfile(uri)
        tars = [uri] if is_file else [storage.join(uri, name) for name in storage.list_folder(uri)]
        tars = [tar for tar in tars if tar.endswith(ENDINGS) and not is_hidden(posixpath.basename(tar))]
        if not tars or not storage.exists(uri):
            raise SettingError(f"--train, --validation and --test must name tars or folders of tars, got {uri!r}")
        for tar in tars:
            check_text("--train, --validation and --test", tar)
        yield from tars


def _expanded(uri: str) -> list[str]:
    """The names that a pattern has; what is there under its own name is no pattern."""
    if "{" not in uri or storage.exists(uri):
        return [uri]
    try:
        return list(islice(braceexpand(uri, escape=False), MAX_TARS))
    except ValueError as error:
        raise SettingError(
            f"--train, --validation and --test must have both braces of a pattern, got {uri!r}"
        ) from error


def _unpacked(uri: str) -> bytes:
    """The bytes of a tar; DataError for one whose compression is damaged."""
    data = storage.read_bytes(uri)
    if not uri.endswith(COMPRESSED):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{uri}: its gzip compression is damaged: {error}") from error


def tar_notes(uris: Sequence[str]) -> list[str]:
    """What is passed over in folders of tars."""
    folders = [uri for uri in uris if not uri.endswith(ENDINGS) and storage.exists(uri)]
    found = {uri: [name for name in storage.list_folder(uri) if not name.endswith(ENDINGS)] for uri in folders}
    shown = {uri: [name for name in names if not is_hidden(name)] for uri, names in found.items()}
    return [
        f"passed over: {len(names)} files ({count_others(names)}) in {uri}" for uri, names in shown.items() if names
    ]
