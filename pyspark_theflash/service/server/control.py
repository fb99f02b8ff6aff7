"""What the process that takes connections and its workers tell each other, over a pair of sockets.

    note    word u8, greeted u8, number u64, stored 32 bytes; with TAKE comes the connection itself

Both ends have the same code and live no longer than each other, so notes have no version.
"""

import json
import os
import socket
import struct
from dataclasses import astuple, dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Final

from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.service.server.timeouts import Timeouts

_MESSAGE: Final = struct.Struct(">BBQ32s")


class ControlOp(IntEnum):
    """What a note says; the value is in it."""

    TAKE = 1
    """To a worker: answer this connection."""
    STOP = 2
    """To a worker: end when calls that have begun have ended, for which `number` ms are given."""
    READY = 3
    """Of a worker, once: it answers from now on."""
    WAITS = 4
    """Of a worker: this connection has no call now, and is the taker's again."""
    OVER = 5
    """Of a worker: this connection has ended."""


@dataclass(frozen=True, slots=True)
class Greeted:
    """What is known of a caller who was greeted: its token as it is stored, if it showed one."""

    stored: bytes | None


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """`number` is a connection's unless `op` says otherwise."""

    op: ControlOp
    number: int = 0
    greeted: Greeted | None = None

    def to_bytes(self) -> bytes:
        greeted = self.greeted
        stored = greeted.stored if greeted is not None else None
        state = (greeted is not None) + (stored is not None)
        return _MESSAGE.pack(self.op, state, self.number, stored or b"")

    @classmethod
    def from_bytes(cls, data: bytes) -> "ControlMessage":
        """Inverse of `to_bytes`."""
        op, state, number, stored = _MESSAGE.unpack(data)
        greeted = Greeted(stored if state > 1 else None) if state else None
        return cls(ControlOp(op), number, greeted)


def send_control(
    control: socket.socket, message: ControlMessage, connection: socket.socket | None = None
) -> None:
    """Raises `OSError`: the other end is gone."""
    if connection is None:
        control.sendall(message.to_bytes())
    else:
        socket.send_fds(control, [message.to_bytes()], [connection.fileno()])


def receive_control(control: socket.socket) -> tuple[ControlMessage, socket.socket | None] | None:
    """The next message, and the connection that came with it; None if the other end is gone."""
    try:
        data, fds, _, _ = socket.recv_fds(control, _MESSAGE.size, 1)
    except ConnectionError:
        return None
    # A note is written in one piece, so there is no half of one to read.
    if len(data) < _MESSAGE.size:
        return None
    connection = socket.socket(fileno=fds[0]) if fds else None
    if connection is not None:
        connection.set_inheritable(False)
    return ControlMessage.from_bytes(data), connection


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told when it begins. `address` is the server's, for errors."""

    store: Path
    address: str
    tokens: Path | None = None
    tls: ServerTls | None = None
    allowed_names: tuple[str, ...] = ()
    spare_key: bytes = b""
    """See `Service`."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    linger_ms: int = 50
    """How long a worker keeps its only connection for the next call: giving one back and forth
    takes about a millisecond, and more where processors are busy."""

    def to_json(self) -> bytes:
        """As it is written to a worker's input."""
        tls = self.tls
        told = {
            "store": _text(self.store),
            "address": self.address,
            "tokens": _text(self.tokens),
            "tls": None if tls is None else [_text(p) for p in (tls.cert, tls.key, tls.ca)],
            "allowed_names": self.allowed_names,
            "spare_key": self.spare_key.hex(),
            "timeouts": astuple(self.timeouts),
            "linger_ms": self.linger_ms,
        }
        return json.dumps(told).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "WorkerSettings":
        """Inverse of `to_json`."""
        told = json.loads(data)
        tls = told["tls"]
        made = cls(Path(told["store"]), told["address"])
        return replace(
            made,
            tokens=_path(told["tokens"]),
            tls=None if tls is None else ServerTls(Path(tls[0]), Path(tls[1]), _path(tls[2])),
            allowed_names=tuple(told["allowed_names"]),
            spare_key=bytes.fromhex(told["spare_key"]),
            timeouts=Timeouts(*told["timeouts"]),
            linger_ms=told["linger_ms"],
        )


def _text(path: Path | None) -> str | None:
    """Absolute; a name that is no UTF-8 survives."""
    return None if path is None else os.fspath(path.absolute())


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
