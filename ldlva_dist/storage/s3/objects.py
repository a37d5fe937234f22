"""Writing, listing and deleting objects."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import IO, Any

from botocore.exceptions import ClientError
from isal.isal_zlib import crc32

from ldlva_dist.errors import ClusterError, DataError
from ldlva_dist.storage.s3.client import S3, attempt, client, split
from ldlva_dist.storage.s3.errors import BEYOND, FAILURES, code_of
from ldlva_dist.storage.s3.get import CRC

PART_BYTES = 16 << 20


def object_size(uri: str) -> int:
    """Bytes of an object."""
    return attempt(uri, lambda: _size(*split(uri)))


def find_size(uri: str) -> int | None:
    """Bytes of an object; None where there is none."""
    try:
        return object_size(uri) if split(uri)[1] else None
    except DataError:
        return None


def object_exists(uri: str) -> bool:
    """Whether there is an object, or a folder with objects in it."""
    ask = {"Bucket": split(uri)[0], "Prefix": _prefix(uri), "MaxKeys": 1}
    return find_size(uri) is not None or "Contents" in attempt(uri, lambda: client().list_objects_v2(**ask))


def list_keys(uri: str) -> list[str]:
    """Names of the objects and folders in a folder, sorted."""
    names, begin = set(), len(_prefix(uri))
    for page in _pages(uri, Delimiter="/"):
        names |= {item["Key"][begin:] for item in page.get("Contents", [])}
        names |= {item["Prefix"][begin:-1] for item in page.get("CommonPrefixes", [])}
    return sorted(names - {""})


def walk(uri: str) -> Iterator[tuple[str, int]]:
    """Names, from the folder ``uri`` on, and sizes of all objects in it and below."""
    begin = len(_prefix(uri))
    for page in _pages(uri):
        yield from ((item["Key"][begin:], item["Size"]) for item in page.get("Contents", []) if item["Key"][begin:])


def object_stamps(uri: str) -> Iterator[tuple[str, str]]:
    """Names, from the folder ``uri`` on, of all objects in it and below, each with its :func:`stamp`."""
    begin = len(_prefix(uri))
    for page in _pages(uri):
        yield from ((item["Key"][begin:], _stamp(item["Size"], item)) for item in page.get("Contents", []))


def object_stamp(uri: str) -> str:
    """What changes when an object is written again: its size, and its ETag or time; "" where there is none."""
    bucket, key = split(uri)
    page = attempt(uri, lambda: client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1))
    return next((_stamp(item["Size"], item) for item in page.get("Contents", []) if item["Key"] == key), "")


def write_object(uri: str, source: IO[bytes], size: int) -> int:
    """Make an object of the next ``size`` bytes of ``source``: it appears whole or not at all. Returns their CRC-32."""
    bucket, key = split(uri)
    begin, crc = source.tell(), 0
    for piece in iter(lambda: source.read(PART_BYTES), b""):
        crc = crc32(piece, crc)
    source.seek(begin)
    place, about = {"Bucket": bucket, "Key": key}, {"Metadata": {CRC: str(crc)}}
    if size <= PART_BYTES:
        data = source.read(size)
        attempt(uri, lambda: client().put_object(**place, **about, Body=data), lambda: size)
        return crc
    upload = place | {"UploadId": attempt(uri, lambda: client().create_multipart_upload(**place, **about)["UploadId"])}
    try:
        parts = [
            {"PartNumber": number, "ETag": _send_part(uri, {**upload, "PartNumber": number}, source.read(PART_BYTES))}
            for number in range(1, -(-size // PART_BYTES) + 1)
        ]
        attempt(uri, lambda: _complete(upload, parts, size), lambda: size)
    except BaseException:
        with suppress(*FAILURES):  # of a store that is gone; parts are invisible, and its own rules end old uploads
            client().abort_multipart_upload(**upload)
        raise
    return crc


def delete_object(uri: str) -> None:
    """Delete an object; nothing happens where there is none."""
    bucket, key = split(uri)
    attempt(uri, lambda: client().delete_object(Bucket=bucket, Key=key))


def delete_objects(uri: str) -> None:
    """Delete all objects of a folder."""
    for page in _pages(uri):
        keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        if keys:
            ask = {"Bucket": split(uri)[0], "Delete": {"Objects": keys, "Quiet": True}}
            errors = attempt(uri, lambda ask=ask: client().delete_objects(**ask)).get("Errors")
            if errors:
                raise ClusterError(f"the store failed at {uri}: {errors[0].get('Message')} ({errors[0]['Key']})")


def _prefix(uri: str) -> str:
    key = split(uri)[1]
    return f"{key}/" if key else ""


def _pages(uri: str, **ask: str) -> Iterator[dict[str, Any]]:
    ask |= {"Bucket": split(uri)[0], "Prefix": _prefix(uri)}
    while True:
        page = attempt(uri, lambda: client().list_objects_v2(**ask))
        yield page
        if not page.get("IsTruncated"):
            return
        token = page.get("NextContinuationToken")
        if not token or token == ask.get("ContinuationToken"):
            raise ClusterError(f"the store failed at {uri}: its list does not end, and does not say where it goes on")
        ask["ContinuationToken"] = token


def _stamp(size: int, about: Mapping[str, Any]) -> str:
    return f"{size}-{about.get('ETag') or about.get('LastModified')}"


def _send_part(uri: str, upload: dict[str, Any], data: bytes) -> str:
    etag = attempt(uri, lambda: client().upload_part(**upload, Body=data).get("ETag"), lambda: len(data))
    if not etag:
        raise ClusterError(f"the store failed at {uri}: it sends no ETag for a part, which larger objects need")
    return etag


def _complete(upload: dict[str, Any], parts: list[dict[str, Any]], size: int) -> None:
    try:
        client().complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    except ClientError as error:
        # The answer to an earlier try may have been lost.
        place = {"bucket": upload["Bucket"], "key": upload["Key"]}
        if code_of(error) != "NoSuchUpload" or _size(**place) != size:
            raise


def _size(bucket: str, key: str) -> int:
    """By the first byte, because what a store answers to HEAD does not say why it refused."""
    try:
        answer = client().get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
    except ClientError as error:
        if code_of(error) in BEYOND:
            return 0
        raise
    with answer["Body"] as stream:
        if "ContentRange" not in answer:  # it knows no ranges, and sends everything: closed unread
            return answer["ContentLength"]
        stream.read()
    total = answer["ContentRange"].rpartition("/")[2]
    if not total.isdecimal():
        raise ClusterError(f"the store failed at {S3}{bucket}/{key}: it does not say how large the object is")
    return int(total)
