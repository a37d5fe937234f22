"""The connection to a store: whom it asks, how long it tries, how its failures are named."""

import os
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from tenacity import Retrying, retry_if_exception, wait_random_exponential

from ldlva_dist.errors import SettingError
from ldlva_dist.storage.reachable import split_address
from ldlva_dist.storage.s3.errors import FAILURES, clear_error, is_passing
from ldlva_dist.waits.patience import Patience

S3 = "s3://"
LIMIT_S, LONGEST_LIMIT_S = 120, 10**6
SLOWEST_BYTES_PER_S = 64 << 10
_ENVIRONMENT = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LDLVA_S3_LIMIT_S",
    "LDLVA_S3_ANONYMOUS",
)
_BUILDING = threading.Lock()
T = TypeVar("T")


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of a uri; the key of a bucket itself is empty."""
    bucket, _, key = uri.removeprefix(S3).rstrip("/").partition("/")
    if not bucket:
        raise SettingError(f"a storage address must be s3://bucket/key, got {uri!r}")
    return bucket, key


def client() -> Any:
    """This process's boto3 client for the environment as it is now; threads share it, forks do not."""
    with _BUILDING:  # threads that begin together would each build one, which takes 0.1 s
        return _client(os.getpid(), *(os.environ.get(name) for name in _ENVIRONMENT))


@lru_cache(maxsize=8)
def _client(pid: int, *environment: str | None) -> Any:
    endpoint = environment[0] or environment[1]
    region = environment[2] or environment[3]
    if endpoint and not (endpoint.startswith(("http://", "https://")) and split_address(endpoint)):
        # Not shown: where it cannot be read, nobody can tell what of it is a password.
        raise SettingError("AWS_ENDPOINT_URL must be http://HOST:PORT or https://HOST, got what is no such address")
    settings = Config(
        connect_timeout=limit_s(0) / 12,
        read_timeout=limit_s(0) / 6,
        max_pool_connections=16,
        signature_version=UNSIGNED if is_anonymous() else "s3v4",
        retries={"total_max_attempts": 1, "mode": "standard"},  # attempt alone tries again
        s3={"addressing_style": "path"} if endpoint else None,
        # Stores other than AWS's do not all know the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    import boto3  # not needed where everything is local, and slow to import

    try:
        session = boto3.Session()
        region = region or session.region_name or "us-east-1"
        return session.client("s3", region_name=region, endpoint_url=endpoint or None, config=settings)
    except (BotoCoreError, ValueError) as error:
        raise SettingError(f"the environment must name an S3 store, got: {error}") from error


def is_anonymous() -> bool:
    """Whether requests are to go without a signature, as public buckets take them."""
    told = os.environ.get("LDLVA_S3_ANONYMOUS", "0")
    if told not in ("", "0", "1"):
        raise SettingError(f"LDLVA_S3_ANONYMOUS must be 1 or 0, got {told!r}")
    return told == "1"


def limit_s(size: int) -> float:
    """Seconds that a call for so many bytes may take."""
    told = os.environ.get("LDLVA_S3_LIMIT_S") or LIMIT_S
    try:
        limit = float(told)
    except ValueError:
        limit = 0.0
    if not 0 < limit <= LONGEST_LIMIT_S:
        raise SettingError(f"LDLVA_S3_LIMIT_S must be a number > 0 and <= {LONGEST_LIMIT_S}, got {told!r}")
    return limit + size / SLOWEST_BYTES_PER_S


def attempt(uri: str, action: Callable[[], T], size: Callable[[], int] = lambda: 0) -> T:
    """Do something with a store until it is done, cannot be done, or the limit for so many bytes is over."""
    patience = Patience(limit_s(0))
    trying = Retrying(
        stop=lambda state: (state.seconds_since_start or 0) + state.upcoming_sleep > limit_s(size()),
        before_sleep=lambda _: patience.tell("the store", f"it fails at {uri!r}, and is asked again"),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        retry=retry_if_exception(is_passing),
        reraise=True,
    )
    try:
        return trying(action)
    except FAILURES as error:
        raise clear_error(error, uri, client().meta.endpoint_url) from error
