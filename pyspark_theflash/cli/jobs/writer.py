"""Apply a change stream to a store: `theflash writer ...`, or by spark-submit.

    spark-submit pyspark_theflash/jobs/writer.py STORE --source SOURCE --schema SCHEMA [...]

It follows its source until it is stopped (SIGTERM, SIGINT, `theflash stop STORE`); with `--once` it
applies the available input and exits. See `cli/jobs/sources.py` for SOURCE and SCHEMA. STORE is a
folder, or the address of a server on another machine (`service/client/remote_engine.py`).
"""

import argparse
import logging
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import LatchLostError, TheFlashError, UsageError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.process import allow_files
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.cli.jobs.arguments import (
    ArgumentParser,
    add_access,
    add_compare_share,
    add_seconds,
    add_telemetry,
    add_tls,
    add_token,
    cluster_id,
    timestamp,
    tls_files,
)
from pyspark_theflash.cli.jobs.base import JobBase, add_base
from pyspark_theflash.cli.jobs.figures import lag_s, progress_figures, store_figures
from pyspark_theflash.cli.jobs.memory import use_system_memory
from pyspark_theflash.cli.jobs.place import Upkeep, is_folder, open_place
from pyspark_theflash.cli.jobs.sources import CHANGE_FEED, SINK, Network, Opener
from pyspark_theflash.cli.jobs.streams import (
    AnyWriter,
    StreamMaker,
    WriterStream,
    is_change_feed,
    is_sink,
)
from pyspark_theflash.cli.jobs.telemetry import Telemetry
from pyspark_theflash.cli.jobs.ticker import ticking
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.replication.follow import follow
from pyspark_theflash.replication.upkeep.orphans import ORPHAN_MS

if TYPE_CHECKING:
    from pyspark_theflash.cli.jobs.metrics import Figures

