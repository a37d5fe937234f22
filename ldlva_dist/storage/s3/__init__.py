"""An S3 store: ranged reads that resume, uploads complete or not at all, one clear sentence for each failure.

boto3 and not pyarrow.fs, whose client cannot resume a body that broke off, abort an upload, or be held to a limit.
Credentials come from boto3's chain (environment, profile, instance); the endpoint from AWS_ENDPOINT_URL_S3 or
AWS_ENDPOINT_URL (then path-style), the region from AWS_REGION, AWS_DEFAULT_REGION or the profile. With
LDLVA_S3_ANONYMOUS=1 requests go without a signature, as public buckets take them.

Limits: every call is tried again, with back-off, for LDLVA_S3_LIMIT_S seconds (120), and one more for each 64 KB of its
size. A try waits a twelfth of the limit for a connection and a sixth for the next bytes (10 s, 20 s); the last try may
come on top.

Memory: a reader holds the bytes it asked for, while they come up to an eighth more; a writer one part of 16 MB.
"""

from ldlva_dist.storage.s3.body import read
from ldlva_dist.storage.s3.client import S3, split
from ldlva_dist.storage.s3.objects import (
    delete_object,
    delete_objects,
    find_size,
    list_keys,
    object_exists,
    object_size,
    object_stamp,
    object_stamps,
    walk,
    write_object,
)
from ldlva_dist.storage.s3.single import create_object, object_times, touch_object

__all__ = [
    "S3",
    "create_object",
    "delete_object",
    "delete_objects",
    "find_size",
    "list_keys",
    "object_exists",
    "object_size",
    "object_stamp",
    "object_stamps",
    "object_times",
    "read",
    "split",
    "touch_object",
    "walk",
    "write_object",
]
