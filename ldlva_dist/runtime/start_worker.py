"""What Ray runs to start a worker of a job's own cluster: the job's fork server (fork_server.py) makes the worker.

This process is the one that Ray knows as its child. It is there for as long as the worker: whoever ends the one ends
the other. It imports next to nothing, this package least of all.
"""

import json
import os
import signal
import socket
import sys
from typing import Any

ADDRESS = "LDLVA_FORK_SERVER"
CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="
LIMIT_S = 60


def start(arguments: list[str]) -> None:
    """Let the fork server make the worker, or be one, as Ray would start it."""
    context: dict[str, Any] = next(
        (json.loads(text.removeprefix(CONTEXT)) for text in arguments if text.startswith(CONTEXT)), {}
    )
    if not _is_plain(context) or not _fork(arguments, context):
        _exec(arguments)


def _is_plain(context: dict[str, Any]) -> bool:
    """Whether a runtime environment leaves the interpreter and the command of the worker alone."""
    own = context.get("py_executable") in (None, sys.executable)
    return own and not context.get("command_prefix") and not context.get("override_worker_entrypoint")


def _fork(arguments: list[str], context: dict[str, Any]) -> bool:
    """Have the worker forked, and wait until it has ended; False where there is no server to ask."""
    request = {
        "arguments": [text for text in arguments if not text.startswith((CONTEXT, LANGUAGE))],
        "environment": dict(os.environ),
        "env_vars": context.get("env_vars") or {},
        "folder": os.getcwd(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.settimeout(LIMIT_S)
        try:
            server.connect("\0" + os.environ[ADDRESS])
            socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
            accepted = server.recv(1)
        except OSError:  # it is gone, or was never there
            return False
        server.settimeout(None)
        return bool(accepted) and not server.recv(1)


def _exec(arguments: list[str]) -> None:
    import ray._private.workers as workers  # slow, and needed here alone

    [folder] = workers.__path__
    os.execv(sys.executable, [sys.executable, os.path.join(folder, "setup_worker.py"), *arguments])


if __name__ == "__main__":
    sys.path.pop(0)  # this folder is no place to import from
    start(sys.argv[1:])
