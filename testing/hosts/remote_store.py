"""The store of the hosts: Swift on a host of its own, behind a proxy that breaks what it is told to."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from testing.hosts.spaces import Host, wait_for
from testing.s3_store import SWIFT_PYTHON

PORT, BEHIND = 8080, 8081
START_LIMIT_S = 60.0
SCRIPTS = Path(__file__).parents[1]
METHODS = ("GET", "PUT", "HEAD", "POST", "DELETE")
SLOW = tuple({"kind": "latency", "method": method, "seconds": 0.05, "times": -1} for method in METHODS)
"""Every answer 50 ms later."""


class RemoteStore:
    """Swift on a host; it keeps its objects on the host's disk."""

    def __init__(self, host: Host, log: Path) -> None:
        """Start it, and wait until it answers."""
        self.host, self.endpoint = host, f"http://{host.address}:{PORT}"
        environment = {"HOME": "/tmp/home", "LANG": "C.UTF-8"}
        swift = [str(SWIFT_PYTHON), "-W", "ignore", str(SCRIPTS / "s3_server.py"), "/tmp/objects", str(BEHIND)]
        proxy = [sys.executable, str(SCRIPTS / "fault_proxy.py"), str(PORT), f"http://127.0.0.1:{BEHIND}", host.address]
        with open(log, "ab") as output:
            for command in (swift, proxy):
                host.popen(command, environment, output)
        wait_for(self._answers, "answer of the store", START_LIMIT_S)

    def set_faults(self, *faults: dict[str, Any]) -> None:
        """From now on these, and no others; see testing/fault_proxy.py."""
        self._call("/-/faults", list(faults))

    def fill(self) -> None:
        """Leave no room on its disk."""
        ballast = self.host.disk() / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
            except OSError:
                return

    def empty(self) -> None:
        """Make room again."""
        (self.host.disk() / "ballast").unlink()

    def _answers(self) -> bool:
        try:
            self._call("/healthcheck")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def _call(self, path: str, value: Any = None) -> None:
        data = None if value is None else json.dumps(value).encode()
        asked = urllib.request.Request(self.endpoint + path, data, method="PUT" if data else "GET")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with self.host.network(), opener.open(asked, timeout=10) as answer:
            answer.read()
