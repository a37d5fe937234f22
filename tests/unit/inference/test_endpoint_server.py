"""The endpoint over real connections: slow and lying clients get a sentence within a limit, others an answer."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("uvicorn")

from ldlva_dist.errors import ClusterError, SettingError
from ldlva_dist.inference import server as module
from ldlva_dist.inference.endpoint import Endpoint, ServeSettings
from ldlva_dist.inference.server import Server, listener
from tests.unit.inference.test_endpoint import png

IMAGE = png(np.zeros((8, 8), np.uint8))
SLOW = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"
MODEL = SimpleNamespace(
    description=SimpleNamespace(name="net", class_names=("sad", "happy"), data={}),
    prepare=lambda body: np.zeros((8, 8, 1), np.uint8),
)
"""What an endpoint needs of a network: its facts, and how it prepares an image."""


async def certain(image: np.ndarray) -> tuple[np.ndarray, float, int]:
    return np.array([0.25, 0.75], np.float32), 0.5, 1


@dataclass
class Running:
    server: Server
    port: int
    thread: threading.Thread

    async def ask(self, request: bytes, *, limit_s: float = 20.0) -> tuple[int, Any]:
        """Send bytes, read until the server closes or has answered: status and content."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        try:
            async with asyncio.timeout(limit_s):
                return await answer(reader)
        finally:
            writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(re.findall(r"content-length: (\d+)", head.lower())[0])
    body = await reader.readexactly(length) if not head.startswith("HEAD") else b""
    assert "application/json" in head
    return int(head.split()[1]), json.loads(body)


@contextmanager
def running(
    forward: Callable[[np.ndarray], Awaitable[tuple[np.ndarray, float, int]]] = certain,
    grace_s: float = 0.5,
    **settings: Any,
) -> Iterator[Running]:
    ready = threading.Event()
    with listener("127.0.0.1", 0) as socket:
        endpoint = Endpoint(ServeSettings(model="any", **settings), cast(Any, MODEL), forward)
        server = Server(endpoint, grace_s, ready.set)
        thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
        thread.start()
        assert ready.wait(30)
        yield Running(server, socket.getsockname()[1], thread)
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


