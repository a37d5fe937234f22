"""Small objects of which there is to be one: made where there is none, renewed, and how old they are."""

from email.utils import parsedate_to_datetime

from botocore.exceptions import ClientError

from ldlva_dist.storage.s3.client import attempt, client, split
from ldlva_dist.storage.s3.errors import CHANGED, code_of

TAKEN = (*CHANGED, "ConditionalRequestConflict", "409")
"""Codes of stores for an object that is there already, or that somebody else is making."""
UNKNOWN = ("NotImplemented", "501")


def create_object(uri: str, data: bytes) -> None:
    """Make an object where there is none; a store that knows no such condition makes it all the same."""
    bucket, key = split(uri)

    def put() -> None:
        try:
            client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if code_of(error) in UNKNOWN:
                client().put_object(Bucket=bucket, Key=key, Body=data)
            elif code_of(error) not in TAKEN:
                raise

    attempt(uri, put)


def touch_object(uri: str) -> None:
    """Let an object count as written now: it is copied onto itself by the store."""
    bucket, key = split(uri)
    place = {"Bucket": bucket, "Key": key}
    attempt(uri, lambda: client().copy_object(**place, CopySource=place, MetadataDirective="REPLACE"))


def object_times(uri: str) -> tuple[float, float]:
    """When an object was written last, and what time it is now, by the store's clock, which counts whole seconds."""
    bucket, key = split(uri)
    answer = attempt(uri, lambda: client().head_object(Bucket=bucket, Key=key))
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return answer["LastModified"].timestamp(), now.timestamp()
