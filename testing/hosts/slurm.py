"""Slurm's commands on hosts of Linux name spaces, as far as cluster/slurm.sh needs them.

The stand-in for `srun` asks for a command on another host by files in a folder that all hosts share, as nodes of such
clusters share their users' homes.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from testing.hosts.spaces import Host

LOOK_S = 0.05
SCONTROL = "#!/bin/sh\nprintf '%s\\n' {names}\n"
SRUN = """#!/usr/bin/env python3
import json, os, pathlib, signal, sys, time

words, node = sys.argv[1:], None
while words[0].startswith("-"):
    if words.pop(0) == "-w":
        node = words.pop(0)
place = pathlib.Path(__file__).parent / f"{os.uname().nodename}-{os.getpid()}"
signal.signal(signal.SIGTERM, lambda *_: place.with_suffix(".end").touch())
draft = place.with_suffix(".draft")
draft.write_text(json.dumps({"node": node, "command": words, "environment": dict(os.environ)}))
draft.rename(place.with_suffix(".request"))
output, code, shown = place.with_suffix(".output"), place.with_suffix(".code"), 0
while True:
    is_done = code.exists()
    said = output.read_bytes()[shown:] if output.exists() else b""
    sys.stdout.buffer.write(said)
    sys.stdout.flush()
    shown += len(said)
    if is_done:
        sys.exit(int(code.read_text()))
    time.sleep(0.05)
"""


class SlurmHosts:
    """Starts what is asked for in a folder, each on its host, and ends it where its asker is to end."""

    def __init__(self, hosts: Mapping[str, Host], names: Sequence[str], folder: Path) -> None:
        """Write the commands into the folder; ``names`` are the nodes of the allocation."""
        self._hosts, self._folder = hosts, folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for command, text in (("srun", SRUN), ("scontrol", SCONTROL.format(names=" ".join(names)))):
            (folder / command).write_text(text)
            (folder / command).chmod(0o755)

    def look(self) -> None:
        """Do what is to be done now."""
        for request in self._folder.glob("*.request"):
            asked = json.loads(request.read_text())
            request.unlink()
            with open(request.with_suffix(".output"), "wb") as output:
                process = self._hosts[asked["node"]].popen(asked["command"], asked["environment"], output)
            self._running[request.stem] = process
        for name, process in list(self._running.items()):
            place = self._folder / name
            if place.with_suffix(".end").exists():
                place.with_suffix(".end").unlink()
                os.killpg(process.pid, signal.SIGTERM)
            if (code := process.poll()) is not None:
                del self._running[name]
                draft = place.with_suffix(".draft")
                draft.write_text(str(code))
                draft.rename(place.with_suffix(".code"))


@contextmanager
def slurm_hosts(hosts: Mapping[str, Host], names: Sequence[str], folder: Path) -> Iterator[None]:
    """Slurm's commands in a folder of the hosts, for as long as the block takes."""
    slurm, is_over = SlurmHosts(hosts, names, folder), threading.Event()

    def serve() -> None:
        while not is_over.wait(LOOK_S):
            slurm.look()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
