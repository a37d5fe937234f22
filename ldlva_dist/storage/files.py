"""One door for local paths and ``s3://bucket/key``; every other room names places by such a uri.

The store's side, with its limits and where credentials come from, is :mod:`ldlva_dist.storage.s3`. Every error is one
clear sentence: DataError for what is missing or damaged, SettingError for a bucket, credentials or an endpoint that the
user can correct, ClusterError for a disk or store that failed.
"""

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar

import pyarrow as pa
from isal import isal_zlib
from pyarrow import fs

from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.storage import plain_files, s3
from ldlva_dist.storage.s3.filesystem import S3Files, open_object

COPY_BYTES = 8 << 20
UNFINISHED = ".part"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
T = TypeVar("T")


def is_remote(uri: str) -> bool:
    """Whether the uri names an object store."""
    return uri.startswith(s3.S3)


def join(uri: str, *names: str) -> str:
    """The uri of something inside a folder."""
    return "/".join([uri.rstrip("/"), *names])


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a uri, for libraries that ask for one, and the path in it."""
    if is_remote(uri):
        return fs.PyFileSystem(S3Files()), "/".join(s3.split(uri)).rstrip("/")
    if _ADDRESS.match(uri) or not uri:
        raise SettingError(f"a storage address must be a local path or s3://bucket/key, got {uri!r}")
    if "\0" in uri:
        raise DataError(f"there is no file {uri!r}: a path holds no NUL")
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))


def absolute(uri: str) -> str:
    """The uri that means the same on every node: a local path in full."""
    return uri if is_remote(uri) else resolve(uri)[1]


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    return s3.object_exists(uri) if is_remote(uri) else _local(uri, os.path.exists)


def list_folder(uri: str) -> list[str]:
    """Names of the files and folders in a folder, sorted; empty where there is no folder."""
    if is_remote(uri):
        return s3.list_keys(uri)
    return _local(uri, lambda path: sorted(os.listdir(path)) if os.path.exists(path) else [])


def read_bytes(uri: str, limit: int | None = None) -> bytes:
    """A whole file, or no more than its first ``limit`` bytes, whatever it says of its size."""
    if not is_remote(uri):
        return _local(uri, lambda path: plain_files.read_start(path, limit))
    is_longer = limit is not None and s3.object_size(uri) > limit
    return s3.read(uri, 0, limit) if is_longer else s3.read(uri)


def read_range(uri: str, offset: int, size: int) -> bytes:
    """``size`` >= 0 bytes from ``offset`` >= 0; a file that ends before, or a place that cannot be, is a DataError."""
    if offset < 0 or size < 0:
        raise DataError(f"{uri} cannot have {size} bytes at byte {offset}")
    if is_remote(uri):
        return s3.read(uri, offset, size)
    data = _local(uri, lambda path: plain_files.read_plain_range(path, offset, size))
    if len(data) != size:
        raise DataError(f"{uri} ends early: wanted {size} bytes at {offset}, got {len(data)}")
    return data


def open_input(uri: str) -> pa.NativeFile:
    """A file opened for random access."""
    if is_remote(uri):
        return pa.PythonFile(open_object(uri), mode="r")
    return _local(uri, plain_files.open_native)


def stamp(uri: str) -> str:
    """What changes when a file is written again: its size and times, in a store its size and ETag; "" for no file."""
    return s3.object_stamp(uri) if is_remote(uri) else _stamp(resolve(uri)[1])


def stamps(uri: str, names: Sequence[str]) -> list[str]:
    """The :func:`stamp` of each of some files below a folder."""
    if is_remote(uri):
        found = dict(s3.object_stamps(uri))
        return [found.get(name, "") for name in names]
    folder = resolve(uri)[1]
    return [_stamp(f"{folder}/{name}") for name in names]


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file; it appears complete or not at all. Missing local folders are made."""
    write_stream(uri, io.BytesIO(data), len(data))


def write_stream(uri: str, source: IO[bytes], size: int) -> int:
    """Write the next ``size`` bytes of ``source``, up to its end, as a whole file, as :func:`write_bytes` does.

    For an object store it is read twice, from where it stands.

    Returns:
        The CRC-32 of what was written.
    """
    if is_remote(uri):
        return s3.write_object(uri, source, size)
    return _local(uri, lambda path: _replace(Path(path), source))


