"""Serve a trained network: python cluster/serve.py --model RUN.

    curl --data-binary @face.jpg http://127.0.0.1:8000/predict
    curl http://127.0.0.1:8000/health

Needs the extra [serve]. Listens on this machine only unless --host says otherwise: the endpoint asks nobody for a
password, so put what does (an ingress, a proxy) before it. Ctrl-C ends it. On Kubernetes: cluster/rayservice.yaml.
"""

import signal
import threading
from dataclasses import asdict, dataclass

import tyro
from tyro.conf import OmitArgPrefixes

from ldlva_dist import placement
from ldlva_dist.data import storage
from ldlva_dist.errors import ClusterError
from ldlva_dist.inference.trained import read_model
from ldlva_dist.terminal import run_job

try:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from ldlva_dist.inference.endpoint import HEALTH, ROUTE, ServeSettings
    from ldlva_dist.inference.service import app
except ImportError as error:
    raise SystemExit(f"error: cluster/serve.py needs {error.name}: pip install '.[serve]'") from error

REQUEST_TIMEOUT_S = 60.0
APPLICATION = "ldlva"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is served, and where."""

    settings: OmitArgPrefixes[ServeSettings]
    host: str = "127.0.0.1"
    """Address to listen on; with 0.0.0.0 every machine that reaches this one may ask."""
    port: int = 8000


def main() -> None:
    """Parse, connect, serve until interrupted."""
    arguments = tyro.cli(Arguments, description=__doc__)
    settings = arguments.settings
    model = settings.model if storage.is_remote(settings.model) else storage.resolve(settings.model)[1]
    read_model(model)  # what is wrong with it is said before a cluster starts
    placement.connect()
    serve_until_interrupted(arguments, {**asdict(settings), "model": model})


def serve_until_interrupted(arguments: Arguments, args: dict[str, object]) -> None:
    """Start the proxy and the replicas, say where, wait for Ctrl-C or SIGTERM, end them."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    options = {"host": arguments.host, "port": arguments.port, "request_timeout_s": REQUEST_TIMEOUT_S}
    try:
        serve.start(proxy_location="HeadOnly", http_options=options, logging_config={"log_level": "WARNING"})
        serve.run(app(args), name=APPLICATION, route_prefix="/")
        address = f"http://{arguments.host}:{arguments.port}"
        print(f"serving {args['model']}: POST {address}{ROUTE}, GET {address}{HEALTH}; Ctrl-C ends it", flush=True)
        stop.wait()
    except (RayServeException, RuntimeError) as error:
        raise ClusterError(f"the endpoint did not start: {error}") from error
    finally:
        serve.shutdown()


if __name__ == "__main__":
    run_job(main)
