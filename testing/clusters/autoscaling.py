"""A cluster that begins without workers: Ray's autoscaler starts nodes here, of CPUs and GPUs that it is told of.

Made as ``ray.cluster_utils.AutoscalingCluster`` makes one, which cannot be used: the wheel lacks the file that it
reads, and it begins and ends with ``ray stop --force``, which ends every cluster on the machine.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)
from ray.autoscaler._private.providers import MINIMAL_EXTERNAL_CONFIG

RAY = Path(sys.executable).with_name("ray")
START_LIMIT_S, END_LIMIT_S = 120, 20


@contextmanager
def autoscaling_cluster(node_types: dict[str, dict[str, Any]], *, idle_s: float = 60.0) -> Iterator[dict[str, str]]:
    """Variables by which a process joins a head without CPUs, and with this autoscaler; gone after the block.

    Args:
        node_types: Ray's ``available_node_types`` beside the head.
        idle_s: Seconds without work after which a node is taken away.
    """
    # Sockets lie under the folder, and their paths must be short.
    with TemporaryDirectory(prefix="ldlva-grow-", ignore_cleanup_errors=True) as folder:
        gcs, dashboard, agent, client = _free_ports(4)
        address, token = f"127.0.0.1:{gcs}", Path(folder) / "token"
        token.write_text(secrets.token_hex(16))
        config = Path(folder) / "autoscaling.json"
        config.write_text(json.dumps(_autoscaling_config(node_types, address, idle_s)))
        joining = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_worker_niceness": "0"}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= joining | {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }
        options = ["--head", "--block", "--disable-usage-stats", "--num-cpus=0", "--num-gpus=0"]
        options += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--autoscaling-config={config}"]
        options += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder}/ray"]
        options += [f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0"]
        options += [f"--ray-client-server-port={client}", "--object-store-memory=100000000"]
        log = Path(folder) / "head.log"
        with log.open("w") as output:
            head = subprocess.Popen(
                [str(RAY), "start", *options], env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            _wait_until_started(head, log)
            yield joining | {"RAY_ADDRESS": address}
        finally:
            _end(head, folder)


def _autoscaling_config(node_types: dict[str, dict[str, Any]], address: str, idle_s: float) -> dict[str, Any]:
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    provider = {
        "type": "external",  # as "fake_multinode" Ray would look for defaults in the file that its wheel lacks
        "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
        "gcs_address": address,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "launch_multiple": True,
    }
    return {
        **MINIMAL_EXTERNAL_CONFIG,
        **{f"{when}setup_commands": [] for when in ("", "head_", "worker_")},
        "cluster_name": "growing",
        "max_workers": 16,
        "upscaling_speed": 16.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": provider,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: head,
            **{name: {"node_config": {}, **each} for name, each in node_types.items()},
        },
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "cluster_synced_files": [],
    }


def _wait_until_started(head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while "Ray runtime started" not in log.read_text():
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _end(head: subprocess.Popen[bytes], folder: str) -> None:
    """End the head, then the nodes that the autoscaler started, which are children of nobody by then."""
    head.terminate()
    with suppress(subprocess.TimeoutExpired):
        head.wait(END_LIMIT_S)
    for process in psutil.process_iter(["cmdline"]):
        if folder in " ".join(process.info["cmdline"] or ()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    head.kill()
    head.wait(END_LIMIT_S)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