def create(uri: str, data: bytes) -> None:
    """Write a few bytes where there is no file yet, and leave one that is there as it is; its folder must be there.

    A store that knows no such condition writes all the same: who must know whose bytes they are reads them again.
    """
    if is_remote(uri):
        s3.create_object(uri, data)
    else:
        _local(uri, lambda path: _create(path, data))


def touch(uri: str) -> None:
    """Let a file count as written now; DataError where there is none."""
    if is_remote(uri):
        s3.touch_object(uri)
    else:
        _local(uri, os.utime)


def times(uri: str) -> tuple[float, float]:
    """When a file was written last, and what time it is now, in seconds by the clock of the disk or store."""
    return s3.object_times(uri) if is_remote(uri) else _local(uri, _times)


def upload(local: str, uri: str) -> None:
    """Copy a local file to a uri; it appears complete or not at all. Missing local folders are made."""

    def copy(path: str) -> None:
        with open(path, "rb") as source:
            write_stream(uri, source, os.fstat(source.fileno()).st_size)

    _local(local, copy)


def make_folder(uri: str) -> None:
    """Make a folder and its parents; an object store needs none."""
    if not is_remote(uri):
        _local(uri, lambda path: os.makedirs(path, exist_ok=True))


def delete_folder(uri: str) -> None:
    """Delete a folder and everything in it; nothing happens where there is none."""
    if is_remote(uri):
        s3.delete_objects(uri)
        return
    with suppress(DataError):
        _local(uri, shutil.rmtree)


def delete_file(uri: str) -> None:
    """Delete one file; nothing happens where there is none."""
    if is_remote(uri):
        s3.delete_object(uri)
        return
    with suppress(DataError):
        _local(uri, os.unlink)


def delete_unfinished(uri: str) -> None:
    """Delete from a folder the files of processes that were killed while they wrote; nobody may be writing there.

    A store keeps nothing of an object until it is whole.
    """
    if not is_remote(uri):
        for name in list_folder(uri):
            if name.startswith(".") and name.endswith(UNFINISHED):
                delete_file(join(uri, name))


def check_writable(uri: str) -> None:
    """SettingError unless a file can be written into the folder ``uri``; no folder is made.

    A store that does not answer is a ClusterError; a missing bucket, refused credentials and an unknown endpoint are
    SettingErrors that say so.
    """
    if is_remote(uri):
        probe = join(uri, f".write-test-{os.getpid()}")
        s3.write_object(probe, io.BytesIO(), 0)
        s3.delete_object(probe)
        return
    try:
        tempfile.TemporaryFile(dir=nearest_folder(uri)).close()
    except OSError as error:
        raise SettingError(f"the storage path must be writable, got {uri!r}: {error.strerror or error}") from error


def disk_of(uri: str) -> tuple[int, int] | None:
    """(total, free) bytes of the disk that a local folder lies on or would be made on; None for an object store."""
    if is_remote(uri):
        return None
    usage = _local(nearest_folder(uri), shutil.disk_usage)
    return usage.total, usage.free


def nearest_folder(uri: str) -> str:
    """The path of a local folder, or of the nearest one above it that exists."""
    path = Path(resolve(uri)[1])
    return str(next(place for place in (path, *path.parents) if os.path.exists(place)))


def _local(uri: str, action: Callable[[str], T]) -> T:
    """Do something with the path of a local uri; its errors are named."""
    try:
        return action(resolve(uri)[1])
    except OSError as error:
        if error.errno in plain_files.NO_FILE:
            raise DataError(f"there is no file {uri}") from error
        raise ClusterError(f"the store failed at {uri}: {error.strerror or error}") from error


def _create(path: str, data: bytes) -> None:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return
    with os.fdopen(handle, "wb", buffering=0) as file:
        file.write(data)


def _times(path: str) -> tuple[float, float]:
    """A file that is made now tells the time of the disk, which may be another machine's."""
    with open(path, "rb") as file, tempfile.TemporaryFile(dir=os.path.dirname(path)) as fresh:
        return os.fstat(file.fileno()).st_mtime, os.fstat(fresh.fileno()).st_mtime


def _stamp(path: str) -> str:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # gone, or no path at all: whoever reads it says so
        return ""
    # The time of the inode too: what is unpacked or copied may bring the old file's time of writing along.
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"


def _replace(path: Path, source: IO[bytes]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    crc = 0
    try:
        with os.fdopen(handle, "wb") as stream:
            while piece := source.read(COPY_BYTES):
                stream.write(piece)
                crc = isal_zlib.crc32(piece, crc)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:  # of the disk, or of whatever the source comes from
        os.unlink(temporary)
        raise
    return crc
