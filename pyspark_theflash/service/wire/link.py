"""Frames over one socket, for both sides. Every send and receive ends by a time."""

import contextlib
import select
import socket
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.service.wire.frame import DATA_BYTES_MAX, HEADER_BYTES, FrameType, Header

_GATHERED: Final = 512
"""How many pieces go into one `sendmsg`; Linux takes 1024."""
_SMALL: Final = 1 << 14
_DRAIN_MS: Final = 300
_DRAIN_BYTES: Final = 16 << 20


class Link:
    """A connected socket.

    Besides `OSError` of the socket itself, calls raise `TimeoutError` when their time is over,
    `EOFError` when the other side has ended the connection, and `CodecError` for what is no frame.
    """

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock, self._clock = sock, clock

    def send_raw(self, data: bytes, timeout_ms: int) -> None:
        """Bytes that are no frame."""
        self._send([data], timeout_ms)

    def send(self, header: Header, body: bytes, timeout_ms: int) -> None:
        """One frame."""
        self._send([header.to_bytes(), body], timeout_ms)

    def send_all(self, frames: list[tuple[Header, bytes]], timeout_ms: int) -> None:
        """Some frames at once."""
        self._send(
            [part for header, body in frames for part in (header.to_bytes(), body)], timeout_ms
        )

    def send_data(self, call: int, parts: list[memoryview], timeout_ms: int) -> int:
        """The parts one after the other as DATA frames; returns their size in bytes."""
        total = 0
        for cut in _cuts(parts, DATA_BYTES_MAX):
            size_bytes = sum(map(len, cut))
            header = Header(FrameType.DATA, call, size_bytes)
            self._send([header.to_bytes(), *cut], timeout_ms)
            total += size_bytes
        return total

    def header(self, length_max: int, timeout_ms: int) -> Header:
        """The next frame's header; its body must be received next."""
        return Header.from_bytes(self.receive(HEADER_BYTES, timeout_ms), length_max)

    def frame(self, length_max: int, timeout_ms: int) -> tuple[Header, bytes]:
        """The next frame."""
        deadline_ms = self._clock.boottime_ms() + timeout_ms
        header = self.header(length_max, timeout_ms)
        left_ms = max(deadline_ms - self._clock.boottime_ms(), 1)
        return header, self.receive(header.length, left_ms)

    def receive(self, size_bytes: int, timeout_ms: int) -> bytes:
        """So many bytes."""
        buffer = bytearray(size_bytes)
        self.receive_into(memoryview(buffer), timeout_ms)
        return bytes(buffer)

    def receive_into(self, view: memoryview, timeout_ms: int) -> None:
        """Fill `view`."""
        deadline_ms = self._clock.boottime_ms() + timeout_ms
        while view:
            self._until(deadline_ms)
            count = self._sock.recv_into(view)
            if not count:
                raise EOFError("the connection was closed")
            view = view[count:]

    def has_input(self, wait_ms: int = 0) -> bool:
        """Whether something can be received, if only the end, now or before `wait_ms` are over."""
        pending = getattr(self._sock, "pending", None)
        if pending is not None and pending():
            return True
        # `select` takes no file descriptor above 1023.
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(wait_ms))

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    def interrupt(self) -> None:
        """Make whoever waits on this socket, in another thread, stop waiting."""
        with contextlib.suppress(OSError):
            # TLS would take itself apart under that thread.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close_gently(self) -> None:
        """End the connection so that the other side still gets what was sent last.

        A socket that is closed with input unread throws away its output.
        """
        deadline_ms = self._clock.boottime_ms() + _DRAIN_MS
        with contextlib.suppress(OSError, ValueError):
            # The socket below TLS: what was encrypted for us need not be understood.
            raw = socket.socket(fileno=self._sock.detach())
            with raw:
                raw.shutdown(socket.SHUT_WR)
                for _ in range(_DRAIN_BYTES >> 16):
                    raw.settimeout(max(deadline_ms - self._clock.boottime_ms(), 1) / 1000)
                    if not raw.recv(1 << 16) or self._clock.boottime_ms() >= deadline_ms:
                        break

    def _send(self, parts: list[bytes | memoryview], timeout_ms: int) -> None:
        """The time is for each step forward: a slow reader is not a dead one."""
        self._sock.settimeout(timeout_ms / 1000)
        if hasattr(self._sock, "pending"):
            for part in _joined(parts):
                self._sock.sendall(part)
            return
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        while views:
            sent = self._sock.sendmsg(views[:_GATHERED])
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]

    def _until(self, deadline_ms: int) -> None:
        left_ms = deadline_ms - self._clock.boottime_ms()
        if left_ms <= 0:
            raise TimeoutError("nothing came in time")
        self._sock.settimeout(left_ms / 1000)


def _cuts(parts: list[memoryview], size_max: int) -> list[list[memoryview]]:
    """The parts, in lists of at most `size_max` bytes."""
    cuts: list[list[memoryview]] = [[]]
    room = size_max
    for part in parts:
        rest = part
        while rest:
            if not room:
                cuts.append([])
                room = size_max
            cuts[-1].append(rest[:room])
            taken = len(cuts[-1][-1])
            rest, room = rest[taken:], room - taken
    return cuts if cuts[-1] else cuts[:-1]


def _joined(parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Small pieces together: each piece becomes a TLS record of its own."""
    joined: list[bytes | memoryview] = []
    small = bytearray()
    for part in parts:
        if len(part) < _SMALL:
            small += part
        else:
            joined += [bytes(small), part]
            small.clear()
    return [*joined, bytes(small)]
