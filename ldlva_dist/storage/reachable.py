"""Whether somebody listens at an address, within seconds: what is behind it may try for minutes."""

import socket
from urllib.parse import urlsplit

CONNECT_S = 5.0
PORTS = {"http": 80, "https": 443}


def why_unreachable(address: str) -> str | None:
    """The reason why nothing answers at ``scheme://host:port`` or ``host:port``; None where something does."""
    place = split_address(address)
    if not place:
        return f"{address!r} is no address with a host and a port"
    try:
        socket.create_connection(place, timeout=CONNECT_S).close()
    except UnicodeError:
        return f"{place[0]} is no name of a host"
    except socket.gaierror as error:
        return f"{place[0]} is no name that can be resolved ({error.strerror})"
    except OSError as error:
        return f"nobody answers at {address} ({error.strerror or error})"
    return None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's own, by a name or number that no other machine can use."""
    return host in ("localhost", "::1") or host.startswith("127.")


def split_address(address: str) -> tuple[str, int] | None:
    """Host and port of ``scheme://host:port`` or ``host:port``; None where one of them cannot be read."""
    try:
        url = urlsplit(address if "://" in address else f"//{address}")
        port = url.port or PORTS.get(url.scheme)
    except ValueError:  # a port that is no number, or a bracket that is not closed
        return None
    return (url.hostname, port) if url.hostname and port else None
