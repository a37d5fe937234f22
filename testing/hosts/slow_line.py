"""A slow, lossy line before a host, for kernels without netem: python slow_line.py SWITCH_PID HOST_PID CARD MS LOSS.

Two tap devices, one on the switch's bridge and one that is the host's network card. Every frame is kept MS milliseconds
in each direction, so that a round trip is twice that longer, and a share LOSS of them is dropped. A line "MS LOSS" on
its standard input changes both. What a network card would cut into frames comes whole, some 40 at a time, unless
frames are to be lost one by one: carrying them costs the CPUs that the hosts share.
"""

import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from testing.hosts.spaces import enter_network

TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000
TUNSETOFFLOAD, CHECKSUMS, SEGMENTS = 0x400454D0, 0x01, 0x02 | 0x04
STDIN = 0
FRAMES_AT_ONCE, FRAME_BYTES = 256, 1 << 17
FIRST = -20
"""Niceness: a wire waits for no CPU."""


def tap(pid: int, name: str) -> int:
    """A device of that name in the network of a process; what is read from it was sent by it."""
    with open("/proc/self/ns/net") as home, open(f"/proc/{pid}/ns/net") as there:
        enter_network(there.fileno())
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        enter_network(home.fileno())
    return device


def cut_into_frames(device: int, is_lossy: bool) -> None:
    """Let the kernel cut what it hands over into frames, and sum them up, or leave both to the receiver's kernel."""
    fcntl.ioctl(device, TUNSETOFFLOAD, 0 if is_lossy else CHECKSUMS | SEGMENTS)


class Relay:
    """Two ends, and the frames between them."""

    def __init__(self, ends: tuple[int, int], delay_s: float, loss: float) -> None:
        self._other = dict(zip(ends, reversed(ends), strict=True))
        self._queues: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in ends}
        self.change(delay_s, loss)

    def change(self, delay_s: float, loss: float) -> None:
        """Be another line from now on."""
        self._delay_s, self._loss = delay_s, loss
        for end in self._other:
            cut_into_frames(end, loss > 0)

    def carry(self) -> bool:
        """Wait for a frame that comes or is due, and carry all such; False once standard input has ended."""
        due = min((queue[0][0] for queue in self._queues.values() if queue), default=time.monotonic() + 1)
        ready: set[int] = set(select.select([*self._other, STDIN], [], [], max(0.0, due - time.monotonic()))[0])
        if STDIN in ready:
            if not (told := os.read(STDIN, FRAME_BYTES).split()):  # who started it is gone
                return False
            self.change(float(told[-2]) / 1000, float(told[-1]))
        for end in ready - {STDIN}:
            with suppress(OSError):  # none left, or the card is down
                for _ in range(FRAMES_AT_ONCE):
                    frame = os.read(end, FRAME_BYTES)
                    if random.random() >= self._loss:
                        self._queues[self._other[end]].append((time.monotonic() + self._delay_s, frame))
        now = time.monotonic()
        for end, queue in self._queues.items():
            while queue and queue[0][0] <= now:
                with suppress(OSError):  # a full queue drops, as a switch does
                    os.write(end, queue.popleft()[1])
        return True


def main(switch: int, host: int, card: str, delay_s: float, loss: float) -> None:
    """Carry frames until its standard input ends."""
    os.nice(FIRST)
    with suppress(OSError):  # where Linux shares the CPUs among processes, not sessions
        Path("/proc/self/autogroup").write_text(str(FIRST))
    relay = Relay((tap(switch, card), tap(host, "eth0")), delay_s, loss)
    into = ["nsenter", "-t", str(switch), "--net", "ip", "link", "set", card, "master", "br0", "up"]
    subprocess.run(into, check=True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while relay.carry():
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]) / 1000, float(sys.argv[5]))
