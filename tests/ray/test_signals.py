"""A SIGTERM, as `ray job stop` sends it, ends a connected job as a Ctrl-C does."""

import os
import signal
import subprocess
import sys

import pytest
import ray

JOB = """
import faulthandler
import threading
from ldlva_dist.runtime import placement
from ldlva_dist.reporting.terminal import run_job

def main():
    placement.connect()
    print("connected", flush=True)
    threading.Event().wait()

faulthandler.dump_traceback_later(60, exit=True)  # whatever it waits for
run_job(main)
"""


@pytest.mark.usefixtures("cluster")
def test_a_sigterm_is_one_sentence_and_130() -> None:
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    pipe = subprocess.PIPE
    job = subprocess.Popen([sys.executable, "-c", JOB], env=environment, stdout=pipe, stderr=pipe, text=True)
    assert job.stdout is not None
    assert job.stdout.readline() == "connected\n"
    job.send_signal(signal.SIGTERM)
    assert (job.communicate(timeout=60)[1], job.returncode) == ("error: interrupted\n", 130)
