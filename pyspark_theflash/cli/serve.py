"""Serve a store: reads, latches and administration for other processes and machines.

By default it listens on a unix socket in the store's folder. TCP needs tokens, and from other
machines certificates too. Each line of the tokens file has a role (read, write, admin) and a token;
only its owner may be able to read the file.

Up to --workers processes answer concurrent calls; each is started when it is needed. With 1, this
process answers. Flight and gRPC are always answered by this process.

Callers are limited (--limit, docs/limits.md). Above `pending` connections without authentication,
the oldest is closed. An eighth of all connections, calls and memory is kept for administrators,
and no other token can use more than its part.
"""

import argparse
import os
import secrets
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.process import allow_files
from pyspark_theflash.cli.jobs.arguments import add_seconds, add_store, add_telemetry
from pyspark_theflash.cli.jobs.figures import store_figures
from pyspark_theflash.cli.jobs.telemetry import Telemetry
from pyspark_theflash.cli.listeners import (
    Listeners,
    add_listeners,
    chosen_limits,
    stop_event,
)
from pyspark_theflash.net.address import UNIX
from pyspark_theflash.service.server.control import WorkerSettings
from pyspark_theflash.service.server.worker import leave_out_pandas

if TYPE_CHECKING:
    from pyspark_theflash.service.api.service import Service
    from pyspark_theflash.service.server.app import SocketServer
    from pyspark_theflash.service.server.router import ConnectionRouter

SOCKET = "serve.sock"
WORKERS_MAX = 64
_DEFAULT_WORKERS_MAX = 4
_LOOK_S = 0.2
_KEY_BYTES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    add_store(parser)
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        help=f"HOST:PORT or unix:PATH (default: unix:STORE/{SOCKET})",
    )
    add_listeners(parser)
    add_telemetry(parser)
    add_seconds(parser, "--idle", "exit after S seconds without a connection")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(_processors(), _DEFAULT_WORKERS_MAX),
        metavar="N",
        help="processes that answer calls, started on demand (default: one per processor,"
        f" {_DEFAULT_WORKERS_MAX} at most)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM, SIGINT, or the idle timeout."""
    leave_out_pandas()
    if not 1 <= arguments.workers <= WORKERS_MAX:
        raise UsageError(f"--workers must be from 1 to {WORKERS_MAX}")
    allow_files()
    stopping = stop_event()
    address = arguments.listen or f"{UNIX}{arguments.store.absolute() / SOCKET}"
    with ExitStack() as undo:
        clock, spare_key = SystemClock(), secrets.token_bytes(_KEY_BYTES)
        limits = chosen_limits(arguments)
        telemetry = Telemetry("serve", arguments, clock, undo)

        @cache
        def service() -> "Service":
            """Return the service of this process, which is closed after its listeners."""
            from pyspark_theflash.service.api.service import Service

            given: dict[str, Any] = {"spare_key": spare_key, "limits": limits}
            opened = Service(arguments.store, fs=LocalFileSystem(), clock=clock, **given)
            undo.callback(opened.close)
            return opened

        listeners = Listeners(arguments, service, clock, undo)
        server: SocketServer | ConnectionRouter
        if arguments.workers == 1:
            server = listeners.open_frames(address)
        else:
            tls, names = listeners.security(address)
            access = (arguments.tokens, tls, names, spare_key)
            settings = WorkerSettings(
                arguments.store, address, *access, limits=limits, log=arguments.log
            )
            server = _front(arguments, settings, clock)
            undo.callback(server.stop)
        listeners.open_others()
        server.start()
        telemetry.figures = lambda: {
            **store_figures(arguments.store, clock, has_progress=True),
            **_summed(server.figures(), listeners.figures()),
        }
        undo.callback(telemetry.ended)
        names = ("store", "flight", "grpc", "workers", "tokens", "cert")
        settled = {name: getattr(arguments, name) for name in names}
        telemetry.started({**settled, "listen": server.address})
        print(f"serving {arguments.store} at {server.address}", flush=True)
        while not stopping.wait(_LOOK_S):
            telemetry.beat()
            if arguments.idle is not None and server.idle_ms() > arguments.idle:
                break
    return 0


def _summed(of_server: dict[str, Any], of_process: dict[str, int]) -> dict[str, Any]:
    """Add the usage of this process, by Flight and gRPC, to that of the workers."""
    added = {name: value + of_server.get(name, 0) for name, value in of_process.items()}
    return {**of_server, **added}


def _processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _front(
    arguments: argparse.Namespace, settings: WorkerSettings, clock: Clock
) -> "ConnectionRouter":
    from pyspark_theflash.service.server.router import ConnectionRouter
    from pyspark_theflash.storage.store.folder import read_identity

    read_identity(arguments.store, LocalFileSystem())
    return ConnectionRouter(settings, workers=arguments.workers, clock=clock)
