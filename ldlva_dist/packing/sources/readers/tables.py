"""Tables that a source reads in pieces: counted in the driver, parsed once per process, cut into partitions."""

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.sources.listing import list_images
from ldlva_dist.packing.sources.rows import BLOCK_ROWS, PARTITION_ROWS, Part, Partition
from ldlva_dist.packing.sources.user_columns import columns_present
from ldlva_dist.storage.csv_file import read_csv

MAX_KEY_BYTES = 1024
"""Longest key of a store."""


def cut(part: Part, rows: int, place: str = "", *, first: int = 0) -> Iterator[Partition]:
    """Partitions of ``PARTITION_ROWS`` rows from row ``first`` of the part on."""
    for begin in range(0, rows, PARTITION_ROWS):
        yield Partition(part=part, first=first + begin, rows=min(PARTITION_ROWS, rows - begin), place=place)


def refuse_empty(part: Part, rows: int, place: str, why: Sequence[str] = ()) -> None:
    """DataError where what a user named for a part holds no row."""
    if not rows:
        raise DataError(f"the {part} part is empty: {'; '.join([f'{place} holds no rows', *why])}")


def cut_images(folders: Mapping[Part, str]) -> list[Partition]:
    """Partitions of the pictures in ``images`` below each part's folder, which is listed once a process."""
    found: list[Partition] = []
    for part, uri in folders.items():
        listing = list_images(storage.join(uri, "images"))
        refuse_empty(part, len(listing.paths), uri, listing.passed_over())
        found += cut(part, len(listing.paths), uri)
    return found


def spans(partition: Partition) -> Iterator[range]:
    """The places of a partition's rows in its part, a block of rows at a time."""
    for begin in range(partition.first, partition.first + partition.rows, BLOCK_ROWS):
        yield range(begin, min(begin + BLOCK_ROWS, partition.first + partition.rows))


def csv_table(
    uri: str, keep: Sequence[str] | None = None, *, names: Sequence[str] | None = None, delimiter: str | None = None
) -> pa.Table:
    """:func:`read_csv`, once per process for each size that the file has had; an empty cell is ""."""
    with storage.open_input(uri) as stream:
        size = stream.size()
    return _parsed(uri, size, keep and tuple(keep), names and tuple(names), delimiter)


def image_uri(folder: str, path: str | None) -> str | None:
    """The image that a table names by its path from a folder on; a table made on Windows or by find is read too.

    A disk follows ``.`` and ``..`` itself. A store does not: there they are taken out of the path, and one that leads
    out of the folder, or is no key, leads to no image: None.
    """
    path = (path or "").replace("\\", "/")
    if path and storage.is_remote(folder):
        path = posixpath.normpath(path.lstrip("/"))
        is_key = "\0" not in path and len(path.encode()) <= MAX_KEY_BYTES
        path = path if is_key and path.partition("/")[0] not in (".", "..") else ""
    return storage.join(folder, path) if path else None


def need_columns(present: Sequence[str], names: Sequence[str], uri: str) -> None:
    """DataError where a column of a fixed layout is not in a table."""
    missing = [name for name in names if name not in present]
    if missing:
        raise DataError(f"{uri} has no column {missing[0]!r}, which its layout has; {columns_present(present)}")


def refuse_repeated(uris: Iterable[str], settings: str = "--train, --validation and --test") -> None:
    """SettingError where two of the files that a user names are one."""
    known: set[str] = set()
    for uri in uris:
        real = uri if storage.is_remote(uri) else os.path.realpath(uri)
        if real in known:
            raise SettingError(f"{settings} must name each file once, got {uri!r} again")
        known.add(real)


def names_in(uri: str, uris: Sequence[str], names: Sequence[object]) -> list[str]:
    """What rows of the file ``uri`` are called among those of all files ``uris``."""
    file = f"{_tails(tuple(uris))[uri]}/" if len(uris) > 1 else ""
    return [f"{file}{name}" for name in names]


@lru_cache(maxsize=8)
def _tails(uris: tuple[str, ...]) -> dict[str, str]:
    """The path of each file from the folder on that holds them all."""
    paths = {uri: uri if storage.is_remote(uri) else storage.absolute(uri) for uri in uris}
    common = posixpath.commonpath([posixpath.dirname(path) for path in paths.values()])
    return {uri: posixpath.relpath(path, common) for uri, path in paths.items()}


@lru_cache(maxsize=4)
def _parsed(
    uri: str, size: int, keep: tuple[str, ...] | None, names: tuple[str, ...] | None, delimiter: str | None
) -> pa.Table:
    del size
    return read_csv(uri, keep, names=names, delimiter=delimiter)


@lru_cache(maxsize=4)
def order_of(rows: int, seed: int) -> NDArray[np.int64]:
    """[rows] the numbers 0..rows-1 as ``seed`` shuffles them; shared, never to be written to."""
    return np.random.default_rng((seed, rows)).permutation(rows)
