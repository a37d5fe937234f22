"""A notice that a machine will be taken away becomes Ray's drain of its node, with the seconds left."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray
from ray._private import state
from ray._private.node import Node
from ray.exceptions import RayActorError

from testing.clusters.joining_nodes import another_node

SCRIPT = Path(__file__).parents[2] / "cluster" / "drain.py"
LIMIT_S, SOON_S, SECONDS = 120, 10, 77


@pytest.fixture
def node(cluster: None) -> Iterator[Node]:
    with another_node(1) as joined:
        yield joined


@contextmanager
def agent(node: Node, *options: str, seconds: int = SECONDS) -> Iterator[subprocess.Popen[str]]:
    """The script, until it ends by itself."""
    command = [sys.executable, str(SCRIPT), "--node-id", node.node_id, "--seconds", str(seconds), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT_S)


def seconds_left(node: Node) -> float | None:
    """As Ray's head was told; None while the node is not drained."""
    deadline_ms = state.state.get_draining_nodes().get(node.node_id)
    return None if deadline_ms is None else deadline_ms / 1000 - time.time()


def wait_for_drain(node: Node, process: subprocess.Popen[str]) -> None:
    """Return when the node is drained, or already gone, as one is that has nothing to do."""
    end = time.monotonic() + LIMIT_S
    while seconds_left(node) is None and node.node_id in alive():
        assert time.monotonic() < end, "no drain"
        time.sleep(0.05)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output


def alive() -> set[str]:
    return {each["NodeID"] for each in ray.nodes() if each["Alive"]}


@ray.remote(num_cpus=1)
class Worker:
    """Something that works on the node."""

    def here(self) -> str:
        return ray.get_runtime_context().get_node_id()


def at_work(node: Node) -> ray.actor.ActorHandle:
    """Something on a node."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.node_id, False)
    worker = Worker.options(scheduling_strategy=here).remote()
    assert ray.get(worker.here.remote(), timeout=LIMIT_S) == node.node_id
    return worker


def test_at_once_as_a_pods_hook_it_waits_while_something_works_there(node: Node) -> None:
    worker = at_work(node)
    with agent(node) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"draining: the pod or machine is being stopped; {SECONDS} s left\n"
        left = seconds_left(node)
        assert left is not None
        assert SECONDS - LIMIT_S < left <= SECONDS
        assert process.poll() is None, "the worker is still there"
        ray.kill(worker)
        assert process.wait(LIMIT_S) == 0


def test_a_file_is_a_notice(node: Node, tmp_path: Path) -> None:
    with agent(node, "--notice-file", str(tmp_path / "notice")) as process:
        assert seconds_left(node) is None
        (tmp_path / "notice").touch()
        wait_for_drain(node, process)


def test_a_node_at_work_is_ended_when_its_time_is_over(node: Node, tmp_path: Path) -> None:
    """Ray's head hears of it from the node, long before it would miss one whose power had gone."""
    worker = at_work(node)
    (tmp_path / "notice").touch()
    with agent(node, "--notice-file", str(tmp_path / "notice"), seconds=1) as process:
        assert process.wait(LIMIT_S) == 0
    end = time.monotonic() + SOON_S
    while node.node_id in alive():
        assert time.monotonic() < end, "the node is still there"
    with pytest.raises(RayActorError):
        ray.get(worker.here.remote(), timeout=LIMIT_S)


def test_an_answer_is_a_notice_once_it_holds_the_text(node: Node) -> None:
    answers = iter(["404", "FALSE"])

    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = next(answers, "TRUE") if self.headers["Metadata-Flavor"] == "Google" else "404"
            self.send_response(404 if answer == "404" else 200)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/preempted"
        told = ("--notice-url", url, "--notice-header", "Metadata-Flavor:Google", "--notice-text", "TRUE")
        with agent(node, *told) as process:
            wait_for_drain(node, process)
        server.shutdown()
    assert next(answers, None) is None


def test_a_sigterm_is_a_notice(node: Node, tmp_path: Path) -> None:
    with agent(node, "--notice-file", str(tmp_path / "never")) as process:
        caught = f"/proc/{process.pid}/status"
        end = time.monotonic() + LIMIT_S
        while not _catches(caught, signal.SIGTERM):
            assert time.monotonic() < end
        os.kill(process.pid, signal.SIGTERM)
        wait_for_drain(node, process)


def _catches(status: str, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal by now."""
    (line,) = [line for line in Path(status).read_text().splitlines() if line.startswith("SigCgt")]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def test_a_machine_without_such_a_node_is_said(cluster: None) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--node-id", "f" * 56], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 2
    assert "there must be a node" in done.stderr
