"""One door for local paths and ``s3://bucket/key``; every other room names places by such a uri.

The S3 client takes credentials, endpoint (AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; path-style) and region (AWS_REGION)
from the environment. It is built in the process that uses it, because pickling drops its retry strategy.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from ldlva_dist.errors import ClusterError, DataError, SettingError

S3 = "s3://"
ATTEMPTS = 5
COPY_BYTES = 8 << 20
T = TypeVar("T")


def is_remote(uri: str) -> bool:
    """Whether the uri names an object store."""
    return uri.startswith(S3)


def join(uri: str, *names: str) -> str:
    """The uri of something inside a folder."""
    return "/".join([uri.rstrip("/"), *names])


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a uri, and the path in it."""
    if is_remote(uri):
        path = uri.removeprefix(S3).rstrip("/")
        if not path:
            raise SettingError(f"a storage address must be s3://bucket/key, got {uri!r}")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return _s3(os.getpid(), endpoint, region), path
    if "://" in uri or not uri:
        raise SettingError(f"a storage address must be a local path or s3://bucket/key, got {uri!r}")
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    filesystem, path = resolve(uri)
    return _attempt(uri, lambda: filesystem.get_file_info(path).type) != fs.FileType.NotFound


def list_folder(uri: str) -> list[str]:
    """Names of the files and folders in a folder, sorted; empty where there is no folder."""
    filesystem, path = resolve(uri)
    selector = fs.FileSelector(path, allow_not_found=True)
    return sorted(info.base_name for info in _attempt(uri, lambda: filesystem.get_file_info(selector)))


def read_bytes(uri: str) -> bytes:
    """A whole file."""
    return _attempt(uri, lambda: _read(uri, 0, None))


def read_range(uri: str, offset: int, size: int) -> bytes:
    """``size`` bytes from ``offset``; a file that ends before is a DataError."""
    data = _attempt(uri, lambda: _read(uri, offset, size))
    if len(data) != size:
        raise DataError(f"{uri} ends early: wanted {size} bytes at {offset}, got {len(data)}")
    return data


def open_input(uri: str) -> pa.NativeFile:
    """A file opened for random access."""
    filesystem, path = resolve(uri)
    return _attempt(uri, lambda: filesystem.open_input_file(path))


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file; it appears complete or not at all. Missing local folders are made."""
    filesystem, path = resolve(uri)

    def write() -> None:
        if is_remote(uri):
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)
        else:
            _write_local(Path(path), data)

    _attempt(uri, write)


def upload(local: str, uri: str) -> None:
    """Copy a local file to a uri."""
    filesystem, path = resolve(uri)

    def copy() -> None:
        with open(local, "rb") as source, filesystem.open_output_stream(path) as stream:
            shutil.copyfileobj(source, stream, COPY_BYTES)

    _attempt(uri, copy)


def make_folder(uri: str) -> None:
    """Make a folder and its parents; an object store needs none."""
    if not is_remote(uri):
        _attempt(uri, lambda: os.makedirs(resolve(uri)[1], exist_ok=True))


def delete_folder(uri: str) -> None:
    """Delete a folder and everything in it; nothing happens where there is none."""
    filesystem, path = resolve(uri)
    with suppress(DataError):
        _attempt(uri, lambda: filesystem.delete_dir(path))


def delete_file(uri: str) -> None:
    """Delete one file; nothing happens where there is none."""
    filesystem, path = resolve(uri)
    with suppress(DataError):
        _attempt(uri, lambda: filesystem.delete_file(path))


def check_writable(uri: str) -> None:
    """SettingError unless a file can be written into the folder ``uri``; no folder is made."""
    filesystem, path = resolve(uri)
    probe = f".write-test-{os.getpid()}"
    try:
        if is_remote(uri):
            with filesystem.open_output_stream(f"{path}/{probe}") as stream:
                stream.write(b"")
            filesystem.delete_file(f"{path}/{probe}")
        else:
            folder = next(place for place in (Path(path), *Path(path).parents) if place.exists())
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SettingError(f"the storage path must be writable, got {uri!r}: {_reason(error)}") from error


@lru_cache(maxsize=8)
def _s3(pid: int, endpoint: str | None, region: str | None) -> fs.FileSystem:
    """One client per process and address: a forked client must not be used."""
    scheme, _, host = (endpoint or "https://").rstrip("/").partition("://")
    return fs.S3FileSystem(
        scheme=scheme,
        endpoint_override=host or None,
        region=region or "us-east-1",
        allow_delayed_open=True,  # a small file is one request, not three
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=10),
    )


_RETRYING = Retrying(
    stop=stop_after_attempt(ATTEMPTS),
    wait=wait_random_exponential(multiplier=0.5, max=8),
    retry=retry_if_exception(lambda error: isinstance(error, OSError) and not _is_final(error)),
    reraise=True,
)


def _attempt(uri: str, action: Callable[[], T]) -> T:
    """Run an action; a store's errors are retried, then named. A missing file is never retried."""
    try:
        return _RETRYING(action) if is_remote(uri) else action()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"there is no file {uri}") from error
    except OSError as error:
        raise ClusterError(f"the store failed at {uri}: {_reason(error)}") from error


def _is_final(error: OSError) -> bool:
    """Whether asking again cannot help: the file is missing or access is refused."""
    return isinstance(error, FileNotFoundError | PermissionError) or "ACCESS_DENIED" in str(error)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).splitlines()[0]


def _read(uri: str, offset: int, size: int | None) -> bytes:
    filesystem, path = resolve(uri)
    with filesystem.open_input_file(path) as stream:
        begin, end = min(offset, stream.size()), stream.size()
        return stream.read_at(end - begin if size is None else min(size, end - begin), begin)


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
