"""A cluster of a job's own on this machine: its node starts while the job imports, its workers are forks of the job."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import IO

from ldlva_dist.errors import ClusterError
from ldlva_dist.runtime import fork_server, start_worker

STOP_LIMIT_S = 60.0
ALONE = "ldlva-alone"
"""Label of the node: no other process knows of this cluster, so no other node will join it."""


@dataclass(frozen=True, kw_only=True)
class OwnCluster:
    """A node of one machine, and the server of its workers; both end with this process, however it ends."""

    address: str
    node: subprocess.Popen[str]
    fork_server: int | None
    """Descriptor that the server of the workers lives by; None where each worker imports for itself."""

    def stop(self) -> None:
        """Take the node away, and all that runs on it."""
        assert self.node.stdin
        self.node.stdin.close()
        self.node.wait(STOP_LIMIT_S)
        if self.fork_server is not None:
            os.close(self.fork_server)


def start_cluster(preload: Callable[[], object], *, dashboard: bool) -> OwnCluster:
    """Start a node; :func:`preload` imports meanwhile what this process and its workers need.

    Raises:
        ClusterError: where the node does not start.
    """
    name = f"ldlva-{uuid.uuid4().hex}"
    listener = fork_server.listen(name)
    command = [sys.executable, "-m", "ldlva_dist.runtime.local_node", json.dumps({"dashboard": dashboard})]
    node = subprocess.Popen(
        command,
        env={**os.environ, start_worker.ADDRESS: name},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C is for the job
    )
    assert node.stdin
    assert node.stdout
    is_first = "ray" not in sys.modules
    with fork_server.as_worker_of(node.pid):
        import_module("ray._private.workers.default_worker")
        preload()
    hold = None
    if is_first and fork_server.can_fork():
        hold = fork_server.start_server(listener, close=(node.stdin, node.stdout))
    listener.close()
    answer = _answer(node.stdout)
    if "address" not in answer:
        raise ClusterError(
            f"Ray did not start on this machine: {answer['error']} (python jobs/doctor.py says what is wrong here)"
        )
    return OwnCluster(address=answer["address"], node=node, fork_server=hold)


def _answer(said: IO[str]) -> dict[str, str]:
    line = said.readline()
    return json.loads(line) if line else {"error": "its process ended"}
