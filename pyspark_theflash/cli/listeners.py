"""The ways in to a service, as a command line names them: frames, Arrow Flight, gRPC.

All of them have the same tokens, certificates and allowed names. A unix socket takes no
certificates, whatever the others do.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.address import UNIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark_theflash.service.api.service import Service
    from pyspark_theflash.service.api.token import Tokens
    from pyspark_theflash.service.server.app import SocketServer


def add_doors(parser: argparse.ArgumentParser) -> None:
    """The other ways in than that of frames, and who may come."""
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


def server_tls(arguments: argparse.Namespace) -> ServerTls | None:
    """Our side of TLS. Raises `UsageError`."""
    if (arguments.cert is None) != (arguments.key is None):
        raise UsageError("--cert and --key are given together")
    if arguments.cert is None and arguments.ca is not None:
        raise UsageError("--ca needs --cert and --key")
    if arguments.cert is None:
        return None
    return ServerTls(arguments.cert, arguments.key, arguments.ca)


class Listeners:
    """See the module. What is needed for each is imported only where it is opened."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        service: "Callable[[], Service]",
        clock: Clock,
        undo: ExitStack,
    ) -> None:
        """What is opened is closed by `undo`. Raises what is wrong with tokens or certificates."""
        self._arguments, self._service, self._clock, self._undo = arguments, service, clock, undo
        self._tls = server_tls(arguments)
        self._tokens = self._read_tokens()

    def security(self, address: str) -> tuple[ServerTls | None, tuple[str, ...]]:
        """Certificates of the way of frames at an address, and the names that may come in there."""
        if not address.startswith(UNIX):
            return self._tls, tuple(self._arguments.allow)
        has_others = self._arguments.flight is not None or self._arguments.grpc is not None
        # If there is no other, they are refused: that nobody would see them is a mistake.
        return None if has_others else self._tls, ()

    def open_frames(self, address: str) -> "SocketServer":
        """The way of frames, which is to be started.

        Raises:
            OptionError: the address cannot be used, or not safely.
        """
        from pyspark_theflash.service.server.app import SocketServer

        tls, names = self.security(address)
        known: dict[str, Any] = {"clock": self._clock, "tokens": self._tokens, "tls": tls}
        server = SocketServer(self._service(), address, allowed_names=names, **known)
        self._undo.callback(server.stop)
        return server

    def open_others(self) -> None:
        """The other ways that were named, answered by this process. Raises as `open_frames`."""
        if self._arguments.flight is not None:
            self._open_flight(self._arguments.flight)
        if self._arguments.grpc is not None:
            self._open_grpc(self._arguments.grpc)

    def _open_flight(self, address: str) -> None:
        from pyspark_theflash.service.server.flight import FlightServer

        server = FlightServer(self._service(), address, **self._settings(address))
        self._undo.callback(server.stop)
        print(f"serving Arrow Flight at {server.address}", flush=True)

    def _open_grpc(self, address: str) -> None:
        from pyspark_theflash.service.server.rpc import RpcServer

        server = RpcServer(self._service(), address, **self._settings(address))
        self._undo.callback(server.stop)
        server.start()
        print(f"serving gRPC at {server.address}", flush=True)

    def _settings(self, address: str) -> dict[str, Any]:
        known: dict[str, Any] = {"clock": self._clock, "tokens": self._tokens}
        if address.startswith(UNIX):
            return known
        return {**known, "tls": self._tls, "allowed_names": tuple(self._arguments.allow)}

    def _read_tokens(self) -> "Tokens | None":
        if self._arguments.tokens is None:
            return None
        from pyspark_theflash.service.api.token import Tokens

        return Tokens(self._arguments.tokens)
