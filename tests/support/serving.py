"""Servers of TheFlash API for tests, in this process and in separate ones."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import AccessToken, Tokens
from pyspark_theflash.service.server.app import SocketServer
from pyspark_theflash.service.server.control import WorkerSettings
from pyspark_theflash.service.server.flight import FlightServer
from pyspark_theflash.service.server.router import ConnectionRouter
from pyspark_theflash.service.server.rpc import RpcServer
from pyspark_theflash.service.wire.method import Role
from tests.support.tls import FOLDER

CLOCK = SystemClock()
ROLES_TOKEN = "a-token-that-may-read"
TOKENS = {role: AccessToken(f"a-token-that-may-{role.name.lower()}") for role in Role}


def write_tokens(path: Path, roles: dict[str, str] | None = None) -> Path:
    """Write a tokens file, by default with those of `TOKENS`: token -> role."""
    defaults = {token.value: role.name.lower() for role, token in TOKENS.items()}
    lines = [f"{role} {token}  # a caller" for token, role in (roles or defaults).items()]
    path.touch(0o600)
    path.write_text("\n".join(["# who may call", "", *lines]))
    return path


def server_tls(*, with_ca: bool = True, name: str = "server") -> ServerTls:
    """A server's side of TLS, with the certificates of `tests/golden/tls`."""
    ca = FOLDER / "ca.pem" if with_ca else None
    return ServerTls(FOLDER / f"{name}.pem", FOLDER / f"{name}.key", ca)


@contextmanager
def serving(store: Path, address: str, **settings: Any) -> Iterator[SocketServer]:
    """Run a server of the store at `store`."""
    service = Service(store, fs=LocalFileSystem(), clock=CLOCK, limits=settings.pop("limits", None))
    server = SocketServer(service, address, clock=CLOCK, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop(0)
        service.close()


class Alternating(ConnectionRouter):
    """Passes each call to another worker than the previous one, unlike a real router."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, workers=2, **settings)
        self._workers_min = 2
        self._turns = cycle((0, 1))

    def _chosen(self, ready: Any) -> Any:
        return ready[next(self._turns) % len(ready)]


@contextmanager
def serving_workers(
    store: Path,
    address: str,
    *,
    workers: int | None = None,
    **settings: Any,
) -> Iterator[ConnectionRouter]:
    """The same with several processes. By default, consecutive calls go to different ones."""
    if workers is None:
        router: ConnectionRouter = Alternating(
            WorkerSettings(store, address, linger_ms=0, **settings), clock=CLOCK
        )
    else:
        router = ConnectionRouter(
            WorkerSettings(store, address, **settings), workers=workers, clock=CLOCK
        )
    try:
        router.start()
        yield router
    finally:
        router.stop(0)


@contextmanager
def serving_secured(store: Path, folder: Path) -> Iterator[SocketServer]:
    """Run a server over TCP, with certificates and with tokens in a file in `folder`."""
    secrets = {"tokens": tokens(folder), "tls": server_tls()}
    with serving(store, "localhost:0", **secrets) as server:
        yield server


@contextmanager
def serving_flight(store: Path, address: str, **settings: Any) -> Iterator[FlightServer]:
    """The same over Arrow Flight."""
    service = Service(store, fs=LocalFileSystem(), clock=CLOCK, limits=settings.pop("limits", None))
    server = FlightServer(service, address, clock=CLOCK, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def serving_grpc(store: Path, address: str, **settings: Any) -> Iterator[RpcServer]:
    """The same over gRPC."""
    service = Service(store, fs=LocalFileSystem(), clock=CLOCK, limits=settings.pop("limits", None))
    server = RpcServer(service, address, clock=CLOCK, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def command(*arguments: object) -> list[str]:
    """A command line of `theflash`."""
    return [sys.executable, "-m", "pyspark_theflash.cli.main", *map(str, arguments)]


@contextmanager
def served(store: Path, *options: object) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """Run a process that serves the store; yield it and its address."""
    with subprocess.Popen(
        command("serve", store, *options), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()


def tokens(folder: Path) -> Tokens:
    """The tokens of `TOKENS`, in a file in `folder`."""
    return Tokens(write_tokens(folder / "tokens"))
