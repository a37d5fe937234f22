"""A folder or bucket tried as a run uses it: connect, write, read back, list, delete; what fails has its own cure."""

import os
import time
import uuid
from urllib.parse import urlsplit
from urllib.request import getproxies

from ldlva_dist import storage
from ldlva_dist.doctor.finding import Finding, Look
from ldlva_dist.errors import ClusterError, LdlvaError
from ldlva_dist.storage.reachable import why_unreachable

PROBE_BYTES = 4 << 20
LOW_BYTES = 5e9


def look_at_store(uri: str) -> Look:
    """What is well with it, or the first thing that is not."""
    findings: list[Finding] = []
    try:
        findings += _look_at_store(uri) if storage.is_remote(uri) else [_look_at_folder(uri)]
        if all(finding.level == "ok" for finding in findings):
            findings.append(_try(uri))
    except LdlvaError as error:
        findings.append(_problem("write and read", str(error), cure=_cure(uri, error)))
    return Look(findings=tuple(findings), facts={"local": not storage.is_remote(uri), "uri": uri})


def _look_at_folder(uri: str) -> Finding:
    storage.check_writable(uri)
    total, free = storage.disk_of(uri) or (0, 0)
    said = f"{free / 1e9:.0f} of {total / 1e9:.0f} GB free for {uri}"
    if free < LOW_BYTES:
        return Finding(
            area="storage", check="free space", level="warning", found=said, cure="free some of it, or another folder"
        )
    return _ok("free space", said)


def _look_at_store(uri: str) -> list[Finding]:
    """Endpoint and credentials, before anything is asked of the bucket."""
    import boto3

    from ldlva_dist.storage.s3.client import client, is_anonymous

    endpoint, region = client().meta.endpoint_url, client().meta.region_name
    credentials = boto3.Session().get_credentials()
    if is_anonymous():
        who = _ok("credentials", "none are used: LDLVA_S3_ANONYMOUS=1")
    elif credentials is None:
        who = _problem(
            "credentials",
            "there are none: no environment variables, no profile, no role of this machine",
            cure="export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket that is only "
            "read LDLVA_S3_ANONYMOUS=1",
        )
    else:
        who = _ok("credentials", f"found: {credentials.method}")
    return [_connect(endpoint, region), who]


def _connect(endpoint: str, region: str) -> Finding:
    """Whether somebody listens at the endpoint; behind a proxy only the proxy could tell."""
    url = urlsplit(endpoint)
    said = f"{endpoint}, region {region}"
    if url.scheme in getproxies():
        proxy = getproxies()[url.scheme].rpartition("@")[2]  # a proxy's address may have a password, and no scheme
        return _ok("endpoint", f"{said}, through {proxy}")
    why = why_unreachable(endpoint)
    if why:
        return _problem(
            "endpoint", why, cure=f"start the store, open its port, or correct the address: {_endpoint_cure()}"
        )
    return _ok("endpoint", said)


def _endpoint_cure() -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    used = next((name for name in names if os.environ.get(name)), None)
    return f"{used} is {os.environ[used]!r}" if used else "export AWS_ENDPOINT_URL=http://HOST:PORT (none is set)"


def _try(uri: str) -> Finding:
    """Write, read back, list and delete; in a folder that does not exist yet, where it would be made."""
    place = uri if storage.is_remote(uri) else storage.nearest_folder(uri)
    probe, data = storage.join(place, f".doctor-{uuid.uuid4().hex[:8]}"), os.urandom(PROBE_BYTES)
    began = time.monotonic()
    try:
        storage.write_bytes(probe, data)
        wrote = time.monotonic()
        same = storage.read_bytes(probe) == data
        read = time.monotonic()
        listed = probe.rpartition("/")[2] in storage.list_folder(place)
    finally:
        storage.delete_file(probe)
    if not same or not listed:
        what = "what was written did not come back" if not same else "what was written is not listed"
        return _problem("write and read", f"{what}, at {place}", cure="no run is safe there: choose another store")
    speeds = [PROBE_BYTES / 1e6 / max(seconds, 1e-6) for seconds in (wrote - began, read - wrote)]
    return _ok("write and read", f"{uri}: {speeds[0]:,.0f} MB/s to write, {speeds[1]:,.0f} to read, listed, deleted")


def _cure(uri: str, error: LdlvaError) -> str:
    if not storage.is_remote(uri):
        return "a folder that this user can write: mkdir -p, chown, or another one"
    if isinstance(error, ClusterError):
        return f"is the store up, and reachable from here? {_endpoint_cure()}"
    return (
        f"make the bucket (aws s3 mb s3://{uri.removeprefix('s3://').split('/')[0]}) or name one that exists; the key "
        "must be allowed to list, get, put and delete"
    )


def _ok(check: str, found: str) -> Finding:
    return Finding(area="storage", check=check, level="ok", found=found)


def _problem(check: str, found: str, *, cure: str) -> Finding:
    return Finding(area="storage", check=check, level="problem", found=found, cure=cure)