DEFAULT_INTERVAL_MS: Final = 250
DUE_MS: Final = 100
"""Polling interval while there is something to publish, unless `--interval` is set."""
RETRY_MS: Final = 1_000
"""Maximum polling interval while polls fail."""
_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `writer`."""
    store = "the store's folder, theflash://HOST:PORT, unix:PATH or delta:PATH (docs/delta.md)"
    parser.add_argument("store", metavar="STORE", help=store)
    parser.add_argument(
        "--source",
        required=True,
        action="append",
        help="tikv:HOST:PORT[,...] (PD's addresses) for TiKV's change feed, cdc:file:///PATH or "
        "cdc:s3://BUCKET/PREFIX for TiCDC's output to storage, or for a binlog: "
        "file:PATH, pump:HOST:PORT, pump-server:unix:PATH or pump-server:HOST:PORT; once for each "
        "of several pumps, gone:SOURCE for one that has ended",
    )
    parser.add_argument(
        "--schema",
        help="file:PATH, tidb:http://HOST:PORT or tikv:HOST:PORT[,...] (default: the source if it "
        "is tikv:, required otherwise)",
    )
    add_base(parser)
    parser.add_argument("--once", action="store_true", help="apply the available input, then exit")
    parser.add_argument(
        "--until-ts",
        type=timestamp,
        metavar="TS",
        help="apply no commit above TS, and exit there; with --once, asserts that the input is "
        "complete up to it",
    )
    for name, what in (("include", "replicate"), ("exclude", "leave out")):
        parser.add_argument(
            f"--{name}",
            action="append",
            metavar="DB.TABLE",
            help=f"{what} tables with matching names, * and ? allowed; may be repeated",
        )
    parser.add_argument(
        "--assume-empty",
        action="append",
        metavar="DB.TABLE",
        help="tables with matching names, * and ? allowed, had no rows before the stream, so "
        "that no base is needed to read them; permanent; may be repeated",
    )
    parser.add_argument(
        "--add",
        action="append",
        metavar="DB.TABLE",
        help="load tables with matching names, then replicate them; see theflash follow",
    )
    add_seconds(parser, "--interval", "polling interval in seconds (default: 0.25)")
    wait = "wait up to S seconds for another writer to exit, and for a server"
    add_seconds(parser, "--wait", wait, 0)
    parser.add_argument(
        "--guess-partitions",
        action="store_true",
        help="if it is unknown which of two partitions a transaction wrote, use the likelier "
        "one and log it",
    )
    look_up = "look up in TiKV the outcome of a transaction whose commit is missing for S seconds"
    add_seconds(parser, "--ask-after", look_up, ORPHAN_MS)
    parser.add_argument(
        "--lock-policy",
        choices=[policy.value for policy in LockPolicy],
        default=LockPolicy.WAIT.value,
        help="if locks hold back TiKV's change feed, log them (wait, fail) or resolve them as TiDB "
        "does, which writes to TiKV (default: wait)",
    )
    add_compare_share(parser)
    add_telemetry(parser)
    _add_network(parser)
    _add_server(parser)


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a store behind a server")
    add_token(group)
    add_tls(group, "store-")
    group.add_argument(
        "--spool",
        type=Path,
        metavar="FOLDER",
        help="a folder on this machine for binlog that is sent to a pump-server until it is "
        "applied, and for transactions that do not fit into memory",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TiDB's cluster")
    group.add_argument(
        "--pd", metavar="HOST:PORT,...", help="PD, for timestamps and registration as a pump"
    )
    group.add_argument(
        "--start-ts",
        type=timestamp,
        metavar="TS",
        help="start of a new store: the timestamp of its base (default: PD's current one)",
    )
    group.add_argument(
        "--cluster-id", type=cluster_id, metavar="N", help="the cluster's id (default: PD's)"
    )
    group.add_argument(
        "--advertise",
        metavar="HOST:PORT",
        help="address at which TiDB reaches pump-server:HOST:PORT",
    )
    add_tls(group)
    add_access(group, "TiDB")


def run(arguments: argparse.Namespace) -> int:
    """Apply the source to the store, and print a summary."""
    _check_arguments(arguments)
    clock = SystemClock()
    with ExitStack() as undo:
        telemetry = Telemetry("writer", arguments, clock, undo)
        if not arguments.once:
            names = ("store", "source", "schema", "include", "exclude", "pd")
            telemetry.started({name: getattr(arguments, name) for name in names})
        return write(arguments, telemetry, clock)


def write(arguments: argparse.Namespace, telemetry: Telemetry, clock: Clock) -> int:
    """Apply the source to the store, and print a summary."""
    use_system_memory()
    allow_files()
    fs = LocalFileSystem()
    with ExitStack() as undo:
        place = open_place(arguments, fs, clock, undo)
        base = JobBase(arguments, clock, undo)
        opener = Opener(_network(arguments), fs, clock, undo, base.start_ts)
        upkeep: Upkeep

        def compact(tables: Iterable[PhysicalTableID]) -> None:
            upkeep.touched(tables)

        stream = StreamMaker(arguments, place, opener, clock, compact).make()
        undo.callback(stream.close)
        base_rows = base.load(stream.writer)
        upkeep = place.upkeep(stream.writer.state, opener.safe_point)

        def renew() -> None:
            place.open_again()
            stream.renew()
            upkeep.memory = stream.writer.state

        job = _Job(arguments, stream, upkeep, clock, renew, telemetry.beat)
        telemetry.figures = job.figures
        undo.callback(telemetry.ended)
        if arguments.once:
            job.run_once()
        else:
            job.follow()
        print(_summary(base_rows, stream.writer))
    return 0


class _Job:
    """One run of a stream. `renew` replaces its writer after an error."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        stream: WriterStream,
        upkeep: Upkeep,
        clock: Clock,
        renew: Callable[[], None],
        beat: Callable[[], None],
    ) -> None:
        self._arguments, self._stream, self._upkeep = arguments, stream, upkeep
        self._renew, self._is_lost = renew, False
        self._beat, self._retries = beat, 0
        self._clock = clock
        self._started_ms = clock.boottime_ms()
        self._is_stopped = False

    def run_once(self) -> None:
        """Apply the available input."""
        with ticking("applying", self._clock):
            self._stream.run_once(self._arguments.until_ts)
            self._upkeep.drain()

    def follow(self) -> None:
        """Apply input until stopped."""
        if self._arguments.interval is not None:
            self._upkeep.set_interval(self._arguments.interval)
        with self._signals(), ticking("following", self._clock) as ticker:

            def between() -> None:
                for step in (self._upkeep.poll, self._stream.receive):
                    if not self._is_lost:
                        self._trying(step)
                ticker.note(self._progress())
                self._beat()

            follow(
                lambda: self._trying(self._poll),
                between,
                interval_ms=self._interval_ms,
                is_stopped=self._is_ended,
                clock=self._clock,
            )
            self._upkeep.drain()

    def figures(self) -> "Figures":
        """Return the figures for `Telemetry`."""
        report, path = self._stream.writer.report, self._arguments.store
        return {
            **progress_figures(self._stream.writer.resolved_ts, self._clock),
            "transactions_total": report.transactions,
            "rows_total": report.rows,
            "row_bytes_total": report.row_bytes,
            "publications_total": report.publications,
            "stage_seconds_total": dict(report.seconds),
            "retries_total": self._retries,
            "compactions_discarded_total": self._upkeep.discarded,
            **self._stream.figures(),
            **(store_figures(Path(path), self._clock) if is_folder(path) else {}),
        }

    def _poll(self) -> None:
        if self._is_lost:
            self._renew()
            self._is_lost = False
        self._stream.poll(self._arguments.until_ts)

    def _trying(self, step: Callable[[], None]) -> None:
        """Run a step; after a transient error, such as a full disk, log it and retry later."""
        try:
            step()
        except TheFlashError as error:
            if not (error.retryable or isinstance(error, LatchLostError)):
                raise
            _log.warning("the writer retries after an error: %s", error)
            self._is_lost = True
            self._retries += 1

    def _interval_ms(self) -> int:
        interval_ms = self._upkeep.interval_ms or default_interval_ms(is_due=self._stream.is_due)
        return min(interval_ms, RETRY_MS) if self._is_lost else interval_ms

    def _is_ended(self) -> bool:
        until_ts = self._arguments.until_ts
        is_reached = until_ts is not None and self._stream.writer.resolved_ts >= until_ts
        return self._is_stopped or self._upkeep.is_stopping or is_reached

    def _progress(self) -> str:
        report = self._stream.writer.report
        elapsed_s = max(self._clock.boottime_ms() - self._started_ms, 1) / 1000
        behind_s = lag_s(self._stream.writer.resolved_ts, self._clock)
        loading = "" if report.loading is None else f", loading {report.loading:.0%}"
        return (
            f"{report.rows:,} rows ({report.rows / elapsed_s:,.0f}/s), "
            f"{report.row_bytes / 2**20:,.0f} MiB, {behind_s:,.1f} s behind{loading}"
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Within the block, SIGTERM and SIGINT end the run after its poll."""
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._is_stopped = True


def default_interval_ms(*, is_due: bool) -> int:
    """Return the polling interval; `is_due` if there is something to publish."""
    return DUE_MS if is_due else DEFAULT_INTERVAL_MS


def _check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.once and _is_pump_server(arguments):
        raise UsageError("--once applies the available input; a pump-server has none to start with")
    if (arguments.allow or arguments.insecure) and not _is_pump_server(arguments):
        raise UsageError("--allow and --insecure are for --source pump-server:HOST:PORT")
    if arguments.once and arguments.interval is not None:
        raise UsageError("--interval cannot be used with --once, which polls once")

    if is_change_feed(arguments.source):
        _check_only(arguments, CHANGE_FEED)
        if arguments.schema is not None and not arguments.schema.startswith(CHANGE_FEED):
            raise UsageError("--source tikv: reads the schema from TiKV: leave out --schema")
    elif arguments.add:
        raise UsageError("--add is for --source tikv:")
    elif arguments.schema is None:
        raise UsageError("--schema is required, except with --source tikv:HOST:PORT")
    elif is_sink(arguments.source):
        _check_only(arguments, SINK)


def _check_only(arguments: argparse.Namespace, scheme: str) -> None:
    """Check the options with a source that is not a binlog."""
    if len(arguments.source) > 1:
        raise UsageError(f"--source {scheme} delivers all changes, so it must be the only source")
    for name in ("guess_partitions", "advertise"):
        if getattr(arguments, name):
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is for a binlog, not for --source {scheme}")


def _is_pump_server(arguments: argparse.Namespace) -> bool:
    return any(source.startswith("pump-server:") for source in arguments.source)


def _network(arguments: argparse.Namespace) -> Network:
    tls = tls_files(arguments)
    pd: str | None = arguments.pd
    if pd is None and is_change_feed(arguments.source):
        pd = arguments.source[0].removeprefix(CHANGE_FEED)
    addresses = tuple(pd.split(",")) if pd else ()
    return Network(
        addresses,
        tls,
        arguments.cluster_id,
        arguments.advertise,
        tuple(arguments.allow),
        arguments.insecure,
    )


def _summary(base_rows: int, writer: AnyWriter) -> str:
    report = writer.report
    pending = f", {writer.pending} pending for the next run" if writer.pending else ""
    base = f"{base_rows:,} rows of the base, " if base_rows else ""
    return (
        f"applied {base}{report.transactions:,} transactions "
        f"with {report.rows:,} row changes{pending}; "
        f"resolved_ts {shown(writer.resolved_ts)}"
    )


def argument_parser() -> ArgumentParser:
    """Return the parser of a job for spark-submit."""
    parser = ArgumentParser(prog="writer", description=__doc__)
    add_arguments(parser)
    return parser
