"""Whether somebody listens at an address, within seconds: what is behind it may try for minutes."""

import socket
from urllib.parse import urlsplit

CONNECT_S = 5.0
PORTS = {"http": 80, "https": 443, "ray": 10001}


def why_unreachable(address: str) -> str | None:
    """The reason why nothing answers at ``scheme://host:port`` or ``host:port``; None where something does."""
    url = urlsplit(address if "://" in address else f"//{address}")
    port = url.port or PORTS.get(url.scheme)
    if not url.hostname or not port:
        return f"{address!r} is no address with a host and a port"
    try:
        socket.create_connection((url.hostname, port), timeout=CONNECT_S).close()
    except socket.gaierror as error:
        return f"{url.hostname} is no name that can be resolved ({error.strerror})"
    except OSError as error:
        return f"nobody answers at {address} ({error.strerror or error})"
    return None
