"""A slow link to a network namespace: what runs there is far away from this machine.

Two TUN devices, one of them in the namespace, and a process that passes packets between them
with a delay, and loses some. Unlike the kernel's netem it needs no module, only
``/dev/net/tun``. Needs root.

The process is ``python far_link.py DEVICE PEER``: it takes commands on its standard input, see
`main`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

#: addresses of this machine and of the other end
NEAR, FAR = "10.213.0.1", "10.213.0.2"
_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
#: larger than any packet
_LARGEST = 65536


class Missing(RuntimeError):
    """This machine cannot make the link; the message says what is missing."""


def check() -> None:
    """Raise Missing if anything is missing, all of it at once."""
    missing = []
    if os.geteuid() != 0:
        missing.append("root (the user of this process is not root)")
    if shutil.which("ip") is None:
        missing.append("the command ip (Debian: apt-get install iproute2)")
    if not _TUN.exists():
        missing.append(f"{_TUN} (modprobe tun)")
    if missing:
        raise Missing("A link to a network namespace needs " + ", and ".join(missing))


class Link:
    """The link and the namespace; a context manager, which takes both away again.

    Raises
    ------
    Missing
        If this machine cannot make it.
    """

    def __init__(self) -> None:
        check()
        number = os.getpid()
        #: name of the namespace
        self.namespace = f"far{number}"
        self._near, self._far = f"fn{number}", f"ff{number}"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Link:
        taken = subprocess.run(["ip", "addr"], capture_output=True, text=True).stdout
        if NEAR in taken:
            raise Missing(f"the address {NEAR} is in use: another link is there")
        try:
            self._connect()
        except BaseException:
            self._take_away()
            raise
        return self

    def _connect(self) -> None:
        _ip("netns", "add", self.namespace)
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._near, self._far],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise Missing("the TUN devices cannot be made")
        _ip("link", "set", self._far, "netns", self.namespace)
        _ip("addr", "add", NEAR, "peer", FAR, "dev", self._near)
        _ip("link", "set", self._near, "up")
        inside = "-n", self.namespace
        _ip(*inside, "addr", "add", FAR, "peer", NEAR, "dev", self._far)
        _ip(*inside, "link", "set", self._far, "up")
        _ip(*inside, "link", "set", "lo", "up")

    def __exit__(self, *_: object) -> None:
        self._take_away()

    def _take_away(self) -> None:
        if self._process is not None:
            self._process.communicate()  # closes its input, which ends it
        subprocess.run(
            ["ip", "netns", "delete", self.namespace], stderr=subprocess.DEVNULL
        )

    def set(self, *, delay: float, loss: float = 0.0) -> None:
        """Choose the delay (seconds, each way) and the share of lost packets."""
        self._tell(f"set {delay} {loss}")

    def down(self) -> None:
        """Lose all packets from now on."""
        self._tell("down")

    def up(self) -> None:
        """Pass packets again."""
        self._tell("up")

    def trace(self, path: Path) -> None:
        """Write a line for each packet with content into a file from now on."""
        self._tell(f"trace {path}")

    def _tell(self, command: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs a command at the other end."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


# -- the process ---------------------------------------------------------------------


class Pump:
    """Passes packets between two TUN devices."""

    def __init__(self, names: Sequence[str]) -> None:
        self._devices = [_device(name) for name in names]
        self._delay = self._loss = 0.0
        self._down = False
        #: packets on their way: (`time.monotonic` of the arrival, number, device, packet)
        self._packets: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._trace: int | None = None
        self._random = random.Random(0)

    def run(self) -> None:
        """Pass packets until the standard input is closed."""
        poll = select.poll()
        for each in (*self._devices, 0):
            poll.register(each, select.POLLIN)
        os.set_blocking(0, False)
        while True:
            wait = -1.0
            if self._packets:
                wait = max(0.0, self._packets[0][0] - time.monotonic()) * 1000
            ready = {each for each, _ in poll.poll(wait)}
            if 0 in ready:
                commands = os.read(0, _LARGEST)
                if not commands:
                    return
                for command in commands.decode().splitlines():
                    self._obey(*command.split())
            for index, device in enumerate(self._devices):
                if device in ready:
                    self._read(device, self._devices[1 - index])
            now = time.monotonic()
            while self._packets and self._packets[0][0] <= now:
                _, _, device, packet = heapq.heappop(self._packets)
                with contextlib.suppress(OSError):  # not up yet, or not any more
                    os.write(device, packet)

    def _read(self, device: int, other: int) -> None:
        now = time.monotonic()
        while True:
            try:
                packet = os.read(device, _LARGEST)
            except BlockingIOError:
                return
            if self._trace is not None:
                self._note(device, packet)
            if not self._down and self._random.random() >= self._loss:
                self._number += 1
                arrival = now + self._delay
                heapq.heappush(self._packets, (arrival, self._number, other, packet))

    def _obey(self, command: str, *values: str) -> None:
        if command == "set":
            self._delay, self._loss = map(float, values)
        elif command == "trace":
            self._trace = os.open(values[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        else:
            self._down = command == "down"

    def _note(self, device: int, packet: bytes) -> None:
        assert self._trace is not None
        if packet[0] >> 4 != 4 or packet[9] != 6:
            return  # not TCP
        start = (packet[0] & 15) * 4
        source, target = struct.unpack("!HH", packet[start : start + 4])
        flags = packet[start + 13]
        content = packet[start + (packet[start + 12] >> 4) * 4 :]
        if not content and not flags & 7:  # an acknowledgement
            return
        way = "<-" if device == self._devices[0] else "->"
        port, other = (source, target) if way == "<-" else (target, source)
        kind = "SYN" if flags & 2 else "FIN" if flags & 5 else ""
        shown = "".join(chr(c) if 32 <= c < 127 else "." for c in content[:150])
        line = f"{time.monotonic():.4f} {way} {port} {other} {kind}{len(content)} {shown}\n"
        os.write(self._trace, line.encode())


def _device(name: str) -> int:
    device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(device, _TUNSETIFF, request)
    return device


def main() -> None:
    """Run the process of the link.

    Commands, one a line: ``set DELAY LOSS``, ``down``, ``up``, ``trace FILE``.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("devices", nargs=2)
    pump = Pump(parser.parse_args().devices)
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # otherwise the link is as slow as this machine is busy
    print("ready", flush=True)
    pump.run()


if __name__ == "__main__":
    main()
