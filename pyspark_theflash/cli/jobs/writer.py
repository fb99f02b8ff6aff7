"""Apply a change stream to a store: `theflash writer ...`, or by spark-submit.

    spark-submit pyspark_theflash/jobs/writer.py STORE --source SOURCE --schema SCHEMA [...]

It follows its source until it is stopped (SIGTERM, SIGINT, `theflash stop STORE`); with `--once` it
applies the available input and exits. See `cli/jobs/sources.py` for SOURCE and SCHEMA. STORE is a
folder, or the address of a server on another machine (`service/client/remote_engine.py`).
"""

import argparse
import logging
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import LatchLostError, TheFlashError, UsageError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import PhysicalTableID, physical_ms
from pyspark_theflash.cli.jobs.arguments import (
    ArgumentParser,
    add_access,
    add_metrics,
    add_seconds,
    add_tls,
    add_token,
    cluster_id,
    timestamp,
    tls_files,
)
from pyspark_theflash.cli.jobs.memory import use_system_memory
from pyspark_theflash.cli.jobs.outcome import run_command
from pyspark_theflash.cli.jobs.place import Upkeep, WriterStore, open_place
from pyspark_theflash.cli.jobs.sources import CHANGE_FEED, SINK, Network, Opener
from pyspark_theflash.cli.jobs.streams import (
    AnyWriter,
    BinlogStream,
    ChangeStream,
    SinkStream,
    WriterStream,
)
from pyspark_theflash.cli.jobs.ticker import ticking
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.replication.apply.applier import Compact
from pyspark_theflash.replication.follow import follow
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.replication.upkeep.orphans import ORPHAN_MS
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import TableScope

if TYPE_CHECKING:
    from pyspark_theflash.cli.jobs.metrics import Figures

