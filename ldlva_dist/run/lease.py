"""One job at a time in the folder of a run or sweep: a lease, which the job renews for as long as it goes on.

The lease is a file RUN/.lease-N that is made only where there is none. Who takes over from a job that is gone makes the
next number, and then deletes those before: of several that try at once one wins. A job is gone when its process has
ended, where that can be seen (on this machine), or when it has not renewed its lease for EXPIRES_S seconds by the clock
of the disk or store that the lease lies on; nobody compares the clocks of two machines.

A store that knows no condition "unless there is one" keeps what was written last. There a job reads its lease again
after SETTLE_S, and again with every renewal: of two that both believed to be alone, one stops within BEAT_S.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError, DataError, LdlvaError, RunLost, SettingError

PREFIX = ".lease-"
BEAT_S, EXPIRES_S = 5.0, 25.0
LOOK_S = 0.5
"""Between two looks at a lease that may be over."""
SETTLE_S = 2.0
RELEASE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that a job ends with."""

    host: str
    machine: str
    """Machine on which the number means something: its start, and the processes that see each other there."""
    pid: int
    started: str
    """When the process began, in the machine's own count; a number may be given again."""
    since: str
    """For people."""

    @classmethod
    def here(cls) -> "Holder":
        """This process."""
        return cls(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()) if _machine() else "",
            since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        )

    def is_gone(self) -> bool:
        """Whether its process is known to have ended."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
            return self.started != _started(self.pid)
        except ProcessLookupError:
            return True
        except OSError:  # another user's, of whom /proc may say nothing
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job's claim to a folder; workers on any machine can ask whether it still holds."""

    folder: str
    number: int
    holder: Holder
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def uri(self) -> str:
        """The file."""
        return _uri(self.folder, self.number)

    @property
    def text(self) -> bytes:
        """What stands in the file."""
        return json.dumps({"token": self.token, **asdict(self.holder)}, indent=2).encode()

    def require(self) -> None:
        """RunLost once the claim is over; a disk or store that cannot be asked has taken nothing away."""
        try:
            found = storage.read_bytes(self.uri)
        except (ClusterError, SettingError):
            return
        except DataError:
            found = None
        if found != self.text:
            raise RunLost(_why_lost(self.folder))


class Lease:
    """A claim that is renewed by a thread until it is released."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self._lost: RunLost | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """RunLost once a renewal has found that the claim is over."""
        if self._lost:
            raise self._lost

    def release(self) -> None:
        """Let others have the folder; nothing happens where they have it already, or it is gone."""
        self._is_over.set()
        self._thread.join(RELEASE_S)
        with suppress(LdlvaError):
            self.claim.require()
            storage.delete_file(self.claim.uri)

    def _renew(self) -> None:
        while not self._is_over.wait(BEAT_S):
            try:
                self.claim.require()
                storage.touch(self.claim.uri)
            except RunLost as lost:
                self._lost = lost
                return
            except LdlvaError:  # of a disk or store that fails; whether the lease is lost is seen at the next beat
                continue


@contextmanager
def leased(folder: str, holder: Holder | None = None) -> Iterator[Lease]:
    """Hold the folder of a run or sweep, which is made, for this job alone.

    Args:
        folder: Its uri.
        holder: The process that the job ends with, if it is not this one.

    Raises:
        ClusterError: if another job holds it.
    """
    lease = Lease(_take(folder, holder or Holder.here()))
    try:
        yield lease
    finally:
        lease.release()


def find_holder(folder: str) -> Holder | None:
    """The process of the job that works in a folder; None where there is none, or it is gone.

    Args:
        folder: Its uri.
    """
    try:
        number = max(_numbers(folder))
        holder = _read_holder(folder, number)
        written, now = storage.times(_uri(folder, number))
    except (DataError, ValueError):  # none, or released a moment ago
        return None
    return None if holder is None or holder.is_gone() or now - written > EXPIRES_S else holder


def _take(folder: str, holder: Holder) -> Claim:
    storage.make_folder(folder)
    while True:
        newest = max(_numbers(folder), default=0)
        if newest:
            _wait_for_end(folder, newest)
        claim = Claim(folder=folder, number=newest + 1, holder=holder)
        storage.create(claim.uri, claim.text)
        if storage.is_remote(folder):
            time.sleep(SETTLE_S)
        if _is_ours(claim):
            for number in _numbers(folder):
                if number < claim.number:
                    storage.delete_file(_uri(folder, number))
            return claim


def _is_ours(claim: Claim) -> bool:
    """Whether a claim that was just made won; one that did not is taken back."""
    try:
        is_ours = storage.read_bytes(claim.uri) == claim.text
    except DataError:  # its maker has ended already
        return False
    if is_ours and max(_numbers(claim.folder)) > claim.number:
        storage.delete_file(claim.uri)
        return False
    return is_ours


def _wait_for_end(folder: str, number: int) -> None:
    """Return when a lease is over, which may be at once; ClusterError when it is renewed."""
    first, began = None, time.monotonic()
    while True:
        try:
            holder = _read_holder(folder, number)
            written, now = storage.times(_uri(folder, number))
        except DataError:  # released
            return
        unheard_s = max(now - written, time.monotonic() - began)
        if unheard_s > EXPIRES_S or (holder and holder.is_gone()):
            return
        if first is not None and written != first:
            raise ClusterError(
                f"another job is running in {folder} ({holder or 'unknown'}, last sign of life "
                f"{max(0.0, now - written):.0f} s ago): wait until it has ended, stop it, or choose another name"
            )
        first = written
        time.sleep(LOOK_S)


def _read_holder(folder: str, number: int) -> Holder | None:
    """Whose lease it is; None where the file does not say."""
    try:
        values = json.loads(storage.read_bytes(_uri(folder, number)))
        holder = Holder(**{name: values[name] for name in Holder.__dataclass_fields__})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return holder if isinstance(holder.pid, int) and 0 < holder.pid < 1 << 31 else None


def _why_lost(folder: str) -> str:
    newest = max(_numbers(folder), default=0)
    if not newest:
        return f"{folder} was deleted or moved away while a job was running in it: the job stops"
    return (
        f"another job ({_read_holder(folder, newest) or 'unknown'}) has taken over {folder} from this one, of which "
        f"nothing was heard for {EXPIRES_S:g} s: this one stops, and writes nothing more"
    )


def _uri(folder: str, number: int) -> str:
    return storage.join(folder, f"{PREFIX}{number:06d}")


def _numbers(folder: str) -> list[int]:
    """Of the leases there."""
    names = [name.removeprefix(PREFIX) for name in storage.list_folder(folder) if name.startswith(PREFIX)]
    return [int(name) for name in names if name.isdecimal()]


def _machine() -> str:
    """This start of this machine, and the process numbers that are seen here; empty where that cannot be known."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began, in clock ticks since the machine's start; empty for one that only waits to be buried."""
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
