"""Have TiKV feed a store, and serve it: reads return what TiDB returns, including rows in memory.

TiKV's learners send to --listen (enginepb over gRPC); readers connect to --serve, as to `theflash
serve`. The default timestamp of reads is PD's newest. Tokens and certificates are for readers, as
with `serve`; --cluster-ca and the like are for PD, TiKV and its learners, which over TCP need a
certificate with a name of --cluster-allow. SIGTERM, SIGINT and
`theflash stop STORE` write applied rows to files and exit; after a crash, TiKV sends again what was
not written.
"""

import argparse
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.process import allow_files
from pyspark_theflash.cli.jobs.arguments import (
    add_access,
    add_seconds,
    add_store,
    add_telemetry,
    add_tls,
    mebibytes,
    timestamp,
    tls_files,
)
from pyspark_theflash.cli.jobs.memory import use_system_memory
from pyspark_theflash.cli.jobs.sources import Network
from pyspark_theflash.cli.jobs.telemetry import Telemetry
from pyspark_theflash.cli.listeners import (
    Listeners,
    add_listeners,
    chosen_limits,
    server_tls,
    stop_event,
)
from pyspark_theflash.cli.serve import SOCKET
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.net.address import UNIX
from pyspark_theflash.tikv.flush import FlushLimits
from pyspark_theflash.tikv.origin import READ_WAIT_MS

if TYPE_CHECKING:
    from pyspark_theflash.cli.jobs.learner import LearnerSettings

_LIMITS = FlushLimits()
_LOOK_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `learn`."""
    add_store(parser)
    parser.add_argument(
        "--serve",
        metavar="ADDRESS",
        help=f"address for readers: HOST:PORT or unix:PATH (default: unix:STORE/{SOCKET})",
    )
    add_listeners(parser)
    _add_cluster(parser.add_argument_group("TiDB's cluster"))
    _add_reads(parser.add_argument_group("reads and memory"))
    add_telemetry(parser)


def _add_cluster(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--pd", required=True, metavar="HOST:PORT,...", help="PD's addresses")
    group.add_argument(
        "--listen",
        required=True,
        metavar="ADDRESS",
        help="address for TiKV's learners: HOST:PORT or unix:PATH",
    )
    group.add_argument(
        "--schema",
        help="file:PATH, tidb:http://HOST:PORT or tikv:HOST:PORT[,...] (default: TiKV, by --pd)",
    )
    group.add_argument(
        "--start-ts",
        type=timestamp,
        metavar="TS",
        help="the oldest readable timestamp of a new store (default: PD's current one)",
    )
    group.add_argument(
        "--advertise",
        metavar="HOST:PORT",
        help="register with PD as a store at that address, labelled engine=theflash, and send "
        "heartbeats (default: do not register)",
    )
    add_tls(group, "cluster-")
    add_access(group, "learners", "cluster-")


def _add_reads(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--lock-policy",
        choices=[policy.value for policy in LockPolicy],
        default=LockPolicy.WAIT.value,
        help="on a lock, a read waits for its transaction, resolves it as TiDB does, which "
        "writes to TiKV, or fails (default: wait)",
    )
    wait = "default time that a read waits for regions and locks"
    add_seconds(group, "--read-wait", wait, READ_WAIT_MS)
    group.add_argument(
        "--memory",
        type=mebibytes,
        default=_LIMITS.memory_bytes,
        metavar="MIB",
        help="stop applying while more than this is in memory (default: 256)",
    )
    group.add_argument(
        "--flush-size",
        type=mebibytes,
        default=_LIMITS.rows_bytes,
        metavar="MIB",
        help="committed rows in memory that are written at once (default: 32)",
    )
    delay = "longest time until a committed row is written"
    add_seconds(group, "--flush-delay", delay, _LIMITS.delay_ms)
    add_seconds(group, "--wait", "wait up to S seconds for another writer to exit", 0)


def run(arguments: argparse.Namespace) -> int:
    """Follow TiKV and serve until SIGTERM, SIGINT or `theflash stop`."""
    # Imported here because it needs an extra, and `--help` does not.
    from pyspark_theflash.cli.jobs.learner import LearnerProcess

    server_tls(arguments)
    settings = _settings(arguments)
    settings.network.access(settings.listen).check(settings.listen)
    use_system_memory()
    clock, fs = SystemClock(), LocalFileSystem()
    allow_files()
    stopping = stop_event()
    with ExitStack() as undo:
        telemetry = Telemetry("learn", arguments, clock, undo)
        names = ("store", "pd", "listen", "serve", "advertise", "schema")
        telemetry.started({name: getattr(arguments, name) for name in names})
        process = undo.enter_context(
            closing(
                LearnerProcess(
                    arguments.store, settings, fs=fs, clock=clock, wait_ms=arguments.wait
                )
            )
        )
        address = arguments.serve or f"{UNIX}{arguments.store.absolute() / SOCKET}"
        listeners = Listeners(arguments, lambda: process.service, clock, undo)
        server = listeners.open_frames(address)
        listeners.open_others()
        telemetry.figures = lambda: {
            **process.figures(),
            **listeners.figures(),
            **server.figures(),
        }
        undo.callback(telemetry.ended)
        process.start()
        print(f"learning from TiKV at {process.server.address}", flush=True)
        server.start()
        print(f"serving {arguments.store} at {server.address}", flush=True)
        while not (stopping.wait(_LOOK_S) or process.is_stopping):
            process.poll()
            telemetry.beat()
    return 0


def _settings(arguments: argparse.Namespace) -> "LearnerSettings":
    from pyspark_theflash.cli.jobs.learner import LearnerSettings

    network = Network(
        tuple(arguments.pd.split(",")),
        tls_files(arguments, "cluster_"),
        allowed_names=tuple(arguments.cluster_allow),
        is_insecure=arguments.insecure,
    )
    return LearnerSettings(
        arguments.listen,
        network,
        arguments.schema,
        arguments.start_ts,
        arguments.advertise,
        LockPolicy(arguments.lock_policy),
        FlushLimits(arguments.flush_size, arguments.flush_delay, arguments.memory),
        arguments.read_wait,
        chosen_limits(arguments),
    )
