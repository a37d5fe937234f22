"""CPU seconds and memory of this process and of all that it started, as Linux counts them."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PRIVATE_EVERY_S = 0.01


def cpu_seconds_of_all() -> float:
    """User and system time; what processes that have ended used is lost with them."""
    return sum((int(fields[11]) + int(fields[12])) / TICKS for fields in _family().values())


class Watch:
    """Looks at the processes now and then while it is open."""

    every_s = 0.5

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Look once."""
        raise NotImplementedError

    def _watch(self) -> None:
        while not self._stop.wait(self.every_s):
            self.look()


class PeakMemory(Watch):
    """The largest sum of all processes' memory while it is open, shared pages counted once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0

    def look(self) -> None:
        self.peak = max(self.peak, sum(_proportional_bytes(pid) for pid in _family()))


class PrivatePeak:
    """By how much the private memory of each of some processes grows at most until ``stop``; no shared pages."""

    def __init__(self, *pids: int) -> None:
        self._before = {pid: private_bytes(pid) for pid in pids}
        self._most = dict(self._before)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> list[int]:
        """Bytes, of each process."""
        self._stop.set()
        self._thread.join()
        return [self._most[pid] - before for pid, before in self._before.items()]

    def _watch(self) -> None:
        while not self._stop.wait(PRIVATE_EVERY_S):
            self._most = {pid: max(most, private_bytes(pid)) for pid, most in self._most.items()}


class PeakByRole(Watch):
    """The largest private memory of a single process of each role, while it is open; shared pages do not count.

    ``roles`` are the beginnings of command lines; the process ``driver`` has a role of that name. It looks often:
    a task of the stream lives for a second, a checkpoint's copies for a fifth of one.
    """

    every_s = 0.05

    def __init__(self, roles: dict[str, str], driver: int) -> None:
        super().__init__()
        self.peaks: dict[str, int] = {}
        self._roles, self._driver, self._seen = roles, driver, dict[int, str]()

    def look(self) -> None:
        for pid in _family():
            with suppress(OSError):
                role, size = self._role(pid), private_bytes(pid)
                self.peaks[role] = max(self.peaks.get(role, 0), size)

    def _role(self, pid: int) -> str:
        """A worker that rests between two tasks keeps its role."""
        if pid == self._driver:
            return "driver"
        line = Path(f"/proc/{pid}/cmdline").read_text()
        role = next(
            (role for name, role in self._roles.items() if line.startswith(name)), self._seen.get(pid, "others")
        )
        self._seen[pid] = role
        return role


def private_bytes(pid: int) -> int:
    """Resident memory of a process that no file and no other process shares."""
    _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
    return (int(resident) - int(shared)) * PAGE


def _family() -> dict[int, list[str]]:
    """The fields after the name in ``/proc/PID/stat`` of this process and its descendants."""
    stats: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has just ended
                stats[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
    family = {os.getpid()}
    while more := {pid for pid, fields in stats.items() if int(fields[1]) in family} - family:
        family |= more
    return {pid: stats[pid] for pid in family}


def _proportional_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
