"""A job's own cluster: it is on the loopback, its workers are forks of the job, and nothing outlives the job."""

import ipaddress
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

JOB = """
import json, os, sys
from importlib import import_module
from ldlva_dist.runtime.connect import connect

connect(lambda: import_module("ldlva_dist.bank.service"))  # its actor classes draw ids as it is imported

import psutil
import ray
from ldlva_dist.runtime.growth import can_grow

class Actor:
    def __init__(self):
        self.is_preloaded = "ldlva_dist.bank.service" in sys.modules
    def look(self):
        import numpy as np
        return {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "is_preloaded": self.is_preloaded,
            "threads": os.environ["OMP_NUM_THREADS"],
            "random": np.random.random(),
            "id": ray._raylet.UniqueID.from_random().hex(),
            "files": [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)],
            "groups": os.getpgid(0),
            "can_grow": can_grow(),
        }

actor = ray.remote(Actor).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
actors = [actor.remote() for _ in range(2)]
print(json.dumps(ray.get([each.look.remote() for each in actors])), flush=True)
for line in sys.stdin:
    print(json.dumps(ray.get(actors[0].look.remote())), flush=True)
"""
LIMIT_S = 60


class Job:
    """A job that starts two actors, and says where they are."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first, self.second = self._line()
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def look(self) -> dict:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self):
        assert self.process.stdout
        said = self.process.stdout.readline()
        return json.loads(said) if said[0] in "[{" else self._line()  # Ray tells of lost workers, too


@pytest.fixture(scope="module")
def job() -> Iterator[Job]:
    job = Job()
    yield job
    job.process.kill()
    job.process.wait(LIMIT_S)


def test_every_port_of_it_is_on_the_loopback(job: Job) -> None:
    places = [
        (process.name(), connection.laddr.ip)
        for process in (psutil.Process(job.process.pid), *job.family)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {"gcs_server", "raylet"} <= {name for name, _ in places}
    outside = [(name, ip) for name, ip in places if not ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback]
    assert not outside


def test_nobody_waits_for_nodes_that_cannot_join(job: Job) -> None:
    assert not job.first["can_grow"]


def test_workers_are_forks_that_ray_sees_end_and_starts_again(job: Job) -> None:
    """In the end the job ends, too: this is the last test that has it."""
    first, second = job.first, job.second
    assert first["parent"] == second["parent"]
    assert psutil.Process(first["parent"]).ppid() == job.process.pid
    assert first["is_preloaded"]
    assert second["is_preloaded"]
    assert first["threads"] == "1"
    assert first["random"] != second["random"]
    assert first["id"] != second["id"]  # equal ones, in any thread, end the actors that both call
    assert first["groups"] == first["pid"]
    assert not set(first["files"][1:]) & {os.readlink(f"/proc/{job.process.pid}/fd/1")}

    os.kill(first["pid"], signal.SIGKILL)
    again = job.look()
    assert again["pid"] != first["pid"]
    assert again["parent"] == first["parent"]

    # Ray ends a worker by the process that it started.
    starters = [each for each in job.family if each.is_running() and "start_worker.py" in " ".join(each.cmdline()[:2])]
    for starter in starters:
        starter.kill()
    assert psutil.wait_procs([psutil.Process(second["pid"])], LIMIT_S)[1] == []

    assert job.process.stdin
    job.process.stdin.close()
    assert job.process.wait(LIMIT_S) == 0
    assert psutil.wait_procs(job.family, LIMIT_S)[1] == []


def test_nothing_outlives_a_job_that_is_killed() -> None:
    job = Job()
    job.process.kill()
    assert psutil.wait_procs(job.family, LIMIT_S)[1] == []