def post(body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST /predict HTTP/{version}", "Host: x", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LENGTH = f"Content-Length: {len(IMAGE)}"
CHUNK = f"{len(IMAGE):x}\r\n".encode() + IMAGE + b"\r\n"
REQUESTS = {
    "an image": (post(IMAGE, LENGTH), 200, "happy"),
    "in chunks": (post(CHUNK + b"0\r\n\r\n", "Transfer-Encoding: chunked"), 200, "happy"),
    "HTTP/1.0": (post(IMAGE, LENGTH, version="1.0"), 200, "happy"),
    "no body": (post(b""), 400, "got nothing"),
    "chunks without an end": (post(CHUNK, "Transfer-Encoding: chunked"), 408, "did not arrive within 0.3 s"),
    "a length that is too large": (post(IMAGE, "Content-Length: 5000"), 408, "did not arrive within 0.3 s"),
    "a length that is too small": (post(IMAGE, "Content-Length: 20"), 400, "the image is damaged"),
    "a length beyond the limit": (post(b"", "Content-Length: 99999999999999999999"), 413, "at most 8 MiB"),
    "a length that is none": (post(IMAGE, "Content-Length: -5"), 400, "must be HTTP/1.1"),
    "two lengths": (post(IMAGE, LENGTH, "Content-Length: 5"), 400, "must be HTTP/1.1"),
    "a chunk of no size": (post(b"zz\r\n", "Transfer-Encoding: chunked"), 400, "must be HTTP/1.1"),
    "no HTTP": (b"\x16\x03\x01\x02\x00hello\r\n\r\n", 400, "must be HTTP/1.1"),
    "long headers": (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000, 400, "at most 16 KiB"),
    "slow headers": (b"GET /health HTTP/1.1\r\nHost:", 408, "headers of the request did not arrive within 0.3 s"),
    "nothing at all": (b"", 408, "headers of the request did not arrive within 0.3 s"),
    "another method": (b"DELETE /predict HTTP/1.1\r\nHost: x\r\n\r\n", 405, "does not take DELETE"),
    "another path": (b"GET /%1b%5b31m HTTP/1.1\r\nHost: x\r\n\r\n", 404, "POST an image to /predict"),
    "health": (HEALTH, 200, "ok"),
}


def test_every_request_gets_an_answer_or_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADERS_LIMIT_S", 0.3)

    async def all_at_once(there: Running) -> list[tuple[int, Any]]:
        return await asyncio.gather(*(there.ask(request) for request, *_ in REQUESTS.values()))

    with running(body_timeout_s=0.3) as there:
        found = asyncio.run(all_at_once(there))
        for name, (status, content), (_, expected, word) in zip(REQUESTS, found, REQUESTS.values(), strict=True):
            assert status == expected, name
            assert word in (content.get("class") or content.get("status") or content["error"]), name
        assert asyncio.run(there.ask(HEALTH))[1]["images"] == 3


def test_headers_that_trickle_are_given_up_on_a_kept_connection_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADERS_LIMIT_S", 0.5)

    async def trickle(there: Running) -> tuple[tuple[int, Any], tuple[int, Any], float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(HEALTH)
        first, began = await answer(reader), time.monotonic()
        with suppress(ConnectionError):
            while not reader.at_eof() and time.monotonic() < began + 10:
                writer.write(b"G" if time.monotonic() == began else b"A")
                if (found := asyncio.ensure_future(answer(reader))) in (await asyncio.wait([found], timeout=0.1))[0]:
                    return first, found.result(), time.monotonic() - began
                found.cancel()
        raise AssertionError("it was not given up")

    with running() as there:
        first, second, seconds = asyncio.run(trickle(there))
    assert (first[0], second[0]) == (200, 408)
    assert seconds < 5


@pytest.mark.parametrize(("clients", "limit"), [(60, 8), (256, 64)])
def test_health_is_answered_while_slow_bodies_hold_all_places(clients: int, limit: int) -> None:
    async def attack(there: Running) -> tuple[tuple[int, Any], list[tuple[int, Any]]]:
        slow = [asyncio.create_task(there.ask(SLOW)) for _ in range(clients)]
        done, _ = await asyncio.wait(slow, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert done
        return await there.ask(HEALTH, limit_s=2), await asyncio.gather(*slow)

    with running(body_timeout_s=3.0, max_requests=limit) as there:
        health, slow = asyncio.run(attack(there))
    assert health[0] == 200
    assert health[1]["status"] == "ok"
    statuses = [status for status, _ in slow]
    assert (statuses.count(408), statuses.count(503)) == (limit, clients - limit)
    assert all("error" in content for _, content in slow)


def test_the_end_refuses_a_body_that_is_coming_and_answers_one_that_came() -> None:
    began, go_on = threading.Event(), threading.Event()

    async def held(image: np.ndarray) -> tuple[np.ndarray, float, int]:
        began.set()
        await asyncio.to_thread(go_on.wait, 10)
        return await certain(image)

    async def end(there: Running) -> tuple[list[tuple[int, Any]], float]:
        requests = [asyncio.create_task(there.ask(request)) for request in (SLOW, post(IMAGE, LENGTH))]
        await asyncio.to_thread(began.wait, 10)
        asked, there.server.should_exit = time.monotonic(), True
        threading.Timer(0.3, go_on.set).start()
        found = await asyncio.gather(*requests)
        await asyncio.to_thread(there.thread.join, 10)
        return found, time.monotonic() - asked

    with running(held, grace_s=1.0, body_timeout_s=60.0) as there:
        (refused, answered), seconds = asyncio.run(end(there))
    assert (refused[0], refused[1]["error"]) == (503, "the endpoint is being shut down; try again later")
    assert answered[0] == 200
    assert 0.9 < seconds < 5


def test_a_network_that_is_not_there_is_a_503() -> None:
    async def gone(image: np.ndarray) -> tuple[np.ndarray, float, int]:
        raise ClusterError("the network cannot be asked at the moment; try again later")

    with running(gone) as there:
        status, content = asyncio.run(there.ask(post(IMAGE, LENGTH)))
    assert (status, content["error"]) == (503, "the network cannot be asked at the moment; try again later")


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "x" * 300])
def test_an_address_that_is_not_this_machines_is_refused(host: str) -> None:
    with pytest.raises(SettingError, match="--host and --port must be free on this machine, got "):
        listener(host, 0)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(SettingError, match=r"--port must be in 0\.\.65535, got"):
        listener("127.0.0.1", port)


def test_a_port_that_is_taken_is_refused() -> None:
    with listener("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(SettingError, match="in use"):
            listener("127.0.0.1", taken.getsockname()[1])
