"""HTTP for the endpoint: every connection has limits, every refusal is JSON, and the end comes in time.

uvicorn reads the requests. What it has no limit for is a client that sends its headers slowly.
"""

import asyncio
import json
import socket
from collections.abc import Callable

import h11
import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ldlva_dist.errors import SettingError
from ldlva_dist.inference.endpoint import Endpoint

HEADERS_LIMIT_S, IDLE_LIMIT_S = 10.0, 5.0
"""For the headers of a request to arrive, and between two requests of a connection."""
MAX_HEADERS = 16 * 1024
"""Bytes."""


class Connection(H11Protocol):
    """A client's connection, closed unless the headers of a request come in time."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Take what came; the clock runs as long as it is a part of some headers."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._expect_headers()
        else:
            self._expect_nothing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._expect_nothing()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, has two lengths, or headers without end."""
        self._refuse(400, f"the request must be HTTP/1.1 with headers of at most {MAX_HEADERS // 1024} KiB")

    def _expect_headers(self) -> None:
        if self._late is None:
            sentence = f"the headers of the request did not arrive within {HEADERS_LIMIT_S:g} s"
            self._late = self.loop.call_later(HEADERS_LIMIT_S, self._refuse, 408, sentence)

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer in the endpoint's place, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": sentence}).encode()
            length = ("content-length", str(len(body)))
            headers = [("content-type", "application/json"), length, ("connection", "close")]
            answer = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in answer))
        self.transport.close()


class Server(uvicorn.Server):
    """Serves an endpoint until a SIGTERM or Ctrl-C, then answers or refuses what is open within ``grace_s``."""

    def __init__(self, endpoint: Endpoint, grace_s: float, ready: Callable[[], None]) -> None:
        """``ready`` is called once clients can come."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)

        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="error",
            access_log=False,
            h11_max_incomplete_event_size=MAX_HEADERS,
            timeout_keep_alive=int(IDLE_LIMIT_S),
            timeout_graceful_shutdown=int(grace_s) + 1,
        )
        super().__init__(config)
        self._endpoint, self._grace_s, self._ready = endpoint, grace_s, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the endpoint, then wait for its answers."""
        self._endpoint.close(self._grace_s)
        await super().shutdown(sockets)


def listener(host: str, port: int) -> socket.socket:
    """A socket for clients, which nobody can reach before the server starts.

    Raises:
        SettingError: for an address that is not this machine's, or a port that is none or taken.
    """
    if not 0 <= port < 1 << 16:  # the resolver would take the rest of the division
        raise SettingError(f"--port must be in 0..65535, got {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"--host and --port must be free on this machine, got {host}:{port}: {reason}") from error
    return found
