"""The endpoint on Ray Serve: replicas that hold the network each, and put images that come together into one batch."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse

from ldlva_dist.errors import ClusterError, SettingError
from ldlva_dist.inference.endpoint import Endpoint, Forward, ServeSettings
from ldlva_dist.inference.trained import read_model
from ldlva_dist.runtime import placement

SHUTDOWN_GRACE_S = 5.0
"""For requests that a replica still answers when it is taken away; Serve waits as long for one that never started."""
REFUSED_AT_ONCE = 1024
"""Requests that a replica takes beyond its limit, to refuse them itself, and to say that it is well all the same."""


class Replica:
    """One copy of the network, and the endpoint before it."""

    def __init__(self, settings: ServeSettings) -> None:
        """Load the network; nothing is served before."""
        torch.set_num_threads(max(1, int(settings.cpus_per_replica)))
        self._model = read_model(settings.model).build("cuda" if settings.gpus_per_replica else "cpu")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
        self._endpoint = Endpoint(settings, self._model, self.forward)
        batches = cast(Any, self.forward)  # what ``serve.batch`` adds to a method, its types do not say
        batches.set_max_batch_size(settings.max_batch_size)
        batches.set_batch_wait_timeout_s(settings.batch_wait_s)

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer one request."""
        return await self._endpoint(request)

    @serve.batch
    async def forward(self, images: list[NDArray[np.uint8]]) -> list[tuple[NDArray[np.float32], float, int]]:
        """What the network says of each image, and how many there were; one batch at a time."""
        answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._model, np.stack(images))
        together = [len(images)] * len(images)
        return list(zip(answers.probs_nC, answers.entropy_n.tolist(), together, strict=True))


def asking(handle: DeploymentHandle) -> Forward:
    """Ask the replicas for an image; a ClusterError where none of them answers."""

    async def forward(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float, int]:
        try:
            return await handle.forward.remote(image)
        except (RayError, RayServeException) as error:
            raise ClusterError("the network cannot be asked at the moment; try again later") from error

    return forward


def check_service_fits(settings: ServeSettings) -> None:
    """SettingError if the nodes of the cluster, all of their CPUs and GPUs free, do not hold the replicas.

    Serve itself would wait for more nodes without a limit.
    """
    each = {"CPU": settings.cpus_per_replica, "GPU": settings.gpus_per_replica}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(
        min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in each.items() if amount) for node in nodes
    )
    if settings.replicas > room:
        raise SettingError(
            f"--replicas must fit the cluster, which holds {room} with --cpus-per-replica {each['CPU']:g} and "
            f"--gpus-per-replica {each['GPU']:g}, got {settings.replicas}"
        )


def app(args: Mapping[str, Any]) -> Application:
    """The application, for ``serve.run`` and for a Serve config file; ``args`` are fields of :class:`ServeSettings`.

    A replica refuses what is beyond its limit. Serve sends it REFUSED_AT_ONCE more, holds back as much again, and
    answers 503 itself to what comes then.
    """
    try:
        settings = ServeSettings(**args)
    except TypeError as error:
        raise SettingError(f"args must be settings of the endpoint: {error}") from error
    deployment = serve.deployment(
        name="faces",
        num_replicas=settings.replicas,
        ray_actor_options=placement.replica(cpus=settings.cpus_per_replica, gpus=settings.gpus_per_replica),
        max_ongoing_requests=settings.max_requests + REFUSED_AT_ONCE,
        max_queued_requests=settings.max_requests + REFUSED_AT_ONCE,
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=SHUTDOWN_GRACE_S,
        graceful_shutdown_wait_loop_s=0.1,
    )
    return deployment(Replica).bind(settings)
