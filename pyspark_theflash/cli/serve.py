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
from typing import TYPE_CHECKING

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_store, seconds
from pyspark_theflash.cli.listeners import Listeners, add_doors
from pyspark_theflash.net.address import UNIX
from pyspark_theflash.service.server.control import WorkerSettings
from pyspark_theflash.service.server.lean import leave_out_pandas

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
    """The command line of `serve`."""
    add_store(parser)
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        help=f"HOST:PORT or unix:PATH (default: unix:STORE/{SOCKET})",
    )
    add_doors(parser)
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
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    address = arguments.listen or f"{UNIX}{arguments.store.absolute() / SOCKET}"
    with ExitStack() as undo:
        own = _OwnService(arguments.store, undo)
        listeners = Listeners(arguments, own.get, own.clock, undo)
        server: SocketServer | ConnectionRouter
        if arguments.workers == 1:
            server = listeners.open_frames(address)
        else:
            tls, names = listeners.security(address)
            known = (arguments.tokens, tls, names, own.spare_key)
            server = _front(arguments, WorkerSettings(arguments.store, address, *known), own.clock)
            undo.callback(server.stop)
        listeners.open_others()
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


def _front(
    arguments: argparse.Namespace, settings: WorkerSettings, clock: Clock
) -> "ConnectionRouter":
    from pyspark_theflash.service.server.router import ConnectionRouter
    from pyspark_theflash.storage.store.folder import read_identity

    read_identity(arguments.store, LocalFileSystem())
    return ConnectionRouter(settings, workers=arguments.workers, clock=clock)


class _OwnService:
    """The service of this process, if it needs one; it is closed after the ways to it are."""

    def __init__(self, store: Path, undo: ExitStack) -> None:
        self.clock = SystemClock()
        self.spare_key = secrets.token_bytes(_KEY_BYTES)
        self._store, self._undo = store, undo
        self._made: Service | None = None

    def get(self) -> "Service":
        """Made when it is first asked for."""
        if self._made is None:
            from pyspark_theflash.service.api.service import Service

            fs, clock = LocalFileSystem(), self.clock
            self._made = Service(self._store, fs=fs, clock=clock, spare_key=self.spare_key)
            self._undo.callback(self._made.close)
        return self._made
