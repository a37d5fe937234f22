"""The store as a pyarrow file system, for Ray Train and Parquet; what :mod:`ldlva_dist.storage.s3` promises holds here.

Paths are bucket/key. A file that is read holds 1 MB of read-ahead; one that is written up to 16 MB, the rest on disk.
"""

import io
import tempfile
from typing import Any

import pyarrow as pa
from pyarrow import fs

from ldlva_dist.storage import s3

READ_AHEAD = 1 << 20
IN_MEMORY_BYTES = 16 << 20


class S3Files(fs.FileSystemHandler):
    """Keeps nothing, so that it can be pickled: every process takes its own client. No appending, no renaming."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Files)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [_info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        base = selector.base_dir.strip("/")
        if not selector.recursive:
            return [_info(f"{base}/{name}") for name in s3.list_keys(s3.S3 + base)]
        files = dict(s3.walk(s3.S3 + base))
        folders = {name[:end] for name in files for end, c in enumerate(name) if c == "/"}
        return [fs.FileInfo(f"{base}/{name}", fs.FileType.Directory) for name in sorted(folders)] + [
            fs.FileInfo(f"{base}/{name}", fs.FileType.File, size=size) for name, size in sorted(files.items())
        ]

    def create_dir(self, path: str, recursive: bool) -> None:
        """An object store needs no folders."""

    def delete_dir(self, path: str) -> None:
        s3.delete_objects(s3.S3 + path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        s3.delete_objects(s3.S3 + path)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("nobody deletes all buckets")

    def delete_file(self, path: str) -> None:
        s3.delete_object(s3.S3 + path)

    def move(self, src: str, dest: str) -> None:
        raise NotImplementedError("an object store does not rename")

    def copy_file(self, src: str, dest: str) -> None:
        data = s3.read(s3.S3 + src)
        s3.write_object(s3.S3 + dest, io.BytesIO(data), len(data))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(open_object(s3.S3 + path), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Written(s3.S3 + path), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError("an object store does not append")


def open_object(uri: str) -> io.BufferedReader:
    """An object opened for random access by ranged reads; one that is missing is a DataError."""
    return io.BufferedReader(_Ranges(uri), READ_AHEAD)


class _Ranges(io.RawIOBase):
    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri, self._size, self._place = uri, s3.object_size(uri), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._place))
        buffer[:size] = s3.read(self._uri, self._place, size)
        self._place += size
        return size


class _Written:
    """A file that becomes an object when it is closed; one that is only forgotten becomes nothing."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 (closed below)

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is there before all is."""

    def close(self) -> None:
        with self._file as file:
            size = file.tell()
            file.seek(0)
            s3.write_object(self._uri, file, size)


def _info(path: str) -> fs.FileInfo:
    size = s3.find_size(s3.S3 + path)
    if size is not None:
        return fs.FileInfo(path, fs.FileType.File, size=size)
    folder = s3.object_exists(s3.S3 + path)
    return fs.FileInfo(path, fs.FileType.Directory if folder else fs.FileType.NotFound)
