"""TCP connections of a gRPC server, before, between and beside authenticated calls.

Connections without an authenticated call have a budget: above it, the oldest are closed. gRPC
itself would reject new ones, anyone's.

gRPC limits the size of a call's metadata only when the client has acknowledged its settings. Until
then it keeps up to 16 MiB of a block of headers that does not end, in 24 MiB of memory, on each
connection, and no call starts. So connections that send more than a call needs are closed, too:

    FREE_BYTES                 since the last step of an authenticated call, or the connection began
    the limit of a message     for each call that is receiving its message
    a 16th of what they get    flow control and acknowledgements of rows that they read

Connections of trusted peers are not limited. The kernel counts the bytes, and lists connections in
/proc; on systems without it none are closed. Callers on unix sockets belong to the server's user.
"""

import logging
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from pyspark_theflash.base.memory import return_freed_memory
from pyspark_theflash.net.address import UNIX

FREE_BYTES: Final = 128 << 10
PENDING_MAX: Final = 256
"""Connections without an authenticated call."""
_SENT_PART: Final = 16
_LOOK_S: Final = 0.1
_LOG_LOOKS: Final = 10
"""One line is logged in so many looks."""
_DESCRIPTORS: Final = "/proc/self/fd"
_INFO_BYTES: Final = 256
_COUNTS: Final = struct.Struct("@QQ")
_COUNTS_AT: Final = 120
"""The position of `tcpi_bytes_acked` and `tcpi_bytes_received` in the kernel's `tcp_info`."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counts:
    since: int
    """The check that listed the connection first."""
    received: int = 0
    sent: int = 0
    granted: int = 0
    """Received bytes that are not counted."""
    is_over: bool = False


class Inflow:
    """Decides which connections are closed. Thread-safe."""

    def __init__(self, message_bytes: int, pending_max: int = PENDING_MAX) -> None:
        """Decide with these limits.

        Args:
            message_bytes: The limit of a message that authenticated callers send.
            pending_max: The limit of connections without an authenticated call.
        """
        self._message_bytes, self._mutex = message_bytes, threading.Lock()
        self._pending_max, self._checks = pending_max, 0
        self._receiving: Counter[str] = Counter()
        self._called: set[str] = set()
        """Connections with a step of a call since the last check."""
        self._trusted: set[str] = set()
        self._admitted: dict[str, Callable[[], None]] = {}
        """Functions to call when a connection has ended."""
        self._rejected: set[str] = set()
        """Connections of which a call was rejected; these are closed first."""
        self._absent: set[str] = set()
        """Connections in the collections above that the last check did not list: new or ended."""
        self._counts: dict[str, _Counts] = {}

    def trust(self, peer: str) -> None:
        """Do not limit a connection, by its name in gRPC."""
        with self._mutex:
            self._trusted.add(_place(peer))

    def admit(self, peer: str, acquire: Callable[[], Callable[[], None]]) -> None:
        """Note an authenticated call of a connection, by its name in gRPC.

        With its first call, the connection is counted by `acquire`, which may raise an error, and
        which returns the function that undoes it when the connection has ended. Without checks,
        whether it has ended is unknown, so it is not counted.
        """
        place = _place(peer)
        with self._mutex:
            if not self._checks or place in self._admitted:
                return
            self._rejected.add(place)
            self._admitted[place] = acquire()
            self._rejected.remove(place)

    def reject(self, peer: str) -> None:
        """Note that a call of a connection was rejected."""
        with self._mutex:
            self._rejected.add(_place(peer))

    @contextmanager
    def receiving(self, peer: str) -> Iterator[None]:
        """Expect a message of an authenticated call on a connection during a block."""
        place = _place(peer)
        with self._mutex:
            self._receiving[place] += 1
            self._called.add(place)
        try:
            yield
        finally:
            with self._mutex:
                self._called.add(place)
                self._receiving[place] -= 1
                if not self._receiving[place]:
                    del self._receiving[place]

    def check(self, connections: Mapping[str, tuple[int, int]]) -> list[str]:
        """Return connections to close.

        They are those that have sent too much now and at the last check, since a message may arrive
        before its call starts, and the oldest ones of too many without an authenticated call, first
        those of which a call was rejected.

        Args:
            connections: All connections by place, with the bytes received from and sent to each.
        """
        with self._mutex:
            self._checks += 1
            called, trusted = self._called, set(self._trusted)
            receiving = dict(self._receiving)
            noted = called | trusted | self._admitted.keys() | self._rejected
            absent = noted - connections.keys()
            ended = absent & self._absent
            self._called = (called & absent) - ended
            self._trusted -= ended
            self._rejected -= ended
            released = [self._admitted.pop(place) for place in ended & self._admitted.keys()]
            authenticated, rejected = trusted | self._admitted.keys(), set(self._rejected)
            self._absent = absent
        for release in released:
            release()
        before, self._counts = self._counts, {}
        excessive = []
        for place, (received, sent) in connections.items():
            counts = before.get(place) or _Counts(self._checks)
            self._counts[place] = counts
            if place in trusted:
                continue
            more = min(received - counts.received, (sent - counts.sent) // _SENT_PART)
            counts.granted = received if place in called else counts.granted + more
            counts.received, counts.sent = received, sent
            limit = FREE_BYTES + self._message_bytes * receiving.get(place, 0)
            was_over, counts.is_over = counts.is_over, received - counts.granted > limit
            if was_over and counts.is_over:
                excessive.append(place)
        pending = [place for place in connections if place not in authenticated]
        number = max(len(pending) - self._pending_max, 0)
        last = sorted(pending, key=lambda each: (each not in rejected, self._counts[each].since))
        return list(dict.fromkeys(excessive + last[:number]))


class InflowGuard:
    """Closes connections of a server until it is stopped."""

    def __init__(self, address: str, inflow: Inflow) -> None:
        """`address` is the server's, with its actual port."""
        is_socket = address.startswith(UNIX)
        self._port = None if is_socket else int(address.rpartition(":")[2])
        self._inflow, self._ended = inflow, threading.Event()
        self._looks = self._closed = 0
        self._thread = threading.Thread(target=self._run, name="inflow", daemon=True)

    def start(self) -> None:
        """Start closing connections."""
        if self._port is not None and os.path.isdir(_DESCRIPTORS):
            self._look()
            self._thread.start()

    def stop(self) -> None:
        """Close no more connections."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        with suppress(OSError):  # such as too many open files; the next look may succeed
            self._close(*self._connections())

    def _connections(self) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
        """Return the descriptors of the server's connections, and their bytes, by place."""
        descriptors: dict[str, int] = {}
        connections: dict[str, tuple[int, int]] = {}
        for fd in map(int, os.listdir(_DESCRIPTORS)):
            with suppress(OSError), _borrowed(fd) as sock:
                if sock.family in (socket.AF_INET, socket.AF_INET6) and self._is_own(sock):
                    place = _place_of(sock)
                    descriptors[place], connections[place] = fd, _bytes(sock)
        return descriptors, connections

    def _close(
        self, descriptors: Mapping[str, int], connections: Mapping[str, tuple[int, int]]
    ) -> None:
        closing = self._inflow.check(connections)
        for place in closing:
            # gRPC may have closed it meanwhile, and opened another.
            with suppress(OSError), _borrowed(descriptors[place]) as sock:
                if _place_of(sock) == place:
                    sock.shutdown(socket.SHUT_RDWR)
        if closing:
            return_freed_memory()
        self._log(closing)

    def _log(self, closed: list[str]) -> None:
        """Log the number of closed connections, and the last one, at most once a second."""
        self._looks += 1
        self._closed += len(closed)
        if closed and self._looks >= _LOG_LOOKS:
            _log.warning(
                "connections closed: number=%s peer=%s: they send more than calls, or have none",
                self._closed,
                closed[-1],
            )
            self._looks = self._closed = 0

    def _is_own(self, sock: socket.socket) -> bool:
        return bool(sock.getsockname()[1] == self._port)


@contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """Use gRPC's descriptor as a socket, without closing it. Raises `OSError`: it is none."""
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


def _bytes(sock: socket.socket) -> tuple[int, int]:
    """Return the bytes received and sent."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    if len(info) < _COUNTS_AT + _COUNTS.size:
        return 0, 0
    sent, received = _COUNTS.unpack_from(info, _COUNTS_AT)
    return received, sent


def _place_of(sock: socket.socket) -> str:
    """Return a connection's peer like `_place`. Raises `OSError`: it listens."""
    host, port = sock.getpeername()[:2]
    host = host.removeprefix("::ffff:").partition("%")[0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _place(peer: str) -> str:
    """Return HOST:PORT of a peer in gRPC, such as `ipv6:%5B::1%5D:9000`."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    host = host.partition("%")[0].strip("[]")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
