"""TCP connections of a gRPC server, before, between and beside authenticated calls.

Connections without an authenticated call have a budget: above it, the oldest are closed. gRPC
itself would reject new ones, anyone's. A call waits while many connect, so connections that are new
have a larger budget.

gRPC limits the size of a call's metadata only when the client has acknowledged its settings. Until
then it keeps up to 16 MiB of a block of headers that does not end, in 24 MiB of memory, on each
connection, and no call starts. So connections that send more than a call needs are muted, that is,
the kernel drops their packets, and closed if no call has started after a while. To close them at
once would not stop a peer that opens others, and after a shutdown gRPC would read on:

    FREE_BYTES                 since the connection began or the last step of an authenticated call;
                               more than the flow control allows for a call that has not started,
                               and less than the kernel buffers, so that waiting ones count
    the limit of a message     for each call that is receiving its message; when all calls of a
                               caller have received twice this, only the two that have received
                               most go on
    a 16th of what they get    flow control and acknowledgements of rows that they read

Connections of trusted peers are not limited. The kernel counts the bytes, and lists connections in
/proc; on systems without it none are closed. Callers on unix sockets belong to the server's user.
"""

import ctypes
import logging
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import unquote

from pyspark_theflash.base.memory import return_freed_memory
from pyspark_theflash.net.address import UNIX

