"""What the failures of an S3 store mean: worth another try, the user's to correct, or the store's."""

import socket
from datetime import UTC, datetime

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError, NameResolutionError

from ldlva_dist.errors import ClusterError, DataError, LdlvaError, SettingError

FAILURES = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)
"""Everything that boto3 and its connections raise."""

BEYOND = ("InvalidRange", "416")
"""Codes of a store for a range that begins behind the end."""
CHANGED = ("PreconditionFailed", "412")
"""... and an object that is another one than was asked for."""
_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, MetadataRetrievalError)
_MISSING = {"NoSuchKey", "NotFound", "404"}
_GARBLED = {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"}
_OTHER_TIME = "RequestTimeTooSkewed"
_REFUSED = {
    "401",
    "403",
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}


def code_of(error: BaseException) -> str | None:
    """What the store calls it; None where no store answered."""
    return error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None


def is_passing(error: BaseException) -> bool:
    """Whether asking again may help."""
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status >= 500 or status == 429 or code_of(error) in _GARBLED
    if isinstance(error, BotoCoreError):
        passing = (ConnectionError, HTTPClientError, IncompleteReadError, CredentialRetrievalError)
        return isinstance(error, passing) and _unresolved(error) in (None, socket.EAI_AGAIN)
    return isinstance(error, FAILURES) and _unresolved(error) in (None, socket.EAI_AGAIN)


def clear_error(error: BaseException, uri: str, endpoint: str) -> LdlvaError:
    """The one sentence for a failure that was not got over."""
    code = code_of(error)
    if code in _MISSING:
        return DataError(f"there is no file {uri}")
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return SettingError(f"a storage address must name a bucket that exists, got {uri}: {endpoint} has none such")
    if isinstance(error, NoCredentialsError):
        return SettingError(
            f"there must be credentials for {uri} (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, a role), "
            "or LDLVA_S3_ANONYMOUS=1 for a public bucket, got none"
        )
    if code == _OTHER_TIME:
        return SettingError(
            f"the clock of {socket.gethostname()} must tell the time of the store at {endpoint} to some minutes, "
            f"got {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC at {uri}: {_reason(error)}"
        )
    if code in _REFUSED or isinstance(error, _CREDENTIALS):
        return SettingError(f"the credentials in use must allow access to {uri}, {endpoint} refused: {_reason(error)}")
    if _unresolved(error) is not None:
        return SettingError(f"the endpoint of {uri} must have a name that can be resolved, got {endpoint}")
    return ClusterError(f"the store failed at {uri}: {_reason(error)} (asked at {endpoint})")


def _unresolved(error: BaseException) -> int | None:
    """The resolver's error number, if the endpoint's name was not resolved."""
    inner = error.kwargs.get("error") if isinstance(error, BotoCoreError) else error
    cause = inner.__cause__ if isinstance(inner, NameResolutionError) else None
    return cause.errno if isinstance(cause, OSError) else None


def _reason(error: BaseException) -> str:
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return f"{told.get('Code')}: {told.get('Message') or 'no message'}"
    return (str(error) or type(error).__name__).splitlines()[0]