DEFAULT_INTERVAL_MS: Final = 250
RETRY_MS: Final = 1_000
"""Maximum polling interval while polls fail."""
_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `writer`."""
    parser.add_argument(
        "store", metavar="STORE", help="the store's folder, theflash://HOST:PORT or unix:PATH"
    )
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
    parser.add_argument(
        "--base", type=Path, metavar="DIR", help="rows from before the binlog (DIR/base.json)"
    )
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
    add_metrics(parser)
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
    use_system_memory()
    fs, clock = LocalFileSystem(), SystemClock()
    with ExitStack() as undo:
        place = open_place(arguments, fs, clock, undo)
        opener = Opener(_network(arguments), fs, clock, undo)
        upkeep: Upkeep

        def compact(tables: Iterable[PhysicalTableID]) -> None:
            upkeep.touched(tables)

        make_stream = _binlog_stream
        if is_change_feed(arguments.source):
            make_stream = _change_stream
        elif _is_sink(arguments):
            make_stream = _sink_stream
        stream = make_stream(arguments, place, opener, clock, compact)
        undo.callback(stream.close)
        base_rows = stream.writer.load_base(arguments.base) if arguments.base else 0
        upkeep = place.upkeep(stream.writer.state, opener.safe_point)

        def renew() -> None:
            place.open_again()
            stream.renew()
            upkeep.memory = stream.writer.state

        job = _Job(arguments, stream, upkeep, clock, renew)
        if arguments.metrics:
            # Imported here because it imports an HTTP server.
            from pyspark_theflash.cli.jobs.metrics import MetricsServer

            undo.enter_context(closing(MetricsServer(arguments.metrics, job.figures)))
        if arguments.once:
            job.run_once()
        else:
            job.follow()
        print(_summary(base_rows, stream.writer))
    return 0


def _binlog_stream(
    arguments: argparse.Namespace,
    place: WriterStore,
    opener: Opener,
    clock: Clock,
    compact: Compact,
) -> WriterStream:
    progress = Progress.of(place.engine.read([PROGRESS_KIND]))
    position = progress.position if progress else None
    source, streams = opener.sources(arguments.source, position, place.spool)
    schema = opener.schema(arguments.schema, arguments.start_ts)
    spill = Spill(place.folder)

    def make_writer() -> Writer:
        return Writer(
            place.engine,
            schema,
            _scope(arguments),
            spill,
            may_guess=arguments.guess_partitions,
            assume_empty=arguments.assume_empty or (),
            clock=clock,
            orphan_ms=arguments.ask_after,
            streams=streams,
            compact=compact,
        )

    return BinlogStream(make_writer, source)


def _change_stream(
    arguments: argparse.Namespace,
    place: WriterStore,
    opener: Opener,
    clock: Clock,
    compact: Compact,
) -> WriterStream:
    # Imported here because it needs grpcio.
    from pyspark_theflash.cluster.tikv.barrier import GCBarrier, barrier_name
    from pyspark_theflash.replication.cdc.meta_schema import MetaSchema
    from pyspark_theflash.replication.cdc.writer import ChangeWriter

    addresses = arguments.source[0].removeprefix(CHANGE_FEED).split(",")
    cluster = opener.cluster(addresses, LockPolicy(arguments.lock_policy))
    cluster_id = arguments.cluster_id or cluster.pd.cluster_id()
    begin, meta = cluster.schema(arguments.start_ts), cluster.meta

    def make_writer() -> ChangeWriter:
        return ChangeWriter(
            place.engine,
            cluster.open_feed(cluster_id, place.folder),
            MetaSchema(begin, meta, cluster.open_feed(cluster_id, place.folder), clock),
            cluster_id,
            _scope(arguments),
            assume_empty=arguments.assume_empty or (),
            compact=compact,
        )

    barrier = GCBarrier(cluster.client.directory, barrier_name(place.name), clock=clock)
    return ChangeStream(make_writer, barrier, cluster.pd.tso, clock)


def _sink_stream(
    arguments: argparse.Namespace,
    place: WriterStore,
    opener: Opener,
    clock: Clock,
    compact: Compact,
) -> WriterStream:
    # Imported here because Arrow's file systems take a while to load.
    from pyspark_theflash.replication.ticdc.sink import Sink
    from pyspark_theflash.replication.ticdc.storage import open_storage
    from pyspark_theflash.replication.ticdc.writer import SinkWriter

    storage, sink_format = open_storage(arguments.source[0].removeprefix(SINK))
    schema = opener.schema(arguments.schema, arguments.start_ts)

    def make_writer() -> SinkWriter:
        return SinkWriter(
            place.engine,
            schema,
            Sink(storage),
            sink_format,
            _scope(arguments),
            assume_empty=arguments.assume_empty or (),
            compact=compact,
        )

    return SinkStream(make_writer)


class _Job:
    """One run of a stream. `renew` replaces its writer after an error."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        stream: WriterStream,
        upkeep: Upkeep,
        clock: Clock,
        renew: Callable[[], None],
    ) -> None:
        self._arguments, self._stream, self._upkeep = arguments, stream, upkeep
        self._renew, self._is_lost = renew, False
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

            follow(
                lambda: self._trying(self._poll),
                between,
                interval_ms=self._interval_ms,
                is_stopped=self._is_ended,
                clock=self._clock,
            )
            self._upkeep.drain()

    def figures(self) -> "Figures":
        """Return the figures for Prometheus."""
        report = self._stream.writer.report
        return {
            "transactions_total": report.transactions,
            "rows_total": report.rows,
            "row_bytes_total": report.row_bytes,
            "publications_total": report.publications,
            "resolved_ts": self._stream.writer.resolved_ts,
            "lag_seconds": self._lag_s(),
            "compactions_discarded_total": self._upkeep.discarded,
            **{f"{stage}_seconds_total": s for stage, s in report.seconds.items()},
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

    def _interval_ms(self) -> int:
        interval_ms = self._upkeep.interval_ms or DEFAULT_INTERVAL_MS
        return min(interval_ms, RETRY_MS) if self._is_lost else interval_ms

    def _is_ended(self) -> bool:
        until_ts = self._arguments.until_ts
        is_reached = until_ts is not None and self._stream.writer.resolved_ts >= until_ts
        return self._is_stopped or self._upkeep.is_stopping or is_reached

    def _progress(self) -> str:
        report = self._stream.writer.report
        elapsed_s = max(self._clock.boottime_ms() - self._started_ms, 1) / 1000
        return (
            f"{report.rows:,} rows ({report.rows / elapsed_s:,.0f}/s), "
            f"{report.row_bytes / 2**20:,.0f} MiB, {self._lag_s():,.1f} s behind"
        )

    def _lag_s(self) -> float:
        """Return the age of the newest readable timestamp by this machine's clock."""
        resolved_ms = physical_ms(self._stream.writer.resolved_ts)
        return max(self._clock.wall_ms() - resolved_ms, 0) / 1000 if resolved_ms else 0.0

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
    elif arguments.schema is None:
        raise UsageError("--schema is required, except with --source tikv:HOST:PORT")
    elif _is_sink(arguments):
        _check_only(arguments, SINK)


def is_change_feed(sources: Sequence[str]) -> bool:
    """Return whether one of the sources is TiKV's change feed."""
    return any(source.startswith(CHANGE_FEED) for source in sources)


def _is_sink(arguments: argparse.Namespace) -> bool:
    return any(source.startswith(SINK) for source in arguments.source)


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


def _scope(arguments: argparse.Namespace) -> TableScope | None:
    if arguments.include is None and arguments.exclude is None:
        return None
    return TableScope(tuple(arguments.include or ()), tuple(arguments.exclude or ()))


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the writer; entry point for spark-submit."""
    logging.basicConfig(format="theflash: %(levelname)s: %(message)s", level=logging.WARNING)
    parser = ArgumentParser(prog="writer", description=__doc__)
    add_arguments(parser)
    return run_command(lambda: run(parser.parse_args(argv)))
