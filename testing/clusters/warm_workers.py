"""Ray workers that are forked from one process, in which all that they import is imported once.

A worker that Ray starts imports Ray, torch and DeepSpeed for up to five seconds of CPU; a run starts a dozen of them,
and the tests some hundred. A node with ``setup_worker_path`` of this file starts its workers by it: it asks the server,
a process without threads, which forks one that goes on as the worker. Ray's core reads the job's id from the
environment when it is imported, so a server is for one job of one node; workers of another job, and those whose runtime
environment is ``COLD``, start as Ray starts them.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ADDRESS, COLD_WORKER = "LDLVA_WARM_WORKERS", "LDLVA_COLD_WORKER"
COLD: dict[str, Any] = {"env_vars": {COLD_WORKER: "1"}}
"""The runtime environment of a worker that imports for itself."""
OF_THE_CORE = ("RAY_JOB_ID", "RAY_RAYLET_PID")
CONTEXT = "--serialized-runtime-env-context="
MODULES = (
    "ray._private.workers.default_worker",
    "ray._private.arrow_serialization",
    "ray.autoscaler.sdk.sdk",
    "ray.data._internal.issue_detection.issue_detector_configuration",
    "ray.data._internal.logical.optimizers",
    "ray.data._internal.planner.planner",
    "ray.data.extensions",
    "pyarrow.json",
    "pydantic.v1",
    "starlette.datastructures",
    "deepspeed.ops",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "ldlva_dist.inference.batch",
    "ldlva_dist.packing.passes.pack",
    "ldlva_dist.packing.sources.drawn_faces.faces",
    "ldlva_dist.records.trackers.tensorboard",
    "ldlva_dist.run.sweep",
    "ldlva_dist.training.worker",
)
"""What the workers of runs and packings import, by ``-X importtime`` of the server."""
NO_DASHBOARD = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}
"""A run's placement group is watched by an actor of Ray Train that asks a dashboard whether the run's controller lives.
Where the cluster has none it would ask the cluster that was started last on this machine, and end the run."""
LIMIT_S, BYTES = 120, 1 << 20


def serve(address: str) -> None:
    """Fork a worker for each request, for as long as the process that started this one is there."""
    parent, ready = os.getppid(), os.dup(1)
    os.dup2(2, 1)  # DeepSpeed warns at its import
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in MODULES:
        __import__(module)
    names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert len(names - {"jemalloc_bg_thd"}) == 1, f"a fork copies no threads, and only jemalloc minds: {names}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    listener.settimeout(1)
    os.write(ready, b"ready\n")
    os.close(ready)
    while os.getppid() == parent:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        with suppress(TimeoutError):
            request, _ = listener.accept()
            with request:
                _answer(listener, request)


def _answer(listener: socket.socket, request: socket.socket) -> None:
    """Fork a worker and say 1, or say 0 where it is of another job."""
    text, files, *_ = socket.recv_fds(request, BYTES, 3)
    arguments, environment, folder = json.loads(text)
    ours = all(os.environ.get(name) == environment.get(name) for name in OF_THE_CORE)
    if ours and os.fork() == 0:
        listener.close()
        request.close()
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        _work(arguments, environment, folder)
    for file in files:
        os.close(file)
    request.send(b"1" if ours else b"0")


def _work(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be the worker, as one that Ray starts in that environment would be."""
    os.setpgrp()  # Ray ends a worker with its group
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
        os._exit(0)


def start(arguments: list[str]) -> None:
    """What Ray runs to start a worker: let the server fork it, or start it as Ray does."""
    context = next((json.loads(text.removeprefix(CONTEXT)) for text in arguments if text.startswith(CONTEXT)), {})
    os.environ |= NO_DASHBOARD
    environment = dict(os.environ) | context.get("env_vars", {})
    if COLD_WORKER in environment or context.get("command_prefix") or not _is_forked(arguments, environment):
        import ray._private.workers as workers

        os.execv(sys.executable, [sys.executable, str(Path(workers.__file__).with_name("setup_worker.py")), *arguments])


def _is_forked(arguments: list[str], environment: dict[str, str]) -> bool:
    worker = [text for text in arguments if not text.startswith((CONTEXT, "--language="))]
    with socket.socket(socket.AF_UNIX) as server, suppress(FileNotFoundError, ConnectionRefusedError):
        server.settimeout(LIMIT_S)
        server.connect(environment[ADDRESS])
        socket.send_fds(server, [json.dumps([worker, environment, os.getcwd()]).encode()], [0, 1, 2])
        return server.recv(1) == b"1"
    return False


if __name__ == "__main__":
    sys.path.pop(0)  # this folder is no place to import from
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        start(sys.argv[1:])
