"""Reading files of this machine: plain ones only, and no more of them than is there; disk errors stay OSErrors."""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from ldlva_dist.errors import DataError

NO_FILE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EAGAIN}
"""Errors of a disk where no file can be read: ELOOP of a link to itself, ENXIO of a socket, EAGAIN of /proc/kmsg."""
PIECE_BYTES = 8 << 20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_start(path: str, limit: int | None) -> bytes:
    """Up to ``limit`` bytes of a file, as many as there really are: files of /proc and /sys say that they have none."""
    left = sys.maxsize if limit is None else limit
    with _opened(path) as (file, size):
        pieces, wanted = [], size + 1
        while left and (piece := os.read(file, min(wanted, left))):
            pieces.append(piece)
            wanted, left = PIECE_BYTES, left - len(piece)
        return b"".join(pieces)


def read_plain_range(path: str, offset: int, size: int) -> bytes:
    """Those of ``size`` bytes from ``offset`` that are there; memory is taken for no others."""
    with _opened(path) as (file, there):
        return os.pread(file, max(0, min(size, there - offset)), offset)


def open_native(path: str) -> pa.NativeFile:
    """A file opened for random access, outside of Python."""
    _size(path, os.stat(path))
    return pa.OSFile(path)


@contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    """Descriptor and size of a file; what is no plain file is refused at once, where a pipe would wait for a writer."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield file, _size(path, os.fstat(file))
    finally:
        os.close(file)


def _size(path: str, found: os.stat_result) -> int:
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} is no plain file but {_KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}")
    return found.st_size
