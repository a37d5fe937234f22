"""A proxy between a client and its store that breaks what it is told to break.

Run as python fault_proxy.py PORT STORE [ADDRESS]; it listens on loopback, or on ADDRESS. PUT /-/faults sets the list of
faults, GET /-/requests gives the requests since then. A fault is an object with ``kind`` and, where they matter:
``method`` (GET), ``path`` (a regular expression), ``times`` (1; -1 without end), ``share`` of the body after which it
strikes, ``seconds``, ``bytes_per_s``, ``status`` and ``code``.
"""

import asyncio
import os
import re
import socket
import struct
import sys
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

PIECE_BYTES = 64 << 10
NOT_OURS = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Proxy:
    """Passes requests on as they are signed, Host included, and answers back, but for the faults that are set."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._faults: list[dict[str, Any]] = []
        self._requests: list[dict[str, Any]] = []

    async def set_faults(self, request: web.Request) -> web.Response:
        """Replace the faults and forget the requests."""
        self._faults, self._requests = await request.json(), []
        return web.json_response({})

    async def list_requests(self, request: web.Request) -> web.Response:
        """What came since, and what was done to it."""
        return web.json_response(self._requests)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request to the store and its answer."""
        fault = self._next_fault(request)
        kind = fault.get("kind")
        path = request.rel_url.raw_path_qs  # raw_path is a whole URL where it comes from the environment's http_proxy
        about = {"method": request.method, "path": path, "range": request.headers.get("Range")}
        self._requests.append(about | {"fault": kind})
        body = bytearray(await request.read())
        if kind == "latency":
            await asyncio.sleep(fault["seconds"])
        if kind == "status":
            return _refusal(fault)
        if kind == "bitflip" and body:
            body[int(fault["share"] * (len(body) - 1))] ^= 1
            fault = {}
        headers = {name: value for name, value in request.headers.items() if name.lower() not in NOT_OURS}
        session, url = request.app[SESSION], URL(self._store + path, encoded=True)
        async with session.request(
            request.method, url, headers=headers, data=bytes(body) or None, allow_redirects=False
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in NOT_OURS}
            response = web.StreamResponse(status=answer.status, headers=kept)
            if "Content-Length" in answer.headers:
                response.headers["Content-Length"] = answer.headers["Content-Length"]
            await response.prepare(request)
            if request.method != "HEAD" and await self._answer(request, response, answer.content, fault):
                return response
            await response.write_eof()
            return response

    async def _answer(
        self, request: web.Request, response: web.StreamResponse, content: Any, fault: dict[str, Any]
    ) -> bool:
        """Send the body; True if the connection was cut."""
        kind, sent = fault.get("kind"), 0
        strikes_at = int(fault.get("share", 0) * int(response.headers.get("Content-Length", 0)))
        if kind in ("truncate", "reset") and not strikes_at:
            _cut(request, hard=kind == "reset")
            return True
        async for piece in content.iter_chunked(PIECE_BYTES):
            here = strikes_at - sent
            if kind in ("truncate", "reset", "stall") and 0 <= here < len(piece):
                await response.write(piece[:here])
                if kind == "stall":
                    await asyncio.sleep(fault["seconds"])
                    piece, sent = piece[here:], sent + here
                else:
                    await asyncio.sleep(0.1)  # a reset throws away what the client has not yet taken
                    _cut(request, hard=kind == "reset")
                    return True
            if kind == "bitflip" and 0 <= here < len(piece):
                piece = piece[:here] + bytes([piece[here] ^ 1]) + piece[here + 1 :]
            if kind == "slow":
                await asyncio.sleep(len(piece) / fault["bytes_per_s"])
            await response.write(piece)
            sent += len(piece)
        return False

    def _next_fault(self, request: web.Request) -> dict[str, Any]:
        for fault in self._faults:
            fits = fault.get("method", "GET") == request.method and re.search(fault.get("path", ""), request.raw_path)
            if fits and fault.get("times", 1):
                fault["times"] = fault.get("times", 1) - 1
                return fault
        return {}


SESSION = web.AppKey("session", ClientSession)


def _refusal(fault: dict[str, Any]) -> web.Response:
    text = f"<?xml version='1.0'?><Error><Code>{fault['code']}</Code><Message>a fault on purpose</Message></Error>"
    return web.Response(status=fault["status"], text=text, content_type="application/xml")


def _cut(request: web.Request, *, hard: bool) -> None:
    """End the connection, by a reset if ``hard``."""
    transport = request.transport
    assert transport is not None, "the client is still there"
    if hard:
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    else:
        transport.close()


async def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        await asyncio.sleep(1)
    os._exit(0)


async def _application(store: str) -> web.Application:
    app, proxy = web.Application(client_max_size=1 << 30), Proxy(store)
    app.router.add_put("/-/faults", proxy.set_faults)
    app.router.add_get("/-/requests", proxy.list_requests)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    app[SESSION] = ClientSession(
        connector=TCPConnector(limit=0),
        timeout=ClientTimeout(total=None),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )
    app["watch"] = asyncio.create_task(_end_with_parent(os.getppid()))
    return app


if __name__ == "__main__":
    web.run_app(_application(sys.argv[2]), host=(sys.argv[3:] or ["127.0.0.1"])[0], port=int(sys.argv[1]), print=None)
