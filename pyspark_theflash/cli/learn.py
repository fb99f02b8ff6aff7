"""Have TiKV feed a store, and serve it: reads see what TiDB sees, also what is not written out yet.

TiKV's learners send to --listen (enginepb over gRPC); readers come to --serve as they come to
`theflash serve`. A timestamp that is not given is PD's newest. Tokens and certificates are for
readers as with `serve`; the cluster has its own (--cluster-ca, ...), with which PD, TiKV and who
sends to us know each other. SIGTERM, SIGINT and `theflash stop STORE` write out what is applied and
end it; after a kill, TiKV sends again what was not.
"""

import argparse
import signal
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_store, mebibytes, seconds, timestamp, tls_files
from pyspark_theflash.cli.jobs.learner import LearnerProcess, LearnerSettings
from pyspark_theflash.cli.jobs.memory import use_system_memory
from pyspark_theflash.cli.jobs.sources import Network
from pyspark_theflash.cli.listeners import Listeners, add_doors, server_tls
from pyspark_theflash.cli.serve import SOCKET
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.net.address import UNIX
from pyspark_theflash.tikv.flush import FlushLimits

_LIMITS = FlushLimits()
_LOOK_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `learn`."""
    add_store(parser)
    parser.add_argument(
        "--serve",
        metavar="ADDRESS",
        help=f"where readers come: HOST:PORT or unix:PATH (default: unix:STORE/{SOCKET})",
    )
    add_doors(parser)
    _add_cluster(parser.add_argument_group("TiDB's cluster"))
    _add_reads(parser.add_argument_group("reads and memory"))


def _add_cluster(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--pd", required=True, metavar="HOST:PORT,...", help="PD's addresses")
    group.add_argument(
        "--listen",
        required=True,
        metavar="ADDRESS",
        help="where TiKV sends what its learners apply: HOST:PORT or unix:PATH",
    )
    group.add_argument(
        "--schema",
        help="file:PATH, tidb:http://HOST:PORT or tikv:HOST:PORT[,...] (default: TiKV, by --pd)",
    )
    group.add_argument(
        "--start-ts",
        type=timestamp,
        metavar="TS",
        help="the oldest timestamp that a new store can be read at (default: PD's now)",
    )
    group.add_argument(
        "--advertise",
        metavar="HOST:PORT",
        help="register with PD as a store at that address, labelled engine=theflash, and send "
        "heartbeats (default: PD is not told)",
    )
    for name in ("ca", "cert", "key"):
        group.add_argument(
            f"--cluster-{name}", type=Path, metavar="FILE", help=f"TLS: the {name}, PEM"
        )
    group.add_argument(
        "--cluster-allow",
        action="append",
        default=[],
        metavar="NAME",
        help="a common name that a sender's certificate may have (default: any)",
    )


def _add_reads(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--lock-policy",
        choices=[policy.value for policy in LockPolicy],
        default=LockPolicy.WAIT.value,
        help="what a read does about a lock: wait for its transaction, resolve it as TiDB does, "
        "which writes to TiKV, or fail (default: wait)",
    )
    group.add_argument(
        "--read-wait",
        type=seconds,
        default=30_000,
        metavar="S",
        help="how long a read waits for regions and locks unless it says so itself (default: 30)",
    )
    group.add_argument(
        "--memory",
        type=mebibytes,
        default=_LIMITS.memory_bytes,
        metavar="MIB",
        help="with more than this in memory nothing is applied (default: 256)",
    )
    group.add_argument(
        "--flush-size",
        type=mebibytes,
        default=_LIMITS.rows_bytes,
        metavar="MIB",
        help="committed rows in memory that are written out at once (default: 32)",
    )
    group.add_argument(
        "--flush-delay",
        type=seconds,
        default=_LIMITS.delay_ms,
        metavar="S",
        help="no committed row waits longer than this to be written out (default: 1)",
    )
    group.add_argument(
        "--wait", type=seconds, default=0, metavar="S", help="wait for another writer to end"
    )


def run(arguments: argparse.Namespace) -> int:
    """Follow TiKV and serve until SIGTERM, SIGINT or `theflash stop`."""
    server_tls(arguments)
    settings = _settings(arguments)
    use_system_memory()
    clock, fs = SystemClock(), LocalFileSystem()
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with ExitStack() as undo:
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
        process.start()
        print(f"learning from TiKV at {process.server.address}", flush=True)
        server.start()
        print(f"serving {arguments.store} at {server.address}", flush=True)
        while not (stopping.wait(_LOOK_S) or process.is_stopping):
            process.poll()
    return 0


def _settings(arguments: argparse.Namespace) -> LearnerSettings:
    network = Network(tuple(arguments.pd.split(",")), tls_files(arguments, "cluster_"))
    return LearnerSettings(
        arguments.listen,
        network,
        arguments.schema,
        arguments.start_ts,
        arguments.advertise,
        tuple(arguments.cluster_allow),
        LockPolicy(arguments.lock_policy),
        FlushLimits(arguments.flush_size, arguments.flush_delay, arguments.memory),
        arguments.read_wait,
    )
