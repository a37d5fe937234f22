"""Ports of a cluster that a job starts for itself."""

import ipaddress
import json
import subprocess
import sys

START = """
import json
import psutil
import ray
from ldlva_dist.runtime.connect import connect

connect()
ray.get(ray.remote(lambda: None).remote())  # a worker process, too
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
places = [
    (process.name(), connection.laddr.ip)
    for process in family
    for connection in process.net_connections(kind="inet")
    if connection.status == psutil.CONN_LISTEN
]
ray.shutdown()
print(json.dumps(places))
"""


def test_every_port_of_a_jobs_own_cluster_is_on_the_loopback() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, timeout=180, check=True)
    places = json.loads(done.stdout.splitlines()[-1])
    assert {"gcs_server", "raylet"} <= {name for name, _ in places}
    outside = [(name, ip) for name, ip in places if not ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback]
    assert not outside
