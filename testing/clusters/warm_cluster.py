"""A local cluster for many tests, whose workers start warm: see warm_workers.py."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private.node import Node
from ray._private.parameter import RayParams

from testing.clusters import warm_workers

END_LIMIT_S = 60


@contextmanager
def warm_cluster() -> Iterator[None]:
    """One node of four CPUs to which this process is connected; gone after the block."""
    with tempfile.TemporaryDirectory(prefix="ldlva-") as folder:  # a socket's path must be short
        os.environ[warm_workers.ADDRESS] = f"{folder}/socket"
        parameters = RayParams(
            num_cpus=4,
            include_dashboard=False,
            include_log_monitor=False,  # pyright: ignore[reportArgumentType]
            object_store_memory=500 * 2**20,
            setup_worker_path=warm_workers.__file__,
            _system_config={"prestart_worker_first_driver": False},  # pyright: ignore[reportArgumentType]
        )
        node = Node(parameters, head=True, shutdown_at_exit=True, spawn_reaper=True)
        try:
            ray.init(address=node.address, log_to_driver=False)
            with _server(f"{folder}/socket", node):
                yield
        finally:
            ray.shutdown()
            node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)
            del os.environ[warm_workers.ADDRESS]


@contextmanager
def _server(address: str, node: Node) -> Iterator[None]:
    """Serve the workers of this process's job."""
    own = (ray.get_runtime_context().get_job_id(), str(node.all_processes["raylet"][0].process.pid))
    environment = os.environ | dict(zip(warm_workers.OF_THE_CORE, own, strict=True)) | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, warm_workers.__file__, address],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        yield
    finally:
        server.kill()
        server.communicate(timeout=END_LIMIT_S)
