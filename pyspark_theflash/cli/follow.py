"""Make a replica of a cluster's tables, and keep it up to date.

A new store is created and loaded from TiKV at one timestamp, which takes as long as reading all
rows; then the changes after it are followed, until SIGTERM, SIGINT or `theflash stop STORE`. The
same command continues after an interruption at any point. It needs access to PD and TiKV only.

With --add, more tables enter an existing store: they are loaded at one timestamp, become readable
from there on all at once, and are followed like the others, which wait meanwhile. A follower that
is running has to be stopped first.

TiKV must retain old versions of rows meanwhile: a GC barrier in PD (a service safe point named
theflash-...) holds them from the load on. PD drops it a day after its last renewal.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs import writer
from pyspark_theflash.cli.jobs.arguments import (
    ArgumentParser,
    add_compare_share,
    add_telemetry,
    add_tls,
    timestamp,
    tls_files,
)
from pyspark_theflash.cli.jobs.memory import use_system_memory
from pyspark_theflash.cli.jobs.telemetry import Telemetry
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import FORMAT_FILE
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.storage.store.setting import DEFAULT_RETENTION_MS, retention_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `follow`."""
    parser.add_argument(
        "store", type=Path, metavar="STORE", help="the store's folder, created if it does not exist"
    )
    parser.add_argument("--pd", required=True, metavar="HOST:PORT,...", help="PD's addresses")
    parser.add_argument(
        "--tables",
        action="append",
        required=True,
        metavar="DB.TABLE",
        help="follow tables with matching names, * and ? allowed, those created later too; may be "
        "repeated",
    )
    parser.add_argument(
        "--add",
        action="append",
        metavar="DB.TABLE",
        help="also follow tables with matching names, which is recorded in the store; those that "
        "are not followed yet, or that are set aside, are loaded first; may be repeated",
    )
    parser.add_argument(
        "--lock-policy",
        choices=[policy.value for policy in LockPolicy],
        default=LockPolicy.WAIT.value,
        help="on a lock, the load waits for its transaction, resolves it as TiDB does, which "
        "writes to TiKV, or fails (default: wait)",
    )
    parser.add_argument(
        "--until-ts",
        type=timestamp,
        metavar="TS",
        help="exit when the store is readable at TS",
    )
    add_compare_share(parser)
    add_telemetry(parser)
    add_tls(parser)


def run(arguments: argparse.Namespace) -> int:
    """Create and load the store if needed, then follow the cluster."""
    clock = SystemClock()
    with ExitStack() as undo:
        telemetry = Telemetry("follow", arguments, clock, undo)
        names = ("store", "pd", "tables", "add", "until_ts", "lock_policy")
        telemetry.started({name: getattr(arguments, name) for name in names})
        return _follow(arguments, telemetry, clock)


def _follow(arguments: argparse.Namespace, telemetry: Telemetry, clock: Clock) -> int:
    # Imported here because they need an extra, and `--help` does not.
    from pyspark_theflash.cli.jobs.first_load import ensure_loaded
    from pyspark_theflash.replication.load.scan import ClusterAddress

    use_system_memory()
    fs = LocalFileSystem()
    store: Path = arguments.store
    if not (store / FORMAT_FILE).exists():
        registry.create(
            store, registry.MAGIC, fs, settings=[retention_record(DEFAULT_RETENTION_MS)]
        )
        print(f"made a store at {store}", flush=True)
    cluster = ClusterAddress(
        tuple(arguments.pd.split(",")), tls_files(arguments), LockPolicy(arguments.lock_policy)
    )
    scope = TableScope(tuple(arguments.tables))
    ts = ensure_loaded(store, cluster, scope, fs, clock, telemetry)
    if arguments.until_ts is not None and ts >= arguments.until_ts and not arguments.add:
        return 0
    return writer.write(_writer_arguments(arguments), telemetry, clock)


def _writer_arguments(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of the writer that follows the cluster."""
    parser = ArgumentParser()
    writer.add_arguments(parser)
    defaults = parser.parse_args([str(arguments.store), "--source", f"tikv:{arguments.pd}"])
    same = {name: value for name, value in vars(arguments).items() if name != "store"}
    return argparse.Namespace(**{**vars(defaults), **same, "include": arguments.tables})
