"""cluster/serve.py on a real Serve: a face over HTTP gets what the network says; a SIGTERM ends it."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.errors import SettingError
from ldlva_dist.inference.endpoint import ServeSettings
from ldlva_dist.inference.export import real_images
from ldlva_dist.inference.service import SHUTDOWN_GRACE_S, check_service_fits
from ldlva_dist.inference.trained import read_model
from testing.tiny_runs import untrained_run

pytestmark = pytest.mark.usefixtures("cluster")
LIMIT_S = 180.0


@dataclass(frozen=True)
class Server:
    port: int
    log: Path
    process: subprocess.Popen[str] | None = None

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def run(faces: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained_run(faces, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def server(run: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, str(root / "cluster" / "serve.py"), "--model", run, "--port", str(port)]
    command += ["--cpus-per-replica", "0.5", "--max-body-mb", "0.5", "--batch-wait-s", "1", "--max-batch-size", "8"]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with open(log, "w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, text=True)
    found = Server(port, log, process)
    try:
        end = time.monotonic() + LIMIT_S
        while "serving" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield found
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=60)


def test_faces_over_http_get_what_the_network_says(server: Server, run: str, faces: str) -> None:
    model, images = read_model(run).build(), [encode_image(image) for image in real_images(Dataset.open(faces), 3)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: server.ask("POST", "/predict", image), images))
    assert [status for status, _ in found] == [200] * len(images)
    probs = np.array([list(content["probabilities"].values()) for _, content in found])
    expected = model(np.stack([model.prepare(image) for image in images])).probs_nC
    np.testing.assert_allclose(probs, expected, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 0.01  # an answer that went to another request would be seen
    health = server.ask("GET", "/health")[1]
    assert health["images"] == len(images) == 16
    assert health["batches"] < 16  # those that came together were computed together


def test_errors_come_over_http_as_sentences(server: Server) -> None:
    assert server.ask("POST", "/predict", bytes(2**19 + 1)) == (413, {"error": "the image must have at most 0.5 MiB"})
    assert server.ask("POST", "/predict", b"\xff\xd8\xff\xe0broken") == (400, {"error": "the image is damaged"})
    assert server.ask("GET", "/elsewhere")[0] == 404
    status, content = server.ask("GET", "/health")
    assert (status, content["status"], content["model"]) == (200, "ok", "untrained")


def test_it_listens_on_this_machine_only(server: Server) -> None:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    hosts = {address.partition(":")[0] for address in listening if int(address.partition(":")[2], 16) == server.port}
    assert hosts == {"0100007F"}


def test_a_sigterm_refuses_a_body_that_is_coming_and_ends_it(server: Server) -> None:
    assert server.process is not None
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
        assert slow.recv(100).startswith(b"HTTP/1.1 100")  # it waits for the body
        slow.sendall(b"abc")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        response = http.client.HTTPResponse(slow)
        response.begin()
        assert response.status == 503
        assert json.loads(response.read()) == {"error": "the endpoint is being shut down; try again later"}
        answered_s = time.monotonic() - began
    assert server.process.wait(timeout=LIMIT_S) == 0, server.log.read_text()
    assert answered_s < SHUTDOWN_GRACE_S
    assert time.monotonic() - began < 3 * SHUTDOWN_GRACE_S  # 5 s on a machine of its own
    with pytest.raises(ConnectionRefusedError):
        server.ask("GET", "/health")


# From here on no endpoint is running: a cluster has one.


def start(run: str, root: Path, *arguments: str) -> subprocess.Popen[str]:
    """An endpoint on a port that is nobody's matter, as none of these comes to listen for long."""
    command = [sys.executable, str(root / "cluster" / "serve.py"), "--model", run, "--port", "0", *arguments]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def busy_cluster() -> Iterator[None]:
    """Other work holds all four CPUs."""

    class Work:
        pass

    actor = ray.remote(num_cpus=4)(Work).remote()
    ray.get(actor.__ray_ready__.remote(), timeout=LIMIT_S)
    yield
    ray.kill(actor)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"replicas": 64}, "holds 4 with --cpus-per-replica 1 and --gpus-per-replica 0, got 64"),
        ({"gpus_per_replica": 1.0}, "holds 0 with --cpus-per-replica 1 and --gpus-per-replica 1, got 1"),
    ],
)
def test_replicas_that_the_cluster_does_not_hold_are_refused(settings: dict[str, Any], sentence: str) -> None:
    check_service_fits(ServeSettings(model="any", replicas=4))
    with pytest.raises(SettingError, match=f"--replicas must fit the cluster, which {sentence}"):
        check_service_fits(ServeSettings(**{"model": "any"} | settings))


@pytest.mark.usefixtures("busy_cluster")
def test_a_start_that_takes_too_long_is_given_up(run: str, root: Path) -> None:
    process = start(run, root, "--start-limit-s", "1")
    errors = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == 4, errors
    assert "error: the replicas did not answer within --start-limit-s 1" in errors


@pytest.mark.usefixtures("busy_cluster")
def test_a_ctrl_c_ends_it_while_it_starts(run: str, root: Path) -> None:
    process = start(run, root)
    assert process.stdout is not None
    assert process.stdout.readline() == "starting, replicas: 1\n"
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == 130, errors


def test_without_its_extra_it_says_which(root: Path) -> None:
    script = str(root / "cluster" / "serve.py")
    program = f"import runpy, sys; sys.modules['starlette'] = None; runpy.run_path({script!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert re.fullmatch(r"error: cluster/serve\.py needs starlette[.\w]*: pip install '\.\[serve\]'\n", done.stderr)
