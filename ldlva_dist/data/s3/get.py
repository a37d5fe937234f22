"""Asking for the bytes of an object: by a signed URL, cheaper than boto3's own call, which explains a refusal."""

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from ldlva_dist.data.s3.client import client

CRC = "ldlva-crc32"
"""Metadata of every object that we wrote."""
VALID_S = 3600


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a store answers before the bytes come."""

    size: int
    """Bytes of this answer."""
    content_range: str
    """"bytes FIRST-LAST/TOTAL"; empty where the whole object was asked for."""
    etag: str
    crc: str | None
    stream: Any
    """The bytes: a urllib3 response, to be closed."""


def get(bucket: str, key: str, *, byte_range: str | None, etag: str | None) -> Answer:
    """Ask for an object or a range ("bytes=0-9") of it, if it still has the etag."""
    store = client()
    url = _signed_url(store, bucket, key, int(time.time() / VALID_S * 2))
    headers = {name: value for name, value in (("Range", byte_range), ("If-Match", etag)) if value}
    answer = _session(store).send(AWSRequest("GET", url, headers, stream_output=True).prepare())
    told = answer.headers
    if answer.status_code in (200, 206) and "Content-Length" in told:
        return Answer(
            size=int(told["Content-Length"]),
            content_range=told.get("Content-Range", ""),
            etag=told["ETag"],
            crc=told.get(f"x-amz-meta-{CRC}"),
            stream=answer.raw,
        )
    answer.raw.close()
    _signed_url.cache_clear()
    ask = {name: value for name, value in (("Range", byte_range), ("IfMatch", etag)) if value}
    called = store.get_object(Bucket=bucket, Key=key, **ask)
    return Answer(
        size=called["ContentLength"],
        content_range=called.get("ContentRange", ""),
        etag=called["ETag"],
        crc=called["Metadata"].get(CRC),
        stream=called["Body"]._raw_stream,
    )


@lru_cache(maxsize=4096)
def _signed_url(store: Any, bucket: str, key: str, half_hour: int) -> str:
    """Good for an hour, used for half of one."""
    return store.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=VALID_S)


@lru_cache(maxsize=8)
def _session(store: Any) -> URLLib3Session:
    """Connections of boto3's kind, with its errors; threads share them."""
    config, certificates = store.meta.config, cast(Any, os.environ.get("AWS_CA_BUNDLE") or True)
    return URLLib3Session(
        verify=certificates,
        proxies=get_environ_proxies(store.meta.endpoint_url),
        timeout=(config.connect_timeout, config.read_timeout),
        max_pool_connections=config.max_pool_connections,
    )
