"""A local cluster for many tests."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]

NUM_CPUS = 4
END_LIMIT_S = 60.0
TAKE_LIMIT_S = 300.0


@contextmanager
def shared_cluster() -> Iterator[None]:
    """One node of four CPUs to which this process is connected, with forked workers; gone after the block."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's own default where a cluster is started
    Config.initialize("")  # Ray's core was imported before that
    head = subprocess.Popen(
        [sys.executable, "-m", "testing.clusters.forking_head", str(NUM_CPUS)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert head.stdin
    assert head.stdout
    try:
        said = head.stdout.readline()
        assert said, "the head did not start"
        ray.init(address=json.loads(said)["address"], log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        head.stdin.close()
        head.wait(END_LIMIT_S)


@contextmanager
def taken(cpus: float) -> Iterator[None]:
    """CPUs of the cluster that nobody else has for a while; within one node."""
    group = ray.util.placement_group([{"CPU": cpus}])
    try:
        ray.get(group.ready(), timeout=TAKE_LIMIT_S)
        yield
    finally:
        ray.util.remove_placement_group(group)
