"""What the endpoint answers: POST a JPEG or PNG to /predict, get its distribution over the classes as JSON.

Answers: 200; 400 for a damaged image; 404 and 405 for another path or method; 408 for a body that comes too slowly;
413 for too many bytes or pixels, or a side that is too long; 415 for another format; 503 with Retry-After while too
many requests are being answered, the network cannot be asked, or the endpoint ends. Errors are ``{"error": SENTENCE}``.
GET /health says what is served, however many requests wait.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from ldlva_dist.dataset.image_files import HUGE_IMAGE, ImageError, open_image
from ldlva_dist.errors import ClusterError, DataError
from ldlva_dist.inference.face_model import FaceModel
from ldlva_dist.values.settings import BatchSize, Count, NotNegative, Positive, Range, Seconds, check_settings

FORMATS = ("JPEG", "PNG")
ROUTE, HEALTH = "/predict", "/health"
ANSWER_LIMIT_S = 60.0
"""How long the network may take for an image, with all that wait before it."""
Forward = Callable[[NDArray[np.uint8]], Awaitable[tuple[NDArray[np.float32], float, int]]]
"""A prepared image to its probabilities [C], their entropy, and how many images were computed together with it.

A ClusterError where the network cannot be asked."""
CLOSING = "the endpoint is being shut down; try again later"


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What is served, and how much is let in."""

    model: str
    """A run (its last checkpoint), one checkpoint, or a folder that jobs/export.py wrote; local or s3://."""
    replicas: Count = 1
    """Copies of the network."""
    cpus_per_replica: Positive = 1.0
    gpus_per_replica: NotNegative = 0.0
    """A share, such as 0.25, lets several replicas use one GPU."""
    max_batch_size: BatchSize = 32
    """Images in one call of the network."""
    batch_wait_s: Annotated[float, Range(ge=0, le=10**7)] = 0.01
    """How long the first image of a batch waits for others."""
    max_requests: Count = 64
    """Requests that a replica answers at once, bodies in memory; more get 503."""
    max_body_mb: Annotated[float, Range(gt=0, le=2**20)] = 8.0
    """Bytes of an image file, in MiB."""
    max_pixels: Count = 16_000_000
    """Width times height of an image."""
    body_timeout_s: Seconds = 15.0
    """How long a body may take to arrive."""

    def __post_init__(self) -> None:
        check_settings(self)


class Refused(Exception):
    """A request that gets an error: the status, and the sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Endpoint:
    """Answers requests, many at a time; knows HTTP and images, and nothing of Ray."""

    def __init__(self, settings: ServeSettings, model: FaceModel, forward: Forward) -> None:
        """``model`` prepares images and describes itself; ``forward`` computes."""
        self._settings, self._model, self._forward = settings, model, forward
        self._decoder = ThreadPoolExecutor(max_workers=max(1, int(settings.cpus_per_replica)))
        self._clocks: set[asyncio.Timeout] = set()
        self._open, self._is_closing = 0, False
        self.images, self.batches = 0, 0.0
        """Answered; each image counts for its share of the batch it was in."""

    def close(self, grace_s: float) -> None:
        """Refuse new images, and those that are not answered within ``grace_s``; called in the event loop."""
        self._is_closing, last = True, asyncio.get_running_loop().time() + grace_s
        for clock in self._clocks:
            when = clock.when()
            clock.reschedule(last if when is None else min(when, last))

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer one request."""
        try:
            return JSONResponse(await self._answer(request))
        except Refused as refused:
            headers = {"Retry-After": "1"} if refused.status == 503 else None
            return JSONResponse({"error": str(refused)}, refused.status, headers)

    async def _answer(self, request: Request) -> Mapping[str, Any]:
        path, facts = request.url.path, self._model.description
        if path == HEALTH and request.method in ("GET", "HEAD"):
            about = {"model": facts.name, "classes": list(facts.class_names), "data": dict(facts.data)}
            return {"status": "ok", **about, "images": self.images, "batches": round(self.batches)}
        if path not in (ROUTE, HEALTH):
            raise Refused(404, f"there is no {path}: POST an image to {ROUTE}, or GET {HEALTH}")
        if path != ROUTE or request.method != "POST":
            raise Refused(405, f"{path} does not take {request.method}")
        if self._is_closing:
            raise Refused(503, CLOSING)
        if self._open >= self._settings.max_requests:
            raise Refused(503, f"{self._open} requests are being answered, which is the limit; try again later")
        self._open += 1
        try:
            return await self._predict(request)
        finally:
            self._open -= 1

    async def _predict(self, request: Request) -> Mapping[str, Any]:
        body = await self._body(request)
        async with self._within(
            ANSWER_LIMIT_S, Refused(503, f"the network did not answer within {ANSWER_LIMIT_S:g} s")
        ):
            image = await asyncio.get_running_loop().run_in_executor(self._decoder, self._decode, body)
            try:
                probs_C, entropy, together = await self._forward(image)
            except ClusterError as error:
                raise Refused(503, str(error)) from error
        self.images += 1
        self.batches += 1 / together
        names = self._model.description.class_names
        return {
            "class": names[int(probs_C.argmax())],
            "probabilities": dict(zip(names, probs_C.tolist(), strict=True)),
            "entropy": entropy,
        }

    async def _body(self, request: Request) -> bytes:
        """The body, never more of it in memory than is allowed."""
        limit, body = int(self._settings.max_body_mb * 2**20), bytearray()
        too_large = Refused(413, f"the image must have at most {self._settings.max_body_mb:g} MiB")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise too_large
        seconds = self._settings.body_timeout_s
        try:
            async with self._within(seconds, Refused(408, f"the image did not arrive within {seconds:g} s")):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise too_large
        except ClientDisconnect as error:
            raise Refused(400, "the image ended early") from error
        return bytes(body)

    @asynccontextmanager
    async def _within(self, seconds: float, late: Refused) -> AsyncIterator[None]:
        """Raise ``late`` if what is inside takes longer, or another refusal if the endpoint ends before."""
        try:
            async with asyncio.timeout(seconds) as clock:
                self._clocks.add(clock)
                try:
                    yield
                finally:
                    self._clocks.discard(clock)
        except TimeoutError as error:
            raise (Refused(503, CLOSING) if self._is_closing else late) from error

    def _decode(self, body: bytes) -> NDArray[np.uint8]:
        """[s, s, c]; the header is looked at before a pixel is unpacked."""
        if not body:
            raise Refused(400, "the body must be a JPEG or PNG, got nothing")
        try:
            with open_image(body, formats=FORMATS) as picture:
                pixels = picture.width * picture.height
        except ImageError as error:
            if error.reason == HUGE_IMAGE:
                raise Refused(413, str(error)) from error
            is_known = body.startswith((b"\xff\xd8", b"\x89PNG"))
            sentence = "the image is damaged" if is_known else "the body must be a JPEG or PNG, got something else"
            raise Refused(400 if is_known else 415, sentence) from error
        if pixels > self._settings.max_pixels:
            raise Refused(413, f"the image must have at most {self._settings.max_pixels} pixels, got {pixels}")
        try:
            return self._model.prepare(body)
        except DataError as error:
            raise Refused(400, str(error)) from error
