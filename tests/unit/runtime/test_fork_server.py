import os
import socket
from pathlib import Path

import pytest

from ldlva_dist.runtime.fork_server import _Server


@pytest.mark.parametrize("order", [("worker", "starter"), ("starter", "worker")])
def test_a_worker_and_its_starter_that_end_at_once_do_not_end_the_server(
    order: tuple[str, ...], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "fork"))
        listener.listen()
        life, go = os.pipe(), os.pipe()
        server, (starter, other_end) = _Server(listener, life[0]), socket.socketpair()
        worker = os.fork()
        if worker == 0:
            other_end.close()
            os.read(go[0], 1)
            os._exit(0)
        server._watch(starter, worker)
        for each in order:
            if each == "worker":
                os.write(go[1], b"1")
                os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
            else:
                other_end.close()
        server.answer()
        assert starter.fileno() == -1
        with pytest.raises(ChildProcessError):
            os.waitpid(worker, os.WNOHANG)
        for file in (*life, *go):
            os.close(file)
