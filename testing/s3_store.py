"""What tests/s3 and the benchmarks share: a real S3 store on this machine, and a proxy that breaks what it is told to.

Both are processes of their own on free ports, ended by their pid; they end by themselves when who started them is gone.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent
SWIFT_PYTHON = HERE.parent / ".venv-swift" / "bin" / "python"
START_LIMIT_S = 60
STRANGER = {"AWS_ACCESS_KEY_ID": "bench:stranger", "AWS_SECRET_ACCESS_KEY": "stranger-secret"}
"""Known to the store, and allowed nothing."""


class Server:
    """A process that answers on a port of this machine, until the ``with`` block ends."""

    def __init__(self, command: list[str], log: Path, alive: str) -> None:
        """Start it: ``command`` with PORT in the place of the port; ``alive`` is a path that it answers."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self._command, self._log, self._alive = [part.replace("PORT", str(port)) for part in command], log, alive
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Start, again if need be, on the same port, with what was kept."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self._command[1]} did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Of the process as it runs now."""
        return self._process.pid

    def kill(self) -> None:
        """End the process at once, as kill -9 does."""
        self._process.kill()
        self._process.wait(timeout=10)

    def call(self, path: str, value: Any = None) -> Any:
        """GET a path, or PUT a JSON value; its answer."""
        data = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(self.endpoint + path, data, method="PUT" if data else "GET")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def _answers(self) -> bool:
        try:
            self.call(self._alive)
        except (urllib.error.URLError, ConnectionError):
            return False
        return True


class Swift(Server):
    """OpenStack Swift with s3api; it keeps its objects in a folder, also over kill()."""

    def __init__(self, folder: Path) -> None:
        if not SWIFT_PYTHON.exists():
            raise RuntimeError(f"Swift is not installed in {SWIFT_PYTHON.parents[1].name}: run `make store`")
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(SWIFT_PYTHON), "-W", "ignore", str(HERE / "s3_server.py"), str(folder), "PORT"]
        super().__init__(command, folder / "log", "/healthcheck")


class FaultProxy(Server):
    """Between a client and ``store``; see fault_proxy.py for what a fault is."""

    def __init__(self, store: Server, log: Path) -> None:
        super().__init__([sys.executable, str(HERE / "fault_proxy.py"), "PORT", store.endpoint], log, "/-/requests")

    def set(self, *faults: dict[str, Any]) -> None:
        """From now on these faults, and no others."""
        self.call("/-/faults", list(faults))

    def requests(self) -> list[dict[str, Any]]:
        """The requests since the faults were set: method, path, range, fault."""
        return json.loads(self.call("/-/requests"))


def use_store(endpoint: str, **others: str) -> None:
    """Point this process, and those it starts, to the store; ``others`` are further variables of the environment."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        os.environ.pop(name, None)
    os.environ |= {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "bench:writer",
        "AWS_SECRET_ACCESS_KEY": "bench-secret",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        **others,
    }
