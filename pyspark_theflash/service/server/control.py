"""Settings of servers, and the messages between the router and its workers over a socket pair.

    message    op u8, state u8, number u64, token 32 bytes; with TAKE, the connection's descriptor

`state` is 0 for a connection without a completed handshake, 1 without a token, 2 with one, 3 with
an administrator's. Router and workers run the same code, so messages have no version.
"""

import socket
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

from pyspark_theflash.base.log import TEXT
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.service.api.call import local_identity
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.service.api.token import identity_of

DRAIN_MS: Final = 5_000
"""The time that a stopping server waits for calls in progress."""
_MESSAGE: Final = struct.Struct(">BBQ32s")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits of a server for its callers, in ms."""

    greeting_ms: int = 3_000
    """For each step before the first call: the first input, the TLS handshake, each frame."""
    pending_ms: int = 10_000
    """For all these steps together."""
    idle_ms: int = 600_000
    """Between two calls."""
    failure_ms: int = 500
    """Before the response to a failed authentication."""
    frame_ms: int = 10_000
    """For the rest of a frame that has begun, and for the message of a gRPC call."""
    send_ms: int = 60_000
    """For a caller to receive a response, or to send the next rows of a write."""
    rows_ms: int = 600_000
    """For a caller to receive the next rows. A Spark task may be processing earlier ones."""


class ControlOp(IntEnum):
    """The type of a message; the value is in the message."""

    TAKE = 1
    """To a worker: serve this connection."""
    STOP = 2
    """To a worker: end after calls in progress, within `number` ms."""
    READY = 3
    """From a worker, once: it accepts connections from now on."""
    WAITS = 4
    """From a worker: the connection has no call in progress and returns to the router."""
    OVER = 5
    """From a worker: the connection has ended."""
    ADMIT = 6
    """From a worker: the connection's caller is authenticated; may it stay?"""
    ADMITTED = 7
    """To a worker, in response: yes."""
    REJECTED = 8
    """To a worker, in response: no, because of the limits of connections."""
    USAGE = 9
    """From a worker: `number` is a `UsageReport`."""


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Scans of a worker that have not ended, and memory of its requests and responses in bytes."""

    scans: int = 0
    memory: int = 0

    def to_number(self) -> int:
        return min(self.scans, (1 << 16) - 1) << 48 | min(self.memory, (1 << 48) - 1)

    @classmethod
    def from_number(cls, number: int) -> "UsageReport":
        """Inverse of `to_number`."""
        return cls(number >> 48, number & (1 << 48) - 1)


@dataclass(frozen=True, slots=True)
class Greeted:
    """State of a connection after its handshake: the stored form of the caller's token, if any."""

    stored: bytes | None
    is_admin: bool = True

    @property
    def identity(self) -> str:
        """The caller for which the connection is counted; without a token, an administrator."""
        return local_identity() if self.stored is None else identity_of(self.stored)


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """A message; `number` is a connection's unless `op` says otherwise."""

    op: ControlOp
    number: int = 0
    greeted: Greeted | None = None

    def to_bytes(self) -> bytes:
        greeted = self.greeted
        stored = greeted.stored if greeted is not None else None
        state = 0
        if greeted is not None:
            state = 1 if stored is None else 2 + greeted.is_admin
        return _MESSAGE.pack(self.op, state, self.number, stored or b"")

    @classmethod
    def from_bytes(cls, data: bytes) -> "ControlMessage":
        """Inverse of `to_bytes`."""
        op, state, number, stored = _MESSAGE.unpack(data)
        greeted = Greeted(stored if state > 1 else None, state != 2) if state else None
        return cls(ControlOp(op), number, greeted)


def send_control(
    control: socket.socket, message: ControlMessage, connection: socket.socket | None = None
) -> None:
    """Send a message and, if passed, a connection. Raises `OSError`: the peer has ended."""
    if connection is None:
        control.sendall(message.to_bytes())
    else:
        socket.send_fds(control, [message.to_bytes()], [connection.fileno()])


def receive_control(control: socket.socket) -> tuple[ControlMessage, socket.socket | None] | None:
    """Receive a message and the connection sent with it; None if the peer has ended."""
    try:
        data, fds, _, _ = socket.recv_fds(control, _MESSAGE.size, 1)
    except ConnectionError:
        return None
    # A message is written in one piece, so it is never received partially.
    if len(data) < _MESSAGE.size:
        return None
    connection = socket.socket(fileno=fds[0]) if fds else None
    if connection is not None:
        connection.set_inheritable(False)
    return ControlMessage.from_bytes(data), connection


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Settings of a worker, which it reads from its standard input, pickled.

    Attributes:
        store: The store's folder.
        address: The server's address, for error messages.
        tokens: The file of tokens; None: every caller is an admin.
        tls: The server's certificate; None: no TLS.
        allowed_names: Common names that callers' certificates may have; empty: any.
        spare_key: See `Service`.
        timeouts: Time limits for callers.
        limits: Other limits for callers.
        linger_ms: How long a worker keeps its only connection for the next call. To return a
            connection and receive it again takes about 1 ms, and more on a busy machine.
        log: The format of log lines.
    """

    store: Path
    address: str
    tokens: Path | None = None
    tls: ServerTls | None = None
    allowed_names: tuple[str, ...] = ()
    spare_key: bytes = b""
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    linger_ms: int = 50
    log: str = TEXT
