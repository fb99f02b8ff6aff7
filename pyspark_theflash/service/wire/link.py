"""Frames over a socket, for clients and servers. Each operation has a timeout."""

import contextlib
import select
import socket
from collections.abc import Callable
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.service.wire.frame import DATA_BYTES_MAX, HEADER_BYTES, FrameType, Header

_GATHERED: Final = 512
"""The largest number of buffers in one `sendmsg`; Linux allows 1024."""
_SMALL: Final = 1 << 14
_PART: Final = 1 << 16
"""The number of bytes for which memory is allocated before any of them has arrived."""
_DRAIN_MS: Final = 300
_DRAIN_BYTES: Final = 16 << 20


class Link:
    """A connected socket, with or without TLS.

    Methods raise `OSError` for errors of the socket, `TimeoutError` after their timeout,
    `EOFError` if the peer has closed the connection, and `CodecError` for invalid frames.
    """

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock, self._clock = sock, clock

    def send(self, parts: list[bytes | memoryview], timeout_ms: int) -> None:
        """Send parts of frames (see `encode_frame`); the timeout is for each system call."""
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

    def send_data(self, call: int, parts: list[memoryview], timeout_ms: int) -> None:
        """Send the concatenated parts as DATA frames."""
        for cut in _cuts(parts, DATA_BYTES_MAX):
            header = Header(FrameType.DATA, call, sum(map(len, cut)))
            self.send([header.to_bytes(), *cut], timeout_ms)

    def receive_header(self, length_max: int, timeout_ms: int) -> Header:
        """Receive the next frame's header; its body must be received next."""
        return Header.from_bytes(self.receive(HEADER_BYTES, timeout_ms), length_max)

    def receive_frame(self, length_max: int, timeout_ms: int) -> tuple[Header, bytes]:
        """Receive the next frame."""
        deadline = Deadline(self._clock, timeout_ms)
        header = self.receive_header(length_max, timeout_ms)
        return header, self.receive(header.length, max(deadline.left_ms(), 1))

    def receive(
        self, size_bytes: int, timeout_ms: int, reserve: Callable[[int], None] = lambda _: None
    ) -> bytes:
        """Receive exactly `size_bytes` bytes.

        Memory is allocated as bytes arrive, at most for twice as many.

        Args:
            size_bytes: The number of bytes.
            timeout_ms: The time for all of them.
            reserve: Called before memory is allocated for more than a small number of bytes. If it
                raises, the other bytes are skipped first.
        """
        deadline = Deadline(self._clock, timeout_ms)
        parts: list[bytearray] = []
        received = 0
        while received < size_bytes:
            left_ms = max(deadline.left_ms(), 1)
            part_bytes = min(size_bytes - received, max(received, _PART))
            if received:
                try:
                    reserve(part_bytes)
                except BaseException:
                    self.skip(size_bytes - received, left_ms)
                    raise
            parts.append(bytearray(part_bytes))
            self.receive_into(memoryview(parts[-1]), left_ms)
            received += part_bytes
        return b"".join(parts)

    def skip(self, size_bytes: int, timeout_ms: int) -> None:
        """Receive bytes without keeping them."""
        deadline = Deadline(self._clock, timeout_ms)
        scratch = memoryview(bytearray(min(size_bytes, _PART)))
        while size_bytes:
            view = scratch[:size_bytes]
            self.receive_into(view, max(deadline.left_ms(), 1))
            size_bytes -= len(view)

    def receive_into(self, view: memoryview, timeout_ms: int) -> None:
        """Receive exactly as many bytes as `view` has."""
        deadline = Deadline(self._clock, timeout_ms)
        while view:
            left_ms = deadline.left_ms()
            if not left_ms:
                raise TimeoutError(f"nothing was received within {timeout_ms} ms")
            self._sock.settimeout(left_ms / 1000)
            count = self._sock.recv_into(view)
            if not count:
                raise EOFError("the connection was closed")
            view = view[count:]

    def has_input(self, wait_ms: int = 0) -> bool:
        """Whether data or the end of the connection can be received within `wait_ms`."""
        pending = getattr(self._sock, "pending", None)
        if pending is not None and pending():
            return True
        # `select` does not support file descriptors above 1023.
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(wait_ms))

    def wait(self, wait_ms: int) -> None:
        """Wait, or until the connection is interrupted; input is not looked at."""
        poller = select.poll()
        poller.register(self._sock, 0)
        poller.poll(wait_ms)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def interrupt(self) -> None:
        """Make other threads stop waiting for this socket."""
        with contextlib.suppress(OSError):
            # `SSLSocket.shutdown` would discard the TLS state that the other thread uses.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close_gently(self) -> None:
        """Close the connection so that the peer still receives what was sent last.

        The kernel discards unsent output if a socket is closed with unread input, so input is read
        for up to 300 ms.
        """
        deadline = Deadline(self._clock, _DRAIN_MS)
        with contextlib.suppress(OSError, ValueError):
            # The socket below TLS: the input need not be decrypted.
            raw = socket.socket(fileno=self._sock.detach())
            with raw:
                raw.shutdown(socket.SHUT_WR)
                for _ in range(_DRAIN_BYTES >> 16):
                    raw.settimeout(max(deadline.left_ms(), 1) / 1000)
                    if not raw.recv(1 << 16) or not deadline.left_ms():
                        break


def _cuts(parts: list[memoryview], size_max: int) -> list[list[memoryview]]:
    """Divide the parts into lists of at most `size_max` bytes."""
    cuts: list[list[memoryview]] = [[]]
    room = size_max
    for part in parts:
        rest = part
        while rest:
            if not room:
                cuts.append([])
                room = size_max
            cuts[-1].append(rest[:room])
            size_bytes = len(cuts[-1][-1])
            rest, room = rest[size_bytes:], room - size_bytes
    return cuts if cuts[-1] else cuts[:-1]


def _joined(parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Join small parts, because TLS sends each part as a separate record."""
    joined: list[bytes | memoryview] = []
    small = bytearray()
    for part in parts:
        if len(part) < _SMALL:
            small += part
        else:
            joined += [bytes(small), part]
            small.clear()
    return [*joined, bytes(small)]
