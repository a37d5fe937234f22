"""Versions of a data set: other labels or valence-arousal for the same samples; no tar is written again.

A version is a folder ``DATASET/versions/NAME`` with a manifest, a ``dataset.json`` and graphs of its own; its shards
are those of DATASET. Wherever a data set is named, a version can be. n = rows of one row group.
"""

import errno
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import BASE, Dataset
from ldlva_dist.dataset.manifest import DATASET, MANIFEST, OPTIONAL, VERSIONS, write_info
from ldlva_dist.dataset.manifest_blocks import HASHED, ContentHash, Tally, write_blocks
from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.values.settings import NAME_BYTES, shown

CHANGEABLE = ("label", "valence", "arousal", *OPTIONAL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a version has that its parent has not."""

    line: str
    """For people."""
    columns: Callable[[pa.Table], Mapping[str, pa.Array]]
    """From a row group of the parent's manifest (all its columns, n rows) to the new columns [n], of CHANGEABLE.

    Called for every row group, in id order. NaN in valence or arousal means that the row has none.
    """
    source: Mapping[str, Any] = field(default_factory=dict)
    """Added to what ``dataset.json`` says of the source."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Written beside the manifest, by name."""
    scale: Literal["keep", "raw", "standard"] = "keep"
    """va_transform: the parent's, none, or mean and standard deviation of the new training rows."""
    needs_va: bool = False
    """Whether every training row must have valence-arousal; otherwise all or none may."""


def version_uri(dataset: Dataset, name: str) -> str:
    """Where a version of a data set (or of its version) lies; a name that is not a plain one is a SettingError."""
    if not _NAME.fullmatch(name) or len(name) > NAME_BYTES:
        raise SettingError(
            f"a version's name must be of letters, digits, '-', '_' and single dots, at most {NAME_BYTES}, "
            f"got {shown(name)}"
        )
    return storage.join(versions_uri(dataset), name)


def versions_uri(dataset: Dataset) -> str:
    """Where versions are written; a link that would lead out of the data set is a DataError."""
    uri = storage.join(dataset.require_root(), VERSIONS)
    if not storage.is_remote(uri) and Path(storage.resolve(uri)[1]).is_symlink():
        raise DataError(f"{uri} must be a folder of the data set for versions to be written there, got a link")
    return uri


def check_free(uri: str) -> None:
    """SettingError where there is a version already."""
    if storage.exists(storage.join(uri, DATASET)):
        raise SettingError(f"a version's name must be new, got one that exists: {uri}")


def new_version(dataset: Dataset, name: str, change: Change) -> Dataset:
    """Write a version of a data set, or of one of its versions; it appears complete or not at all.

    Works row group by row group, whatever the number of rows.

    Raises:
        SettingError: for a name that is taken, or a scale that valence-arousal does not have.
        DataError: for labels that are no classes, or valence-arousal that some training rows have and others not.
    """
    old, uri = dataset.info, version_uri(dataset, name)
    check_free(uri)
    with _appearing(uri) as folder:
        tally = Tally(old.class_names)
        write_blocks(folder, _changed(dataset, change, tally))
        for file, data in change.files.items():
            storage.write_bytes(storage.join(folder, file), data)
        transform = old.va_transform if change.scale == "keep" else None
        new = replace(
            old,
            has_valence_arousal=tally.has_va(needed=change.needs_va),
            va_transform=tally.va_transform() if change.scale == "standard" else transform,
            class_counts=tally.class_counts(),
            flip_share=tally.flip_share(),
            source={**old.source, **change.source},
            base=BASE,
            root=old.root_hash,
            parent=old.content_hash,
            change=change.line,
        )
        digest = ContentHash(new.class_names, new.va_transform)
        for block in Dataset(folder, new).blocks(HASHED):
            digest.update(block)
        new = replace(new, content_hash=digest.hexdigest())
        write_info(folder, new)
    return Dataset(uri, new)


def _changed(dataset: Dataset, change: Change, tally: Tally) -> Iterator[pa.Table]:
    digest = ContentHash(dataset.info.class_names, dataset.info.va_transform)
    for block in dataset.blocks():
        digest.update(block)
        for name, column in change.columns(block).items():
            assert name in CHANGEABLE, f"a version keeps {name}"
            assert len(column) == len(block), f"a version keeps its rows, got {len(column)} of {name}"
            if name in ("valence", "arousal"):
                column = pa.array(column.to_numpy(zero_copy_only=False), from_pandas=True)  # NaN becomes null
            if name in block.column_names:
                block = block.drop_columns(name)
            block = block.append_column(name, column)
        tally.add(block)
        yield block
    if digest.hexdigest() != dataset.info.content_hash:
        raise DataError(f"{dataset.uri} is damaged: its manifest does not have the content hash of {DATASET}")


@contextmanager
def _appearing(uri: str) -> Iterator[str]:
    """A folder that becomes ``uri`` when all goes well; on a store ``uri`` itself, without its files otherwise."""
    if storage.is_remote(uri):
        try:
            yield uri
        except BaseException:
            storage.delete_file(storage.join(uri, MANIFEST))
            raise
        return
    target = Path(storage.resolve(uri)[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        yield str(folder)
        folder.chmod(0o755)
        folder.rename(target)
    except OSError as error:
        if error.errno in _TAKEN:
            raise SettingError(f"a version's name must be new, got one that exists: {uri}") from error
        raise ClusterError(f"the version could not be written to {target.parent}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
