r"""Tell Ray that this machine will go: python cluster/drain.py [--notice-file F | --notice-url U] [--seconds N].

Ray's drain starts nothing new on the node and lets a run save its checkpoint while there is time. Without a notice to
wait for (a pod's preStop hook) it drains at once, and ends when nothing works on the node any more or after --seconds.
With one it waits beside `ray start`: until a file exists, until an address answers with 200 (and with --notice-text,
where that is given), or until it gets a SIGTERM itself; and in the end it ends the node, three seconds after its time,
which Ray would miss only after half a minute if its power went first. The notices of three clouds:

    AWS    --notice-url http://169.254.169.254/latest/meta-data/spot/instance-action --seconds 110
    GCP    --notice-url http://metadata.google.internal/computeMetadata/v1/instance/preempted \
               --notice-header Metadata-Flavor:Google --notice-text TRUE --seconds 25
    Azure  --notice-url http://169.254.169.254/metadata/scheduledevents?api-version=2020-07-01 \
               --notice-header Metadata:true --notice-text Preempt --seconds 25
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro

from ldlva_dist.errors import ClusterError, SettingError
from ldlva_dist.records.console import say
from ldlva_dist.reporting.terminal import run_job

LOOK_S, ANSWER_LIMIT_S, DRAIN_LIMIT_S = 1.0, 5.0, 60.0
RESTART_S = 3.0
"""Ray Train looks every other second whether a node's time is over; a worker that ended before would be a failure."""
AWS = "http://169.254.169.254/latest/"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to wait for, and for how long the node is still there."""

    notice_file: str | None = None
    """File that exists once the machine will be taken away."""
    notice_url: str | None = None
    """Address that answers with 200 once the machine will be taken away."""
    notice_text: str = ""
    """Text that the answer must hold."""
    notice_header: tuple[str, ...] = ()
    """NAME:VALUE headers of the question; AWS's own token is asked for where there is none."""
    seconds: int = 90
    """Seconds from the notice to the end of the machine, less five or so."""
    node_id: str | None = None
    """Ray's id of the node; the one node of this machine, if not given."""

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise SettingError(f"--seconds must be >= 0, got {self.seconds}")
        if self.notice_file and self.notice_url:
            raise SettingError("there must be one of --notice-file and --notice-url, got both")
        wrong = [header for header in self.notice_header if ":" not in header]
        if wrong:
            raise SettingError(f"--notice-header must be NAME:VALUE, got {wrong[0]!r}")


def main() -> None:
    """Wait for a notice, drain, and wait until the node is idle or its time is over; end it, if nobody else will."""
    arguments = tyro.cli(Arguments, description=__doc__)
    raylet = find_raylet(arguments.node_id)
    reason = wait_for_notice(arguments)
    deadline = time.monotonic() + arguments.seconds + RESTART_S
    drain(raylet, reason, arguments.seconds)
    say(f"draining: {reason}; {arguments.seconds} s left")
    while time.monotonic() < deadline and is_busy(raylet):
        time.sleep(LOOK_S)
    if arguments.notice_file or arguments.notice_url:
        with suppress(psutil.NoSuchProcess):
            raylet.terminate()


def wait_for_notice(arguments: Arguments) -> str:
    """The reason, once there is one."""
    if not arguments.notice_file and not arguments.notice_url:
        return "the pod or machine is being stopped"
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    while not asked.wait(LOOK_S):
        if arguments.notice_file and Path(arguments.notice_file).exists():
            return f"notice in {arguments.notice_file}"
        if arguments.notice_url and _answers(arguments):
            return f"notice at {arguments.notice_url}"
    return "SIGTERM"


def find_raylet(node_id: str | None) -> psutil.Process:
    """The process of a Ray node on this machine."""
    found = [process for process in psutil.process_iter() if _is_raylet(process, node_id)]
    if len(found) != 1:
        rule = f"a node {node_id} on this machine" if node_id else "one Ray node on this machine, or --node-id"
        raise SettingError(f"there must be {rule}, got {len(found)}")
    return found[0]


def drain(raylet: psutil.Process, reason: str, seconds: int) -> None:
    """Ray's own command, with what it needs to know of the node."""
    beside = Path(sys.executable).with_name("ray")
    command = [str(beside) if beside.exists() else shutil.which("ray") or "ray", "drain-node"]
    command += ["--address", _option(raylet, "gcs-address"), "--node-id", _option(raylet, "node_id")]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", reason]
    command += ["--deadline-remaining-seconds", str(seconds)]
    # Else Ray takes 127.0.0.1 for the machine's outer address.
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=DRAIN_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"Ray's head did not take the notice within {DRAIN_LIMIT_S:g} s") from error
    if done.returncode:
        raise ClusterError(f"Ray did not take the notice: {(done.stderr.strip() or 'no word').splitlines()[-1]}")


def is_busy(raylet: psutil.Process) -> bool:
    """Whether an actor or a task works on the node."""
    return any(name.startswith("ray::") and not name.startswith("ray::IDLE") for name in _titles(raylet))


def _titles(raylet: psutil.Process) -> Iterator[str]:
    try:
        for process in raylet.children():
            yield (process.cmdline() or [""])[0]
    except psutil.NoSuchProcess:
        return


def _is_raylet(process: psutil.Process, node_id: str | None) -> bool:
    try:
        return process.name() == "raylet" and node_id in (None, _option(process, "node_id"))
    except psutil.Error:
        return False


def _option(process: psutil.Process, name: str) -> str:
    start = f"--{name}="
    return next((part.removeprefix(start) for part in process.cmdline() if part.startswith(start)), "")


def _answers(arguments: Arguments) -> bool:
    headers = dict(header.split(":", 1) for header in arguments.notice_header)
    url = arguments.notice_url or ""
    try:
        if url.startswith(AWS) and not headers:
            headers = {"X-aws-ec2-metadata-token": _aws_token()}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=ANSWER_LIMIT_S) as answer:
            return answer.status == 200 and arguments.notice_text in answer.read(1 << 16).decode(errors="replace")
    except OSError:  # 404 until there is a notice; a metadata server that is slow is asked again
        return False


def _aws_token() -> str:
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    asked = urllib.request.Request(f"{AWS}api/token", method="PUT", headers=lifetime)
    with urllib.request.urlopen(asked, timeout=ANSWER_LIMIT_S) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    run_job(main)
