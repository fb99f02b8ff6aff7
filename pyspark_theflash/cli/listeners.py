"""Listeners of a service on the command line: sockets with frames, Arrow Flight, gRPC.

All have the same tokens, certificates and allowed names, except that unix sockets use no
certificates.
"""

import argparse
import signal
import threading
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.address import UNIX
from pyspark_theflash.service.api.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark_theflash.service.api.service import Service
    from pyspark_theflash.service.api.token import Tokens
    from pyspark_theflash.service.server.app import SocketServer
    from pyspark_theflash.service.server.listener import Listener


def add_listeners(parser: argparse.ArgumentParser) -> None:
    """Add the options of Flight, gRPC and access control."""
    parser.add_argument(
        "--flight", metavar="ADDRESS", help="also serve Arrow Flight at HOST:PORT or unix:PATH"
    )
    parser.add_argument(
        "--grpc", metavar="ADDRESS", help="also serve gRPC at HOST:PORT or unix:PATH"
    )
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="tokens of callers")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="server certificate, PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="require client certificates of this CA"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAME",
        help="an allowed common name of client certificates (default: any)",
    )
    numbers = ", ".join(f"{name}={number}" for name, number in asdict(Limits()).items())
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=N",
        help=f"a limit for callers (defaults: {numbers})",
    )


def chosen_limits(arguments: argparse.Namespace) -> Limits:
    """Return the limits for callers. Raises `OptionError`."""
    return Limits().with_changes(arguments.limit)


def stop_event() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set from now on."""
    event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: event.set())
    return event


def server_tls(arguments: argparse.Namespace) -> ServerTls | None:
    """Return the server's TLS files. Raises `UsageError`."""
    if (arguments.cert is None) != (arguments.key is None):
        raise UsageError("--cert and --key must be used together")
    if arguments.cert is None and arguments.ca is not None:
        raise UsageError("--ca needs --cert and --key")
    if arguments.cert is None:
        return None
    return ServerTls(arguments.cert, arguments.key, arguments.ca)


class Listeners:
    """Listeners of one service. Modules are imported only for those that are opened."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        service: "Callable[[], Service]",
        clock: Clock,
        undo: ExitStack,
    ) -> None:
        """Read tokens and certificates. `undo` closes what is opened.

        Raises:
            UsageError, OptionError: Tokens or certificates are invalid.
        """
        self._arguments, self._service, self._clock, self._undo = arguments, service, clock, undo
        self._tls = server_tls(arguments)
        self._tokens = self._read_tokens()
        self._is_open = False

    def figures(self) -> dict[str, int]:
        """Return the usage of the service in this process, for `Telemetry`."""
        if not self._is_open:
            return {}
        usage = self._service().usage
        return {"scans": usage.scans.total, "request_bytes": usage.memory.total}

    def security(self, address: str) -> tuple[ServerTls | None, tuple[str, ...]]:
        """Return the certificates and allowed names of the socket listener at an address."""
        if not address.startswith(UNIX):
            return self._tls, tuple(self._arguments.allow)
        has_others = self._arguments.flight is not None or self._arguments.grpc is not None
        # If no other listener uses the certificates, the server rejects them as a mistake.
        return None if has_others else self._tls, ()

    def open_frames(self, address: str) -> "SocketServer":
        """Open the socket listener without starting it.

        Raises:
            OptionError: The address is invalid, or not secured as it must be.
        """
        from pyspark_theflash.service.server.app import SocketServer

        tls, names = self.security(address)
        settings: dict[str, Any] = {"clock": self._clock, "tokens": self._tokens, "tls": tls}
        self._is_open = True
        server = SocketServer(self._service(), address, allowed_names=names, **settings)
        self._undo.callback(server.stop)
        return server

    def open_others(self) -> None:
        """Open Flight and gRPC, if requested, in this process. Raises like `open_frames`."""
        if self._arguments.flight is not None:
            from pyspark_theflash.service.server.flight import FlightServer

            self._open(FlightServer, "Arrow Flight", self._arguments.flight)
        if self._arguments.grpc is not None:
            from pyspark_theflash.service.server.rpc import RpcServer

            self._open(RpcServer, "gRPC", self._arguments.grpc)

    def _open(self, kind: "type[Listener]", name: str, address: str) -> None:
        settings: dict[str, Any] = {"clock": self._clock, "tokens": self._tokens}
        if not address.startswith(UNIX):
            settings |= {"tls": self._tls, "allowed_names": tuple(self._arguments.allow)}
        self._is_open = True
        server = kind(self._service(), address, **settings)
        self._undo.callback(server.stop)
        server.start()
        print(f"serving {name} at {server.address}", flush=True)

    def _read_tokens(self) -> "Tokens | None":
        if self._arguments.tokens is None:
            return None
        from pyspark_theflash.service.api.token import Tokens

        return Tokens(self._arguments.tokens)
