"""Hosts of Linux name spaces: each has its own network, mounts, processes and name, and shares nothing but the code.

A switch is a network with nothing in it but a bridge; each host hangs on it by a cable (a veth pair). Needs root,
iproute2 and util-linux. The first process of each lives by its standard input, so that nothing outlives this process.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).parents[2]
COMMANDS = ("ip", "mount", "nsenter", "unshare")
OWN_NETWORK = ("--net",)
ALL_OWN = ("--net", "--mount", "--uts", "--ipc", "--pid", "--mount-proc")
ENTER = ("--net", "--mount", "--uts", "--ipc", "--pid")
NETWORK_KIND = 0x40000000  # CLONE_NEWNET
NOWHERE = "dead0"
NOBODY = "02:00:00:00:de:ad"
"""A network card that nobody has: what is sent to it is lost without a word."""
LIMIT_S = 20.0
_libc = ctypes.CDLL(None, use_errno=True)


def why_no_hosts() -> str | None:
    """What keeps this machine from having such hosts; None where nothing does."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        return f"there is no command {missing[0]}"
    bridge = ["ip", "link", "add", "br0", "type", "bridge"]
    done = subprocess.run(["unshare", *ALL_OWN, "--fork", *bridge], capture_output=True, text=True, check=False)
    return f"name spaces cannot be made: {done.stderr.strip().splitlines()[0]}" if done.returncode else None


class Space:
    """Name spaces, and the first process in them; all in them ends with it."""

    def __init__(self, kinds: Sequence[str], first: Sequence[str]) -> None:
        """Start the first process, which prints one line once it is ready and ends when its standard input does."""
        command = ["unshare", *kinds, "--fork", "--kill-child", *first]
        self._outer = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._outer.stdout
        assert self._outer.stdout.readline() == "ready\n", f"{first[0]} did not start in name spaces of its own"
        (first_process,) = psutil.Process(self._outer.pid).children()
        self.pid = first_process.pid

    def ip(self, arguments: str) -> None:
        """A command of iproute2 in this network."""
        subprocess.run(["nsenter", "-t", str(self.pid), "--net", "ip", *arguments.split()], check=True)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread opens inside the block are of this network; so are those of threads begun in it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            enter_network(there)
            yield
        finally:
            enter_network(home)
            os.close(home)
            os.close(there)

    def end(self) -> None:
        """End all processes in it at one stroke, as when the power goes."""
        self._outer.kill()
        self._outer.communicate()
        wait_for(lambda: not is_alive(self.pid), f"end of process {self.pid}", LIMIT_S)


class Switch(Space):
    """What the cables lead to."""

    def __init__(self) -> None:
        super().__init__(OWN_NETWORK, ["sh", "-c", "echo ready; exec cat"])
        self.ip("link add br0 type bridge")
        self.ip("link set br0 up")


