"""Reading objects: what a broken connection delivered is kept, and only the rest asked for again."""

import io
import time
from typing import Any

from botocore.exceptions import ClientError
from isal.isal_zlib import crc32

from ldlva_dist.errors import ClusterError, DataError
from ldlva_dist.storage.s3.client import attempt, limit_s, split
from ldlva_dist.storage.s3.errors import BEYOND, CHANGED, code_of
from ldlva_dist.storage.s3.get import S3Answer, get

PIECE_BYTES = 256 << 10


def read(uri: str, offset: int = 0, size: int | None = None) -> bytes:
    """``size`` bytes of an object from ``offset``; without a size the whole object.

    What a broken connection delivered is kept, and only the rest asked for again. An object that ends before
    ``offset + size``, changes meanwhile, or (read whole) has another checksum than it was written with, is a DataError.
    """
    if size == 0:
        return b""
    body = Body(uri, offset, size)
    attempt(uri, body.fetch, lambda: body.wanted or 0)
    return body.joined()


class Body:
    """The bytes of one read, over as many connections as it takes."""

    def __init__(self, uri: str, offset: int, size: int | None) -> None:
        self.wanted = size
        """Bytes of the whole read; None until the store has told."""
        self._uri, self._offset, self._whole = uri, offset, size is None
        self._data = io.BytesIO()
        self._answer: S3Answer | None = None
        self._began = time.monotonic()

    def fetch(self) -> None:
        """Ask for what is not there yet; for all of it where nothing can tell that the object is still the same."""
        bucket, key = split(self._uri)
        if self._answer and not self._answer.etag:
            self._data, self._answer = io.BytesIO(), None
            self.wanted = None if self._whole else self.wanted
        byte_range, begin = None, self._offset + self._data.tell()
        if self.wanted is not None:
            byte_range = f"bytes={begin}-{self._offset + self.wanted - 1}"
        try:
            answer = get(bucket, key, byte_range=byte_range, etag=self._answer and self._answer.etag)
        except ClientError as error:
            if code_of(error) in BEYOND:
                raise self._short() from error
            if code_of(error) in CHANGED:
                raise DataError(f"{self._uri} was written anew while it was read") from error
            raise
        with answer.stream as stream:
            if byte_range and not answer.content_range.startswith(f"bytes {begin}-{begin + answer.size - 1}/"):
                raise ClusterError(f"the store failed at {self._uri}: its answer is not the range it was asked for")
            self._answer = self._answer or answer
            self.wanted = answer.size if self.wanted is None else self.wanted
            self._take(stream, answer.size)
        if self._data.tell() < self.wanted:
            raise self._short()

    def joined(self) -> bytes:
        """All bytes; for an object that was read whole, checked."""
        data = self._data.getvalue()
        told = self._answer.crc if self._answer and self._whole else None
        if told is not None and told != str(crc32(data)):
            raise DataError(f"{self._uri} is damaged: it does not have the checksum it was written with")
        return data

    def _take(self, stream: Any, size: int) -> None:
        """Take ``size`` bytes; fewer are an error that is tried again."""
        limit = limit_s(self.wanted or 0)
        while size:
            piece = stream.read1(
                min(PIECE_BYTES, size)
            )  # what is there; read() would wait for all, however slowly it comes
            if not piece:
                raise ConnectionError(f"the body broke off {size} bytes before its end")
            size -= self._data.write(piece)
            if size and time.monotonic() > self._began + limit:
                raise TimeoutError(f"{size} bytes had not come after {limit:.0f} s")

    def _short(self) -> DataError:
        return DataError(
            f"{self._uri} ends early: wanted {self.wanted} bytes at {self._offset}, got {self._data.tell()}"
        )
