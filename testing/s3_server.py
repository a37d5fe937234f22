"""A whole S3 store in one process: OpenStack Swift's proxy with s3api, and its account, container and object servers.

Run by ``testing/s3_store.py`` with the interpreter of Swift's own environment: python s3_server.py ROOT PORT.
ROOT keeps the objects, also over kill -9; the inner servers take new ports at every start.
"""

import os
import socket
import sys
from pathlib import Path

import eventlet
import eventlet.patcher
import eventlet.wsgi

eventlet.patcher.monkey_patch()

from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.utils import set_swift_dir  # noqa: E402
from swift.common.wsgi import SwiftHttpProtocol, loadapp  # noqa: E402

HOST = "127.0.0.1"
KINDS = ("account", "container", "object")

SWIFT = """
[swift-hash]
swift_hash_path_prefix = bench
swift_hash_path_suffix = bench
[storage-policy:0]
name = one
default = yes
"""

STORAGE = """
[DEFAULT]
swift_dir = {root}
devices = {root}/devices
mount_check = false
recon_cache_path = {root}
log_level = ERROR
[pipeline:main]
pipeline = server
[app:server]
use = egg:swift#{kind}
"""

# No memcached: tempauth keeps nothing there for requests that are signed as S3's are.
PROXY = """
[DEFAULT]
swift_dir = {root}
log_level = ERROR
[pipeline:main]
pipeline = healthcheck bulk s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
check_bucket_owner = false
[filter:tempauth]
use = egg:swift#tempauth
user_bench_writer = bench-secret .admin
user_bench_stranger = stranger-secret
[filter:slo]
use = egg:swift#slo
"""


def main(root: Path, port: int) -> None:
    """Serve until killed."""
    (root / "devices" / "d1").mkdir(parents=True, exist_ok=True)
    (root / "swift.conf").write_text(SWIFT)
    set_swift_dir(str(root))
    listening = {kind: eventlet.listen((HOST, 0)) for kind in KINDS}
    for kind, listener in listening.items():
        _write_ring(root / f"{kind}.ring.gz", listener.getsockname()[1])
        (root / f"{kind}.conf").write_text(STORAGE.format(root=root, kind=kind))
    (root / "proxy.conf").write_text(PROXY.format(root=root))
    listening["proxy"] = eventlet.listen((HOST, port))
    serving = [eventlet.spawn(_serve, root / f"{kind}.conf", listener) for kind, listener in listening.items()]
    eventlet.spawn(_end_with_parent, os.getppid())
    for server in reversed(serving):  # the proxy's first: it is what can fail at the start
        server.wait()


def _serve(settings: Path, listener: socket.socket) -> None:
    app = loadapp(str(settings), global_conf={"log_name": settings.stem})
    # AWS's SDKs want the header ETag, not Etag.
    eventlet.wsgi.server(listener, app, protocol=SwiftHttpProtocol, log_output=False, capitalize_response_headers=False)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        eventlet.sleep(1)
    os._exit(0)


def _write_ring(path: Path, port: int) -> None:
    """One device holds everything."""
    builder = RingBuilder(4, 1, 0)
    where = {"ip": HOST, "port": port, "replication_ip": HOST, "replication_port": port}
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "device": "d1", "weight": 1, "meta": "", **where})
    builder.rebalance(seed=0)
    builder.get_ring().save(str(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
