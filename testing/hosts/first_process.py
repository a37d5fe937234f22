"""The first process of a host: gives it its name, its mounts and its names of others, then lives by its standard input.

Run by `spaces.py` inside new name spaces: python first_process.py PLAN. What it leaves of this machine is everything
but /tmp, /mnt and /dev/shm; the checkout only to read, a folder that hosts share to write to.
"""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

MEMORY_MIB = 1024
ASIDE = Path("/mnt")


def main(plan: dict[str, Any]) -> None:
    """Set up, say so, wait."""
    socket.sethostname(plan["name"])
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "tmpfs", str(ASIDE))
    kept = {folder: ASIDE / str(number) for number, folder in enumerate(plan["keep"] + plan["share"])}
    for folder, aside in kept.items():
        aside.mkdir()
        mount("--bind", folder, str(aside))
    mount("-t", "tmpfs", "-o", f"size={plan['disk_mib']}m", "tmpfs", "/tmp")
    mount("-t", "tmpfs", "-o", f"size={MEMORY_MIB}m", "tmpfs", "/dev/shm")
    for folder, aside in kept.items():
        Path(folder).mkdir(parents=True, exist_ok=True)
        mount("--move", str(aside), folder)
        if folder not in plan["share"]:
            mount("-o", "remount,bind,ro", folder)
    names = {"localhost": "127.0.0.1", **plan["names"]}
    replace("/etc/hosts", "".join(f"{address} {name}\n" for name, address in names.items()))
    replace("/etc/resolv.conf", "")  # nobody to ask, so that other names are unknown at once
    Path("/tmp/home").mkdir()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # it takes leave of orphans
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


def replace(path: str, text: str) -> None:
    """Let a file be another one on this host."""
    other = ASIDE / Path(path).name
    other.write_text(text)
    mount("--bind", str(other), path)


def mount(*arguments: str) -> None:
    """Mount's own command."""
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