class Host(Space):
    """One machine."""

    def __init__(
        self,
        name: str,
        addresses: Mapping[str, str],
        switch: Switch,
        *,
        disk_mib: int = 1024,
        shared: Path | None = None,
    ) -> None:
        """Start it, empty, and plug it in.

        Args:
            name: Its own name, which means 127.0.1.1 to itself, as Debian's installer writes it.
            addresses: Of all hosts, by name.
            switch: Where its cable leads to.
            disk_mib: Size of its disk, which is its /tmp.
            shared: A folder that it has in common with others, to write to; None: none.
        """
        self.name, self.address, self._switch = name, addresses[name], switch
        self._line: subprocess.Popen[bytes] | None = None
        names = {other: "127.0.1.1" if other == name else address for other, address in addresses.items()}
        plan = {"name": name, "names": names, "disk_mib": disk_mib, "keep": sorted(_folders_to_keep())}
        plan["share"] = [str(shared)] if shared else []
        first = Path(__file__).with_name("first_process.py")
        super().__init__(ALL_OWN, [sys.executable, "-S", str(first), json.dumps(plan)])
        cable = ["ip", "link", "add", self._plug, "netns", str(switch.pid), "type", "veth"]
        subprocess.run([*cable, "peer", "name", "eth0", "netns", str(self.pid)], check=True)
        switch.ip(f"link set {self._plug} master br0 up")
        self.take_address()
        self._add_network_to_nowhere()

    @property
    def _plug(self) -> str:
        return f"sw-{self.name}"

    def take_address(self) -> None:
        """Give the network card its addresses; that of the card stays the same when the host comes back."""
        card = ":".join(f"{int(number):02x}" for number in self.address.split("."))
        self.ip(f"link set eth0 address 02:00:{card}")
        self.ip(f"addr add {self.address}/24 dev eth0")
        self.ip("link set eth0 up")
        self.ip("link set lo up")

    def _add_network_to_nowhere(self) -> None:
        """A second network, which comes first by name and by number, leads nowhere."""
        self.ip(f"link add {NOWHERE} type veth peer name {NOWHERE}-end")
        self.ip(f"addr add 10.0.0.{self.address.split('.')[-1]}/24 dev {NOWHERE}")
        self.ip(f"link set {NOWHERE} up")
        self.ip(f"link set {NOWHERE}-end up")

    def slow_down(self, delay_ms: float, log: Path, *, loss: float = 0.0) -> None:
        """Put a slow, lossy line in the place of its cable; before anything talks over it.

        Args:
            delay_ms: Of every frame, in each direction.
            log: For what the line says.
            loss: Share of frames that are lost.
        """
        self.ip("link del eth0")
        arguments = [self._switch.pid, self.pid, self._plug, delay_ms, loss]
        command = [sys.executable, "-m", "testing.hosts.slow_line", *map(str, arguments)]
        with open(log, "wb") as output:
            self._line = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        wait_for(lambda: log.read_text() == "ready\n", f"slow line ({log})", LIMIT_S)
        self.take_address()

    def change_line(self, delay_ms: float, loss: float) -> None:
        """Let its slow line be another one from now on."""
        assert self._line, "there is a slow line"
        assert self._line.stdin
        self._line.stdin.write(f"{delay_ms} {loss}\n".encode())
        self._line.stdin.flush()

    def end(self) -> None:
        """End all processes on it at one stroke, as when the power goes."""
        if self._line:
            self._line.kill()
            self._line.communicate()
        super().end()
        unplug = ["nsenter", "-t", str(self._switch.pid), "--net", "ip", "link", "del", self._plug]
        subprocess.run(unplug, stderr=subprocess.DEVNULL, check=False)  # the kernel may have been faster

    def plug(self, *, is_in: bool) -> None:
        """Pull the cable, or put it back."""
        self._switch.ip(f"link set {self._plug} {'up' if is_in else 'down'}")

    def silence(self, address: str) -> None:
        """Lose all packets to one address, and no others."""
        self.ip(f"neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent")

    def end_silence(self, address: str) -> None:
        """Send packets to that address again."""
        self.ip(f"neigh del {address} dev eth0")

    def popen(
        self, command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        """Start a command on this host, in the checkout, with this environment alone.

        In a session of its own: Linux shares the CPUs among sessions, and Ctrl-C is not told to other machines.
        """
        enter = ["nsenter", "-t", str(self.pid), *ENTER, f"--wdns={ROOT}", "env", "-i"]
        settings = [f"{name}={value}" for name, value in environment.items()]
        return subprocess.Popen(
            [*enter, *settings, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def processes(self) -> list[psutil.Process]:
        """All that run on it, but for the first one."""
        own = _process_space(self.pid)
        return [each for each in psutil.process_iter() if each.pid != self.pid and _process_space(each.pid) == own]

    def kill(self, beginning: str) -> int:
        """Kill the processes whose command line begins so; how many there were."""
        victims = [process for process in self.processes() if command_of(process).startswith(beginning)]
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return len(victims)

    def disk(self) -> Path:
        """Its disk as this process sees it."""
        return Path("/proc", str(self.pid), "root", "tmp")


def enter_network(namespace: int) -> None:
    """Let this thread's sockets be of a network that is open as a file."""
    if _libc.setns(namespace, NETWORK_KIND):
        raise OSError(ctypes.get_errno(), "the network of a host cannot be entered")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> str:
    """A process's command line; empty for one that has ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def wait_for(happened: Callable[[], bool], what: str, limit_s: float) -> None:
    """Return as soon as something happened."""
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, f"no {what} after {limit_s:g} s"
        time.sleep(0.1)


def _process_space(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _folders_to_keep() -> set[str]:
    """What a host needs of this machine that its own /tmp would hide."""
    interpreter = Path(sys.base_prefix).resolve()
    store = (ROOT / ".venv-swift").resolve()
    temporary = Path(tempfile.gettempdir()).resolve()
    return {str(ROOT)} | {
        str(path) for path in (interpreter, store) if path.is_relative_to(temporary) and path.exists()
    }