FREE_BYTES: Final = 96 << 10
PENDING_MAX: Final = 256
"""Connections without an authenticated call."""
NEW_S: Final = 2.0
"""The time for which a connection is new."""
NEW_FACTOR: Final = 3
"""The budget with new connections, for each connection of the other."""
MESSAGES_MAX: Final = 2
"""Messages of the largest size that a caller may be sending at a time."""
_SENT_PART: Final = 16
_LOOK_S: Final = 0.1
_NEXT_LOOK_S: Final = 0.02
"""The time between two looks, and after one that has muted connections."""
_LOG_S: Final = 1.0
"""The least time between two lines of the log."""
_DESCRIPTORS: Final = "/proc/self/fd"
_INFO_BYTES: Final = 256
_COOKIE: Final = 57
"""SO_COOKIE of Linux, which Python does not name: a number that no other socket has."""
_COUNTS: Final = struct.Struct("@QQ")
_COUNTS_AT: Final = 120
"""The position of `tcpi_bytes_acked` and `tcpi_bytes_received` in the kernel's `tcp_info`."""
MUTED_S: Final = 10.0
"""The time for which a connection is muted before it is closed."""
_ATTACH_FILTER: Final = 26
_DETACH_FILTER: Final = 27
"""SO_ATTACH_FILTER and SO_DETACH_FILTER of Linux, which Python does not name."""
_INSTRUCTIONS: Final = (
    (0x30, 0, 0, 13),  # load the flags of TCP
    (0x45, 0, 1, 0b111),  # skip the next one unless FIN, SYN or RST is set
    (0x06, 0, 0, (1 << 32) - 1),  # accept all bytes
    (0x06, 0, 0, 0),  # accept none, which drops the packet
)
"""A BPF program: code, jumps if true and if false, operand.

Without these flags the end of a connection would not be noticed, nor a new one from its place.
"""
_PROGRAM: Final = ctypes.create_string_buffer(
    b"".join(struct.pack("@HBBI", *each) for each in _INSTRUCTIONS)
)
_DROP_DATA: Final = struct.pack("@HP", len(_INSTRUCTIONS), ctypes.addressof(_PROGRAM))
_LIBC: Final = ctypes.PyDLL(None)
"""Its functions keep the interpreter's lock: to get it back takes long while many calls start."""
_ADDRESS_BYTES: Final = 16
"""The size of an address. One of the family AF_UNSPEC, which is 0, ends a connection of TCP."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counts:
    since_s: float
    """The time of the check that listed the connection first."""
    received: int = 0
    sent: int = 0
    granted: int = 0
    """Received bytes that are not counted."""


class Inflow:
    """Decides which connections are closed. Thread-safe."""

    def __init__(self, message_bytes: int, pending_max: int = PENDING_MAX) -> None:
        """Decide with these limits.

        Args:
            message_bytes: The limit of a message that authenticated callers send.
            pending_max: The limit of connections without an authenticated call that are not new.
        """
        self._message_bytes, self._mutex = message_bytes, threading.Lock()
        self._pending_max, self._is_checked = pending_max, False
        self._receiving: Counter[str] = Counter()
        self._callers: dict[str, str] = {}
        """The identity of the last of these calls on each connection."""
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
            if not self._is_checked or place in self._admitted:
                return
            self._rejected.add(place)
            self._admitted[place] = acquire()
            self._rejected.remove(place)

    def reject(self, peer: str) -> None:
        """Note that a call of a connection was rejected."""
        with self._mutex:
            self._rejected.add(_place(peer))

    @contextmanager
    def receiving(self, peer: str, identity: str) -> Iterator[None]:
        """Expect a message of an authenticated caller on a connection during a block."""
        place = _place(peer)
        with self._mutex:
            self._receiving[place] += 1
            self._callers[place] = identity
        try:
            yield
        finally:
            with self._mutex:
                self._called.add(place)
                self._receiving[place] -= 1
                if not self._receiving[place]:
                    del self._receiving[place], self._callers[place]

    def check(self, connections: Mapping[str, tuple[int, int]], now_s: float) -> "Verdict":
        """Decide which connections send too much, and which ones are too many.

        Args:
            connections: All connections by place, with the bytes received from and sent to each.
            now_s: The time.
        """
        with self._mutex:
            self._is_checked = True
            called, trusted = self._called, set(self._trusted)
            receiving, callers = dict(self._receiving), dict(self._callers)
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
        over = set()
        messages: dict[str, list[tuple[int, str]]] = {}
        for place, (received, sent) in connections.items():
            counts = before.get(place) or _Counts(now_s)
            self._counts[place] = counts
            if place in trusted:
                continue
            more = min(received - counts.received, (sent - counts.sent) // _SENT_PART)
            counts.granted = received if place in called else counts.granted + more
            counts.received, counts.sent = received, sent
            size_bytes = received - counts.granted - FREE_BYTES
            if size_bytes > self._message_bytes * receiving.get(place, 0):
                over.add(place)
            if size_bytes > 0 and place in callers:
                messages.setdefault(callers[place], []).append((size_bytes, place))
        for sizes in messages.values():
            if sum(size_bytes for size_bytes, _ in sizes) > MESSAGES_MAX * self._message_bytes:
                sizes.sort(reverse=True)
                over.update(place for _, place in sizes[MESSAGES_MAX:])
        pending = [place for place in connections if place not in authenticated]
        pending.sort(key=lambda each: (each not in rejected, self._counts[each].since_s))
        number = max(len(pending) - self._pending_max, 0)
        old = [
            place
            for place in pending[:number]
            if place in rejected or now_s - self._counts[place].since_s >= NEW_S
        ]
        new_number = max(len(pending) - self._pending_max * NEW_FACTOR, 0)
        surplus = max(old, pending[:new_number], key=len)
        with self._mutex:  # another connection may have the same place next
            self._rejected.difference_update(surplus)
        return Verdict(over, surplus)


class Verdict(NamedTuple):
    """Connections by place.

    Attributes:
        over: Those that have sent too much. A message may arrive before its call starts, and then
            they have not.
        surplus: The oldest of too many without an authenticated call, first those of which a call
            was rejected; new ones only above their own limit.
    """

    over: set[str]
    surplus: list[str]


@dataclass(slots=True)
class _Socket:
    """A socket that is open in this process.

    Attributes:
        cookie: Its number in the kernel.
        place: The peer if it is a connection of the server, or "".
        muted_s: The time at which it was muted; None: it is not.
    """

    cookie: bytes
    place: str
    muted_s: float | None = None

    def is_at(self, fd: int) -> bool:
        """Return whether it has this descriptor still."""
        return _option(fd, socket.SOL_SOCKET, _COOKIE) == self.cookie


class InflowGuard:
    """Mutes and closes connections of a server until it is stopped."""

    def __init__(self, address: str, inflow: Inflow) -> None:
        """`address` is the server's, with its actual port."""
        is_socket = address.startswith(UNIX)
        self._port = None if is_socket else int(address.rpartition(":")[2])
        self._inflow, self._ended = inflow, threading.Event()
        self._sockets: dict[int, _Socket] = {}
        self._muted_max_s = MUTED_S
        self._closed: list[str] = []
        """Connections that were closed since the last line of the log."""
        self._now_s = self._logged_s = 0.0
        """The time that it has waited, and of the last line of the log."""
        self._thread = threading.Thread(target=self._run, name="inflow", daemon=True)

    def start(self) -> None:
        """Start looking at connections."""
        if self._port is not None and os.path.isdir(_DESCRIPTORS):
            self._look()
            self._thread.start()

    def drain(self) -> None:
        """Close muted connections at once, since they do not notice that the server stops."""
        self._muted_max_s = 0

    def stop(self) -> None:
        """Mute and close no more connections."""
        self._ended.set()

    def _run(self) -> None:
        pause_s = _LOOK_S
        while not self._ended.wait(pause_s):
            self._now_s += pause_s
            pause_s = _NEXT_LOOK_S if self._look() else _LOOK_S
            if self._closed and self._now_s - self._logged_s >= _LOG_S:
                self._log()

    def _look(self) -> bool:
        """Mute and close connections; return whether any was muted."""
        with suppress(OSError):  # such as too many open files; the next look may succeed
            places = self._list()
            counts = {place: _bytes(fd) for place, fd in places.items()}
            verdict = self._inflow.check(counts, self._now_s)
            is_new = self._mute(verdict.over)
            late = [
                each.place
                for each in self._sockets.values()
                if each.muted_s is not None and self._now_s - each.muted_s >= self._muted_max_s
            ]
            for place in dict.fromkeys(late + verdict.surplus):
                self._reset(places[place])
                self._closed.append(place)
            return is_new
        return False

    def _mute(self, over: Collection[str]) -> bool:
        """Mute the connections that are over their limit, and no others; return if any is new."""
        is_new = False
        for fd, each in self._sockets.items():
            is_over = each.place in over
            if is_over != (each.muted_s is not None):
                self._filter(fd, each, is_muted=is_over)
                each.muted_s = self._now_s if is_over else None
                is_new |= is_over
        return is_new

    def _filter(self, fd: int, muted: _Socket, *, is_muted: bool) -> None:
        try:
            with _borrowed(fd) as sock:
                if is_muted:
                    sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, _DROP_DATA)
                # gRPC may have closed it meanwhile, and opened another.
                if not is_muted or not muted.is_at(fd):
                    sock.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
        except OSError:  # it is closed, or filters are not allowed here
            self._reset(fd)

    def _list(self) -> dict[str, int]:
        """Return the descriptors of the server's connections, by place."""
        before, self._sockets = self._sockets, {}
        for fd in map(int, os.listdir(_DESCRIPTORS)):
            cookie = _option(fd, socket.SOL_SOCKET, _COOKIE)
            if cookie:
                each = before.get(fd)
                if each is None or each.cookie != cookie:
                    each = _Socket(cookie, self._place_at(fd))
                self._sockets[fd] = each
        return {each.place: fd for fd, each in self._sockets.items() if each.place}

    def _place_at(self, fd: int) -> str:
        """Return a connection's peer like `_place`; "" for what is no connection of the server."""
        with suppress(OSError), _borrowed(fd) as sock:
            is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
            if is_tcp and sock.getsockname()[1] == self._port:
                host, port = sock.getpeername()[:2]  # raises OSError if it listens
                return _joined(host.removeprefix("::ffff:"), port)
        return ""

    def _reset(self, fd: int) -> None:
        """Drop what a connection has received, and reset it."""
        if self._sockets[fd].is_at(fd):
            _LIBC.connect(fd, bytes(_ADDRESS_BYTES), _ADDRESS_BYTES)

    def _log(self) -> None:
        """Log the number of closed connections, and the last one."""
        return_freed_memory()
        _log.warning(
            "connections closed: number=%s peer=%s: they send more than calls, or have none",
            len(self._closed),
            self._closed[-1],
        )
        self._closed, self._logged_s = [], self._now_s


@contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """Use gRPC's descriptor as a socket, without closing it. Raises `OSError`: it is none."""
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


def _bytes(fd: int) -> tuple[int, int]:
    """Return the bytes that a connection has received and sent."""
    info = _option(fd, socket.IPPROTO_TCP, socket.TCP_INFO)
    if len(info) < _COUNTS_AT + _COUNTS.size:
        return 0, 0
    sent, received = _COUNTS.unpack_from(info, _COUNTS_AT)
    return received, sent


def _option(fd: int, level: int, name: int) -> bytes:
    """Return an option of a socket; empty: it is no socket, or does not have it."""
    value, size = ctypes.create_string_buffer(_INFO_BYTES), ctypes.c_uint(_INFO_BYTES)
    is_error = _LIBC.getsockopt(fd, level, name, value, ctypes.byref(size))
    return b"" if is_error else value.raw[: size.value]


def _place(peer: str) -> str:
    """Return HOST:PORT of a peer in gRPC, such as `ipv6:%5B::1%5D:9000`."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return _joined(host.strip("[]"), port)


def _joined(host: str, port: object) -> str:
    host = host.partition("%")[0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
