"""Serve a store: reads, latches and administration for other processes and machines.

Listens on a unix socket in the store's folder unless told otherwise. TCP needs tokens, and other
machines than this one need certificates too. The tokens file has lines of a role (read, write,
admin) and a token; nobody else may be able to read it.
"""

import argparse
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from pyspark_theflash.api.service import Service
from pyspark_theflash.api.token import Tokens
from pyspark_theflash.client.address import UNIX
from pyspark_theflash.clock import SystemClock
from pyspark_theflash.errors import UsageError
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.jobs.arguments import add_store, seconds
from pyspark_theflash.server.app import SocketServer
from pyspark_theflash.tls import ServerTls

SOCKET = "serve.sock"
_LOOK_S = 0.2


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


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM, SIGINT, or nobody is there."""
    tls = _tls(arguments)
    tokens = None if arguments.tokens is None else Tokens(arguments.tokens)
    clock = SystemClock()
    service = Service(arguments.store, fs=LocalFileSystem(), clock=clock)
    address = arguments.listen or f"{UNIX}{arguments.store.absolute() / SOCKET}"
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with ExitStack() as servers:
        servers.callback(service.close)
        server = SocketServer(
            service,
            address,
            clock=clock,
            tokens=tokens,
            tls=None if address.startswith(UNIX) and _speaks_more(arguments) else tls,
            allowed_names=() if address.startswith(UNIX) else tuple(arguments.allow),
        )
        servers.callback(server.stop)
        doors = _Doors(arguments, service, clock, tokens, tls)
        if arguments.flight is not None:
            doors.open_flight(arguments.flight, servers)
        if arguments.grpc is not None:
            doors.open_grpc(arguments.grpc, servers)
        server.start()
        print(f"serving {arguments.store} at {server.address}", flush=True)
        while not stopping.wait(_LOOK_S):
            if arguments.idle is not None and server.idle_ms() > arguments.idle:
                break
    return 0


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


class _Doors:
    """The other ways in, which have the settings of the first; their packages are needed only here.

    A unix socket takes no certificates, whatever the others do.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        service: Service,
        clock: SystemClock,
        tokens: Tokens | None,
        tls: ServerTls | None,
    ) -> None:
        self._names, self._service, self._clock = tuple(arguments.allow), service, clock
        self._tokens, self._tls = tokens, tls

    def open_flight(self, address: str, servers: ExitStack) -> None:
        from pyspark_theflash.server.flight import FlightServer

        server = FlightServer(self._service, address, **self._settings(address))
        servers.callback(server.stop)
        print(f"serving Arrow Flight at {server.address}", flush=True)

    def open_grpc(self, address: str, servers: ExitStack) -> None:
        from pyspark_theflash.server.rpc import RpcServer

        server = RpcServer(self._service, address, **self._settings(address))
        servers.callback(server.stop)
        server.start()
        print(f"serving gRPC at {server.address}", flush=True)

    def _settings(self, address: str) -> dict[str, Any]:
        known = {"clock": self._clock, "tokens": self._tokens}
        if address.startswith(UNIX):
            return known
        return {**known, "tls": self._tls, "allowed_names": self._names}
