"""The cluster a process works on: the one that RAY_ADDRESS names, or one of its own on this machine."""

import atexit
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ldlva_dist.errors import ClusterError, SettingError
from ldlva_dist.runtime.head_watch import watch_head
from ldlva_dist.runtime.own_cluster import start_cluster
from ldlva_dist.storage.reachable import is_loopback, split_address, why_unreachable

HEAD_S = 20.0
"""How long a head on a busy machine may take to say that it is one."""
LOCAL = "local"
"""Ray's word for a cluster of this process's own."""


def connect(preload: Callable[[], object] = lambda: None, *, trials: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names (a submitted job has it), or start one on this machine.

    One that is started here has Ray's dashboard only for ``trials`` of Tune: Ray Train's cleaner, which frees the
    workers of a stopped trial, asks it who is alive. It is several processes, a good part of what a start costs.

    A cluster that loses its head ends a connected job (head_watch.py).
    Never joins a cluster it merely finds: on a shared host that is a stranger's. A process that is connected stays so.
    A SIGTERM (``ray job stop`` sends one) ends a connected job as a Ctrl-C does; Ray's own handler would abort it.

    Args:
        preload: Imports what this process and the workers need, while Ray starts. Workers of a cluster that is started
            here find it imported, so it loads nothing that a fork would break, such as CUDA.
        trials: Whether Tune's trials will run.

    Raises:
        SettingError: for a RAY_ADDRESS that is no HOST:PORT; what it merely would have to find (auto) is none either.
        ClusterError: if no head answers there, or Ray does not start.
    """
    if "ray" in sys.modules and import_module("ray").is_initialized():
        return
    # Ray's own default is nice 15: beside any busy process its workers would look hung.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A run is some ten processes however few the cores; Ray warns at four times this number of them.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    # Answers of a bank shard are often above Ray's 100 KiB; in the object store one costs 1.4 ms of CPU more.
    os.environ.setdefault("RAY_max_direct_call_object_size", str(256 << 10))
    # Calls that wait for an actor are tried again when it is lost; Ray would print those whose run has ended, too.
    os.environ.setdefault("RAY_enable_output_error_log_if_still_retry", "0")
    # Tune's own tables and tracebacks: the jobs print one line for each evaluation and a table at the end.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    named = os.environ.get("RAY_ADDRESS") or LOCAL
    if named == LOCAL:
        # Nobody takes nodes of this cluster away; Ray Train's watcher for that is a process of its own for every run.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's own default where a cluster is started
        with _inherited_address(_reserve_address()):
            cluster = start_cluster(preload, dashboard=trials)
        atexit.register(cluster.stop)
        _init(cluster.address, "Ray did not start on this machine")
        atexit.register(import_module("ray").shutdown)  # before the node is taken away
    else:
        environment = {"env_vars": {"RAY_ADDRESS": _head_at(named)}}
        _init(named, f"RAY_ADDRESS={named}: Ray could not join", runtime_env=environment)
        watch_head(named)
        preload()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def why_no_head(address: str) -> str | None:
    """The reason why no Ray head takes this process in at ``host:port``; None where one does."""
    import grpc  # slow to import, and not needed where a cluster is started
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # pyright: ignore[reportAttributeAccessIssue]
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
    from ray.exceptions import AuthenticationError

    why = why_unreachable(address)
    if why:
        return why
    channel = init_grpc_channel(address, options=[("grpc.enable_http_proxy", 0)])  # sends the token, if there is one
    try:
        NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=HEAD_S, wait_for_ready=True)
    except AuthenticationError as error:  # there is no token, where one is asked for
        return f"the one at {address} cannot be asked: {str(error).splitlines()[0]}"
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return f"the one at {address} refuses the token in use (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)"
        return f"what listens at {address} does not answer as one does"
    finally:
        channel.close()
    return None


def _init(named: str, failure: str, **options: Any) -> None:
    """Start Ray, or join it, so that its processes know where.

    Ray Train's cleaner, which frees the workers of a stopped trial, looks for its cluster by itself: on a host with a
    second cluster it finds both, gives up, and the next trial waits for ever.
    """
    import ray  # slow, and imported while a node starts
    from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]

    Config.initialize("")  # Ray's core may have been imported before the environment was set
    try:
        ray.init(address=named, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # what Ray's start raises is often nothing but an Exception
        said = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ClusterError(f"{failure}: {said} (python jobs/doctor.py says what is wrong here)") from error


@contextmanager
def _inherited_address(address: str) -> Iterator[None]:
    """Let the cluster that is started inherit its own address.

    In a runtime environment it would make the workers that Ray starts ahead useless: they have none.
    """
    before = os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_ADDRESS"] = address
    try:
        yield
    finally:
        del os.environ["RAY_ADDRESS"]
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


def _reserve_address() -> str:
    """Choose where the local cluster will listen, so that its workers can be told before it exists.

    On loopback, as its workers' collectives are: nobody outside needs it, and not all of its ports ask for the token.
    """
    _take_loopback()
    for collective in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(collective, "lo")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    return f"127.0.0.1:{port}"


def _head_at(address: str) -> str:
    """The address of a head that answers; Ray itself would ask one that is gone for a quarter of an hour."""
    place = split_address(address)
    if "://" in address or not place or not address.isprintable():
        raise SettingError(f"RAY_ADDRESS must be HOST:PORT of a running head, or not set, got {address!r}")
    why = why_no_head(address)
    if why:
        raise ClusterError(f"RAY_ADDRESS must name a running head, but {why}; unset it to start a cluster here")
    if is_loopback(place[0]):
        _take_loopback()
    return address


def _take_loopback() -> None:
    """Let Ray, here and in its processes, take 127.0.0.1 for what it is, and not for the machine's outer address."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    constants: Any = sys.modules.get("ray._private.ray_constants")
    if constants:
        constants.ENABLE_RAY_CLUSTER = False  # what the variable said when Ray was imported
