"""Serve a trained network: python cluster/serve.py --model RUN.

    curl --data-binary @face.jpg http://127.0.0.1:8000/predict
    curl http://127.0.0.1:8000/health

Needs the extra [serve]. Listens on this machine only unless --host says otherwise: the endpoint asks nobody for a
password, so put what does (an ingress, a proxy) before it. Ctrl-C ends it. On Kubernetes: cluster/rayservice.yaml.
"""

import os
import sys
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from socket import socket
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError, SettingError
from ldlva_dist.inference.face_model import FaceModel
from ldlva_dist.inference.trained import read_model
from ldlva_dist.records.console import say
from ldlva_dist.reporting.terminal import print_error, run_job
from ldlva_dist.runtime import placement
from ldlva_dist.values.settings import Range, Seconds, check_options

try:
    from ray import serve
    from ray.serve.exceptions import RayServeException
    from ray.serve.handle import DeploymentHandle

    from ldlva_dist.inference.endpoint import HEALTH, ROUTE, Endpoint, ServeSettings
    from ldlva_dist.inference.server import Server, listener
    from ldlva_dist.inference.service import app, asking, check_service_fits
except ImportError as error:
    print_error(f"cluster/serve.py needs {error.name}: pip install '.[serve]'")
    sys.exit(SettingError.exit_code)

APPLICATION = "ldlva"
POLL_S = 0.1
ANSWER_GRACE_S = 2.0
"""Of service.SHUTDOWN_GRACE_S, for answers; the rest is for Serve's own end."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is served, and where."""

    settings: OmitArgPrefixes[ServeSettings]
    host: str = "127.0.0.1"
    """Address to listen on; with 0.0.0.0 every machine that reaches this one may ask."""
    port: Annotated[int, Range(ge=0, le=65535)] = 8000
    """With 0 the system chooses one, which is printed."""
    start_limit_s: Seconds = 600.0
    """How long the replicas may take until all of them answer."""

    def __post_init__(self) -> None:
        check_options(self)


def main() -> None:
    """Parse, connect, serve until interrupted."""
    arguments = tyro.cli(Arguments, description=__doc__)
    settings = replace(arguments.settings, model=storage.absolute(arguments.settings.model))
    model = read_model(settings.model).build()  # what is wrong with it is said before a cluster starts
    with closing(listener(arguments.host, arguments.port)) as socket:
        placement.connect()
        check_service_fits(settings)
        serve_until_interrupted(arguments, settings, model, socket)


def serve_until_interrupted(arguments: Arguments, settings: ServeSettings, model: FaceModel, socket: socket) -> None:
    """Start the replicas, answer requests until a Ctrl-C or SIGTERM, end them.

    Requests are read and images decoded here; the replicas compute.
    """
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        handle = _deploy(asdict(settings), arguments.start_limit_s)
        together = replace(
            settings,
            max_requests=settings.replicas * settings.max_requests,
            cpus_per_replica=min(os.cpu_count() or 1, settings.replicas * settings.cpus_per_replica),
        )
        address = f"http://{arguments.host}:{socket.getsockname()[1]}"
        line = f"serving {settings.model}: POST {address}{ROUTE}, GET {address}{HEALTH}; Ctrl-C ends it"
        server = Server(Endpoint(together, model, asking(handle)), ANSWER_GRACE_S, lambda: say(line))
        with suppress(KeyboardInterrupt):
            server.run([socket])
    except (RayServeException, RuntimeError, TimeoutError) as error:
        raise ClusterError(f"the endpoint did not start: {error}") from error
    finally:
        serve.shutdown()


def _deploy(args: dict[str, object], limit_s: float) -> DeploymentHandle:
    """Wait until all replicas answer, in the main thread, so that a Ctrl-C finds nobody else at work in Serve."""
    say(f"starting, replicas: {args['replicas']}")
    target = serve.RunTarget(app(args), name=APPLICATION, route_prefix=None)
    [handle] = serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    end = time.monotonic() + limit_s
    while (found := serve.status().applications.get(APPLICATION)) is None or found.status != "RUNNING":
        if found is not None and found.status == "DEPLOY_FAILED":
            raise ClusterError(f"the endpoint did not start: {found.message}")
        if time.monotonic() > end:
            raise ClusterError(
                f"the replicas did not answer within --start-limit-s {limit_s:g}: does other work hold the cluster's "
                "CPUs or GPUs (ray status), or does the model take longer to load?"
            )
        time.sleep(POLL_S)
    return handle


if __name__ == "__main__":
    run_job(main)
