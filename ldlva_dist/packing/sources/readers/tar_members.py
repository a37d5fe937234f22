"""The members of a tar, strictly: what cannot be read is reported with its byte, and reading goes on behind it.

Python's ``tarfile`` ends quietly at a corrupt header, so only its parser of single headers is used here. Nothing is
written to disk and no member's content is looked at.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

BLOCK = tarfile.BLOCKSIZE
MAX_END = tarfile.RECORDSIZE + BLOCK  # zeros at the end of a tar, as programs write it
MAX_EXTENDED = 1 << 20  # bytes of a long name or of extended headers; theirs are a few hundred
_ZEROS = bytes(BLOCK)
_MAGIC, _MAGIC_AT = b"ustar", 257
_LONG_NAME, _EXTENDED = tarfile.GNUTYPE_LONGNAME, (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_UNUSED = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK, b"V", b"D")  # also GNU's volume labels and lists of folders
_EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_SPARSE, _MORE_AT, _MORE_AGAIN_AT = tarfile.GNUTYPE_SPARSE, 482, 504
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a tar."""

    name: str
    begin: int
    """Byte of the tar at which its content begins."""
    end: int
    is_file: bool
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where a tar is not what it should be."""

    at: int
    """Byte of the tar."""
    reason: str


def members(tar: memoryview) -> Iterator[Member | Damage]:
    """The entries and the damages of a tar, in order.

    Behind a corrupt header, and behind zeros where more follows, reading goes on at the next block that is a valid
    header. A tar that is cut off, in a member or before its end mark of zeros, ends with a damage that says so, and so
    does one whose last bytes are zeros in the place of members: a download that was not finished.
    """
    at, said = 0, _Said()
    if len(tar) < BLOCK:
        yield Damage(0, _no_tar(tar))
        return
    while at + BLOCK <= len(tar):
        header = bytes(tar[at : at + BLOCK])
        try:
            if header == _ZEROS:
                raise ValueError("zeros: the end of the tar, or a hole in it")
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            begin, size = _content(tar, at, info, said)
            if begin + size > len(tar):
                yield Damage(at, f"the tar is cut off at byte {len(tar)}, in the member that begins at byte {at}")
                return
            if info.type in (_LONG_NAME, *_EXTENDED):
                said = _read_extension(bytes(tar[begin : begin + min(size, MAX_EXTENDED)]), info.type, said)
            elif info.type not in _UNUSED:
                is_file = info.type in _FILES and not said.is_sparse
                yield Member(said.name or info.name, begin, begin + size, is_file, info.isdir())
                said = _Said()
            at = begin + -(-size // BLOCK) * BLOCK
        except (tarfile.HeaderError, ValueError):
            found = _next_header(tar, at + BLOCK)
            if (reason := _damage(tar, at, found)) is not None:
                yield Damage(at, reason)
            if found == len(tar):
                return
            at, said = found, _Said()
    yield Damage(len(tar), f"the tar is cut off at byte {len(tar)}: it has no end mark")


@dataclass(frozen=True, slots=True)
class _Said:
    """What the headers before a member's own say of it."""

    name: str | None = None
    size: int | None = None
    is_sparse: bool = False


def _read_extension(content: bytes, kind: bytes, before: _Said) -> _Said:
    if kind == _LONG_NAME:
        return replace(before, name=content.rstrip(b"\0").decode("utf-8", "surrogateescape"))
    facts, rest = {}, content
    while rest:
        length_text, _, _ = rest.partition(b" ")
        length = int(length_text)
        if not len(length_text) < length <= len(rest):
            raise ValueError("a record of an extended header has a wrong length")
        keyword, _, value = rest[len(length_text) + 1 : length - 1].partition(b"=")
        facts[keyword] = value
        rest = rest[length:]
    path = facts.get(b"GNU.sparse.name", facts.get(b"path"))
    name = before.name if path is None else path.decode("utf-8", "surrogateescape")
    is_sparse = any(keyword.startswith(b"GNU.sparse.") for keyword in facts)
    return _Said(name, int(facts[b"size"]) if b"size" in facts else before.size, is_sparse)


def _content(tar: memoryview, at: int, info: tarfile.TarInfo, said: _Said) -> tuple[int, int]:
    """Where the content of the entry at byte ``at`` begins, and its bytes; links, folders and devices have none."""
    begin = at + BLOCK
    if info.type in _EMPTY:
        return begin, 0
    if info.type == _SPARSE and tar[at + _MORE_AT]:
        while begin + BLOCK <= len(tar) and tar[begin + _MORE_AGAIN_AT]:
            begin += BLOCK
        begin += BLOCK
    size = info.size if said.size is None else said.size
    if size < 0:
        raise ValueError("a size below zero")
    return begin, size


def _damage(tar: memoryview, at: int, found: int) -> str | None:
    """What is wrong with the block at byte ``at``, no header, when the next header is at ``found``; None at the end."""
    is_zero = bytes(tar[at : at + BLOCK]) == _ZEROS
    if at == 0 and found == len(tar) and not is_zero:
        return _no_tar(tar)
    if not is_zero or found < len(tar) or tar[at:].tobytes().strip(b"\0"):
        return f"the tar is damaged at byte {at}: {found - at} bytes are passed over"
    if len(tar) - at > MAX_END:
        return f"the tar ends in {len(tar) - at} bytes of zeros, more than its end mark: a hole"
    return None


def _no_tar(tar: memoryview) -> str:
    if not len(tar):
        return "the tar is empty: it has 0 bytes"
    return "the tar is compressed, which is not read" if tar[:2] == _GZIP else "it is no tar"


def _next_header(tar: memoryview, at: int) -> int:
    """Byte of the next block that is a valid header; the end of the tar where there is none."""
    for begin in range(at, len(tar) - BLOCK + 1, BLOCK):
        if tar[begin + _MAGIC_AT : begin + _MAGIC_AT + len(_MAGIC)] == _MAGIC:
            try:
                tarfile.TarInfo.frombuf(bytes(tar[begin : begin + BLOCK]), "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError):
                continue
            return begin
    return len(tar)
