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
from ldlva_dist.dataset.manifest import DATASET, MANIFEST, OPTIONAL, DatasetInfo, ShardInfo, read_info, write_info
from ldlva_dist.dataset.manifest_blocks import HASHED, ContentHash, Tally, read_blocks, write_blocks
from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.values.settings import NAME_BYTES, shown

VERSIONS = "versions"
BASE = "../.."
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
    scale: Literal["keep", "raw", "standard"] = "keep"
    """va_transform: the parent's, none, or mean and standard deviation of the new training rows."""
    needs_va: bool = False
    """Whether every training row must have valence-arousal; otherwise all or none may."""


def root_uri(dataset_uri: str, info: DatasetInfo) -> str:
    """Where a data set's shards lie: in itself, or, for a version, in the data set it belongs to."""
    if info.base is None:
        return dataset_uri
    remote = storage.is_remote(dataset_uri)
    parts = (dataset_uri.rstrip("/") if remote else storage.resolve(dataset_uri)[1]).split("/")
    # s3:, nothing, bucket; or a root directory
    if info.base != BASE or len(parts) < (5 if remote else 3) or parts[-2] != VERSIONS or parts[-1] in ("", ".", ".."):
        raise DataError(
            f"{dataset_uri}: base must be {BASE!r} in the folder of a version, DATASET/{VERSIONS}/NAME, and nothing in "
            f"another, got {info.base!r}"
        )
    return "/".join(parts[:-2]) or "/"


def require_root(dataset_uri: str, info: DatasetInfo) -> str:
    """The same; a DataError unless a version's data set is there and is the one that it was made of."""
    root = root_uri(dataset_uri, info)
    if info.base is not None and read_info(root).content_hash != info.root:
        raise DataError(f"{dataset_uri} is a version of another data set than {root}, by the content hashes")
    return root


def shard_uri(dataset_uri: str, info: DatasetInfo, shard: ShardInfo) -> str:
    """Where one shard of a data set, or of a version of one, is read."""
    return storage.join(root_uri(dataset_uri, info), shard.name)


def version_uri(dataset_uri: str, info: DatasetInfo, name: str) -> str:
    """Where a version of a data set (or of its version) lies; a name that is not a plain one is a SettingError."""
    if not _NAME.fullmatch(name) or len(name) > NAME_BYTES:
        raise SettingError(
            f"a version's name must be of letters, digits, '-', '_' and single dots, at most {NAME_BYTES}, "
            f"got {shown(name)}"
        )
    return storage.join(versions_uri(dataset_uri, info), name)


def versions_uri(dataset_uri: str, info: DatasetInfo) -> str:
    """Where versions are written; a link that would lead out of the data set is a DataError."""
    uri = storage.join(require_root(dataset_uri, info), VERSIONS)
    if not storage.is_remote(uri) and Path(storage.resolve(uri)[1]).is_symlink():
        raise DataError(f"{uri} must be a folder of the data set for versions to be written there, got a link")
    return uri


def check_free(uri: str) -> None:
    """SettingError where there is a version already."""
    if storage.exists(storage.join(uri, DATASET)):
        raise SettingError(f"a version's name must be new, got one that exists: {uri}")


def new_version(dataset_uri: str, name: str, change: Change) -> DatasetInfo:
    """Write a version of a data set, or of one of its versions; it appears complete or not at all.

    Works row group by row group, whatever the number of rows.

    Raises:
        SettingError: for a name that is taken, or a scale that valence-arousal does not have.
        DataError: for labels that are no classes, or valence-arousal that some training rows have and others not.
    """
    old = read_info(dataset_uri)
    uri = version_uri(dataset_uri, old, name)
    check_free(uri)
    with _appearing(uri) as folder:
        tally = Tally(old.class_names)
        write_blocks(folder, _changed(dataset_uri, old, change, tally))
        transform = old.va_transform if change.scale == "keep" else None
        new = replace(
            old,
            has_valence_arousal=tally.has_va(needed=change.needs_va),
            va_transform=tally.va_transform() if change.scale == "standard" else transform,
            class_counts=tally.class_counts(),
            flip_share=tally.flip_share(),
            source={**old.source, **change.source},
            base=BASE,
            root=old.rows_hash,
            parent=old.content_hash,
            change=change.line,
        )
        digest = ContentHash(new.class_names, new.va_transform)
        for block in read_blocks(folder, HASHED):
            digest.update(block)
        new = replace(new, content_hash=digest.hexdigest())
        write_info(folder, new)
    return new


def _changed(dataset_uri: str, old: DatasetInfo, change: Change, tally: Tally) -> Iterator[pa.Table]:
    digest = ContentHash(old.class_names, old.va_transform)
    for block in read_blocks(dataset_uri):
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
    if digest.hexdigest() != old.content_hash:
        raise DataError(f"{dataset_uri} is damaged: its manifest does not have the content hash of {DATASET}")


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
