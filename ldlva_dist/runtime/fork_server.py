"""Ray workers that are forked from one process in which all that they import is imported, once.

A worker that Ray starts imports Ray, torch and DeepSpeed for up to five seconds of CPU, and a run starts a dozen of
them. On a job's own cluster Ray runs start_worker.py instead, which asks this server: a fork of the job's own process
from before it had threads, which forks the worker. A worker and its start_worker.py live as long as each other, so
Ray ends and counts its own child, and never a stranger's process that has got its number.
"""

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

REQUEST_BYTES, ANSWER_S = 1 << 20, 10
FIRST_JOB = "01000000"
"""Id that Ray gives to the first job of a cluster."""
HARMLESS = "jemalloc_bg_thd"
"""Name of the threads of jemalloc, which looks after them when a process forks, as OpenBLAS does after its own."""


def listen(name: str) -> socket.socket:
    """The server's socket, in the abstract namespace: it leaves no file, whatever ends the job."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("\0" + name)
    listener.listen(256)
    return listener


@contextmanager
def as_worker_of(node: int) -> Iterator[None]:
    """Let Ray's core, which is imported within, be one of the cluster's first job's workers.

    It reads once, when it is imported, which job it works for, and which process it must not outlive: ``node``.

    Nor may it draw an id yet. Forks of a process that has drawn one draw the same ones as each other, in all of their
    threads: calls of two workers to one actor then have one id, and the actor dies of it. Of all that is imported only
    actor classes draw; here theirs come from the system.
    """
    names = {"RAY_JOB_ID": FIRST_JOB, "RAY_RAYLET_PID": str(node)}
    os.environ.update(names)
    actor: Any = import_module("ray.actor")
    drawn, actor.ActorClassID = actor.ActorClassID, _ClassID
    try:
        yield
    finally:
        actor.ActorClassID = drawn
        for name in names:
            del os.environ[name]


class _ClassID:
    @staticmethod
    def from_random() -> Any:
        """As Ray's own."""
        kind: Any = import_module("ray._raylet").ActorClassID
        return kind(os.urandom(kind.size()))


def can_fork() -> bool:
    """Whether this process may be forked: a fork copies one thread, and the locks that the others hold.

    Two of its forks must draw ids of their own, too.
    """
    names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    own = Path("/proc/self/comm").read_text().strip()  # threads of OpenBLAS bear it, too
    return threading.active_count() == 1 and names <= {own, HARMLESS} and _draw_in_fork() != _draw_in_fork()


def _draw_in_fork() -> bytes:
    """An id that Ray's core draws in a fork of this process."""
    ours, theirs = os.pipe()
    fork = os.fork()
    if fork == 0:
        os.write(theirs, import_module("ray._raylet").UniqueID.from_random().binary())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as said:
        drawn = said.read()
    os.waitpid(fork, 0)
    return drawn


def start_server(listener: socket.socket, *, close: Sequence[IO[Any]]) -> int:
    """Fork the server, which ends with this process.

    Args:
        listener: Where the workers' starters ask; closed here.
        close: Pipes that neither the server nor its workers may hold open.

    Returns:
        Descriptor of a pipe; the server ends once it is closed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    life, hold = os.pipe()
    if os.fork():
        os.close(life)
        listener.close()
        return hold
    try:
        os.close(hold)
        for pipe in close:
            pipe.close()
        os.setsid()  # a Ctrl-C is for the job
        gc.freeze()  # collections in the workers would copy the pages of all that is imported
        _Server(listener, life).serve()
    finally:
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
        os._exit(1)


class _Server:
    """Forks a worker for each request; one starter's connection is open for as long as its worker is there."""

    def __init__(self, listener: socket.socket, life: int) -> None:
        self._selector, self._listener = selectors.DefaultSelector(), listener
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(life, selectors.EVENT_READ, lambda: os._exit(0))

    def serve(self) -> NoReturn:
        while True:
            self.answer()

    def answer(self) -> None:
        """Wait for something to happen, and do what is due."""
        for key, _ in self._selector.select():
            # A starter and its worker often end at once: what is done for one may let go of the other.
            if key in self._selector.get_map().values():
                key.data()

    def _accept(self) -> None:
        starter, _ = self._listener.accept()
        starter.settimeout(ANSWER_S)
        files: list[int] = []
        try:
            text, files, flags, _ = socket.recv_fds(starter, REQUEST_BYTES, 3)
            if _uid_of(starter) != os.getuid() or len(files) != 3 or flags & socket.MSG_TRUNC:
                raise OSError("this is no starter of this user's")
            request = json.loads(text)
            if request["environment"].get("RAY_JOB_ID") != FIRST_JOB:
                raise OSError("this is a worker of another job")
            starter.send(b"1")  # one that has given up must not have two workers
            worker = os.fork()
            if worker == 0:
                _work(partial(self._leave, starter), request, files)
        except OSError:  # it is gone, or no starter; one that is there starts its worker itself
            starter.close()
        else:
            self._watch(starter, worker)
        finally:
            for file in files:
                os.close(file)

    def _watch(self, starter: socket.socket, worker: int) -> None:
        """End the worker with its starter, and let the starter go when the worker has ended."""
        end = os.pidfd_open(worker)

        def kill() -> None:
            self._selector.unregister(starter)
            signal.pidfd_send_signal(end, signal.SIGKILL)

        def reap() -> None:
            self._selector.unregister(end)
            os.waitpid(worker, 0)
            os.close(end)
            if starter in self._watched():
                self._selector.unregister(starter)
            starter.close()

        self._selector.register(starter, selectors.EVENT_READ, kill)
        self._selector.register(end, selectors.EVENT_READ, reap)

    def _watched(self) -> list[Any]:
        return [key.fileobj for key in self._selector.get_map().values()]

    def _leave(self, starter: socket.socket) -> None:
        """Close in a worker what is the server's."""
        for each in (*self._watched(), starter):
            if isinstance(each, socket.socket):
                each.close()
            else:
                os.close(each)
        self._selector.close()


def _uid_of(connection: socket.socket) -> int:
    size = struct.calcsize("3i")
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]


def _work(leave: Callable[[], None], request: dict[str, Any], files: list[int]) -> NoReturn:
    """Be the worker, from its first moment to its last."""
    code = 1
    try:
        leave()
        _take_place(request, files)
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
    finally:
        # What an interpreter does at its end, and what multiprocessing's forks do.
        with suppress(BaseException):
            threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
            atexit._run_exitfuncs()  # pyright: ignore[reportAttributeAccessIssue]
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _take_place(request: dict[str, Any], files: list[int]) -> None:
    """Take on what the starter was given, and would have handed on to the worker's program."""
    from ray._private.utils import update_envs
    from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]

    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    os.setpgid(0, 0)
    os.setpriority(os.PRIO_PROCESS, 0, request["nice"])
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    os.environ.clear()
    os.environ.update(request["environment"])
    update_envs(request["env_vars"])
    os.chdir(request["folder"])
    Config.initialize("")  # Ray's core has read another environment
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python's own generator does so by itself
    sys.argv = request["arguments"]
    sys.path[0] = os.path.dirname(sys.argv[0])
