"""Whether somebody listens at an address, within seconds: what is behind it may try for minutes."""

import socket
from urllib.parse import urlsplit

CONNECT_S = 5.0
HEAD_S = 20.0
"""How long a head on a busy machine may take to say that it is one."""
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
