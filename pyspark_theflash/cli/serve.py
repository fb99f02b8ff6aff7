"""Serve a store: reads, latches and administration for other processes and machines.

Listens on a unix socket in the store's folder unless told otherwise. TCP needs tokens, and other
machines than this one need certificates too. The tokens file has lines of a role (read, write,
admin) and a token; nobody else may be able to read it.

Calls at the same time are answered by so many processes at most, each of which is started when it
is needed; with 1, by this one. Flight and gRPC are answered by this one.
"""

import argparse
import os
import secrets
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pyspark_theflash.client.address import UNIX
from pyspark_theflash.clock import SystemClock
from pyspark_theflash.errors import UsageError
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.jobs.arguments import add_store, seconds
from pyspark_theflash.server.lean import leave_out_pandas
from pyspark_theflash.tls import ServerTls

if TYPE_CHECKING:
    from pyspark_theflash.api.service import Service
    from pyspark_theflash.api.token import Tokens
    from pyspark_theflash.server.app import SocketServer
    from pyspark_theflash.server.front import Front

SOCKET = "serve.sock"
WORKERS_MAX = 64
_DEFAULT_WORKERS_MAX = 4
_LOOK_S = 0.2
_KEY_BYTES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `serve`."""
    add_store(parser)
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        help=f"HOST:PORT or unix:PATH (default: unix:STORE/{SOCKET})",
    )
    parser.add_argument(
        "--flight", metavar="ADDRESS", help="speak Arrow Flight there, too: HOST:PORT or unix:PATH"
    )
    parser.add_argument(
        "--grpc", metavar="ADDRESS", help="speak gRPC there, too: HOST:PORT or unix:PATH"
    )
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="who may call")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="our certificate, PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its key")
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="callers show a certificate that this one signed"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAME",
        help="a common name that callers' certificates may have (default: any)",
    )
    parser.add_argument(
        "--idle", type=seconds, metavar="S", help="end when nobody has been there for so long"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(_processors(), _DEFAULT_WORKERS_MAX),
        metavar="N",
        help="processes that answer, each started when it is needed (default: one a processor,"
        f" {_DEFAULT_WORKERS_MAX} at most)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM, SIGINT, or nobody is there."""
    leave_out_pandas()
    if not 1 <= arguments.workers <= WORKERS_MAX:
        raise UsageError(f"--workers is from 1 to {WORKERS_MAX}")
    tls = _tls(arguments)
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with ExitStack() as servers:
        opened = _Opened(arguments, tls, servers)
        server = opened.server()
        if arguments.flight is not None:
            opened.open_flight(arguments.flight)
        if arguments.grpc is not None:
            opened.open_grpc(arguments.grpc)
        server.start()
        print(f"serving {arguments.store} at {server.address}", flush=True)
        while not stopping.wait(_LOOK_S):
            if arguments.idle is not None and server.idle_ms() > arguments.idle:
                break
    return 0


def _processors() -> int:
    """How many we may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _speaks_more(arguments: argparse.Namespace) -> bool:
    """Whether certificates may be for another door than the one of frames."""
    return arguments.flight is not None or arguments.grpc is not None


def _tls(arguments: argparse.Namespace) -> ServerTls | None:
    if (arguments.cert is None) != (arguments.key is None):
        raise UsageError("--cert and --key are given together")
    if arguments.cert is None and arguments.ca is not None:
        raise UsageError("--ca needs --cert and --key")
    if arguments.cert is None:
        return None
    return ServerTls(arguments.cert, arguments.key, arguments.ca)


class _Opened:
    """The ways in. Those that are more than the first have its settings.

    What each needs is imported only where it is opened. A unix socket takes no certificates,
    whatever the others do.
    """

    def __init__(
        self, arguments: argparse.Namespace, tls: ServerTls | None, servers: ExitStack
    ) -> None:
        """What is opened ends with `servers`. Raises what is wrong with the tokens."""
        self._arguments, self._tls, self._servers = arguments, tls, servers
        self._names, self._clock = tuple(arguments.allow), SystemClock()
        self._tokens = self._read_tokens()
        self._spare_key = secrets.token_bytes(_KEY_BYTES)
        self._made_service: Service | None = None

    def server(self) -> "SocketServer | Front":
        """The first way in."""
        arguments = self._arguments
        address = arguments.listen or f"{UNIX}{arguments.store.absolute() / SOCKET}"
        is_unix = address.startswith(UNIX)
        tls = None if is_unix and _speaks_more(arguments) else self._tls
        open_ = self._one_process if arguments.workers == 1 else self._front
        server = open_(address, tls, () if is_unix else self._names)
        self._servers.callback(server.stop)
        return server

    def _one_process(
        self, address: str, tls: ServerTls | None, names: tuple[str, ...]
    ) -> "SocketServer | Front":
        from pyspark_theflash.server.app import SocketServer

        known: dict[str, Any] = {"clock": self._clock, "tokens": self._tokens, "tls": tls}
        return SocketServer(self._service(), address, allowed_names=names, **known)

    def _front(
        self, address: str, tls: ServerTls | None, names: tuple[str, ...]
    ) -> "SocketServer | Front":
        from pyspark_theflash.server.front import Front
        from pyspark_theflash.server.note import WorkerSettings
        from pyspark_theflash.store.folder import read_identity

        arguments = self._arguments
        read_identity(arguments.store, LocalFileSystem())
        known = (arguments.tokens, tls, names, self._spare_key)
        settings = WorkerSettings(arguments.store, address, *known)
        return Front(settings, workers=arguments.workers, clock=self._clock)

    def open_flight(self, address: str) -> None:
        """Arrow Flight, answered by this process."""
        from pyspark_theflash.server.flight import FlightServer

        server = FlightServer(self._service(), address, **self._settings(address))
        self._servers.callback(server.stop)
        print(f"serving Arrow Flight at {server.address}", flush=True)

    def open_grpc(self, address: str) -> None:
        """gRPC, answered by this process."""
        from pyspark_theflash.server.rpc import RpcServer

        server = RpcServer(self._service(), address, **self._settings(address))
        self._servers.callback(server.stop)
        server.start()
        print(f"serving gRPC at {server.address}", flush=True)

    def _settings(self, address: str) -> dict[str, Any]:
        known = {"clock": self._clock, "tokens": self._tokens}
        if address.startswith(UNIX):
            return known
        return {**known, "tls": self._tls, "allowed_names": self._names}

    def _read_tokens(self) -> "Tokens | None":
        if self._arguments.tokens is None:
            return None
        from pyspark_theflash.api.token import Tokens

        return Tokens(self._arguments.tokens)

    def _service(self) -> "Service":
        """The one of this process; it is closed after the ways to it are."""
        if self._made_service is None:
            from pyspark_theflash.api.service import Service

            self._made_service = Service(
                self._arguments.store,
                fs=LocalFileSystem(),
                clock=self._clock,
                spare_key=self._spare_key,
            )
            self._servers.callback(self._made_service.close)
        return self._made_service
