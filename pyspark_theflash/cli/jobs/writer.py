"""The writer as a job: `theflash writer ...`, or the same by spark-submit.

spark-submit pyspark_theflash/jobs/writer.py STORE --source SOURCE --schema SCHEMA [...]

It follows its source until it is stopped (SIGTERM, SIGINT, `theflash stop STORE`); with `--once` it
applies what is there and ends. See `cli/jobs/sources.py` for what SOURCE and SCHEMA can be. STORE
is a folder, or the address of a server on another machine (`service/client/remote_engine.py`).
"""

import argparse
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import LatchLostError, TheFlashError, UsageError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import physical_ms
from pyspark_theflash.cli.jobs.arguments import (
    ArgumentParser,
    cluster_id,
    seconds,
    timestamp,
    tls_files,
)
from pyspark_theflash.cli.jobs.bearer import add_token
from pyspark_theflash.cli.jobs.memory import use_system_memory
from pyspark_theflash.cli.jobs.outcome import run_command
from pyspark_theflash.cli.jobs.place import open_place
from pyspark_theflash.cli.jobs.sources import Input, Network, Opener
from pyspark_theflash.cli.jobs.ticker import ticking
from pyspark_theflash.replication.follow import follow
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.replication.upkeep.orphans import ORPHAN_MS
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import TableScope

if TYPE_CHECKING:
    from pyspark_theflash.cli.jobs.metrics import Figures
    from pyspark_theflash.cli.jobs.upkeep import Upkeep

DEFAULT_INTERVAL_MS: Final = 250
RETRY_MS: Final = 1_000
"""From poll to poll at most, as long as one fails."""
_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The writer's command line."""
    parser.add_argument(
        "store", metavar="STORE", help="the store's folder, theflash://HOST:PORT or unix:PATH"
    )
    parser.add_argument(
        "--source",
        required=True,
        action="append",
        help="file:PATH, pump:HOST:PORT, pump-server:unix:PATH or pump-server:HOST:PORT; once for "
        "each of several pumps, gone:SOURCE for one that has come to its end",
    )
    parser.add_argument(
        "--schema", required=True, help="file:PATH, tidb:http://HOST:PORT or tikv:HOST:PORT[,...]"
    )
    parser.add_argument(
        "--base", type=Path, metavar="DIR", help="rows from before the binlog (DIR/base.json)"
    )
    parser.add_argument("--once", action="store_true", help="apply what is there now, then end")
    parser.add_argument(
        "--until-ts",
        type=timestamp,
        metavar="TS",
        help="apply no commit above TS, and end there; with --once, vouches that the input is "
        "complete up to it",
    )
    for name, what in (("include", "replicate"), ("exclude", "leave out")):
        parser.add_argument(
            f"--{name}",
            action="append",
            metavar="DB.TABLE",
            help=f"{what} tables that are called so, * and ? allowed; may be given more than once",
        )
    parser.add_argument(
        "--assume-empty",
        action="append",
        metavar="DB.TABLE",
        help="tables that are called so, * and ? allowed, had no rows before the stream, so that "
        "no base is needed to read them; kept for good; may be given more than once",
    )
    parser.add_argument(
        "--interval", type=seconds, metavar="S", help="seconds from poll to poll (default: 0.25)"
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=0,
        metavar="S",
        help="wait for another writer to end, and for a server that does not answer",
    )
    parser.add_argument(
        "--guess-partitions",
        action="store_true",
        help="go on where nobody can tell in which of two partitions a transaction wrote: with "
        "the likelier one, logged",
    )
    parser.add_argument(
        "--ask-after",
        type=seconds,
        default=ORPHAN_MS,
        metavar="S",
        help="look up in TiKV how a transaction ended whose commit has not come for so many "
        f"seconds (default: {ORPHAN_MS // 1000})",
    )
    parser.add_argument(
        "--metrics", metavar="HOST:PORT", help="serve figures for Prometheus at /metrics"
    )
    _add_network(parser)
    _add_server(parser)


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a store behind a server")
    add_token(group)
    for name, what in (
        ("ca", "who signs the server's certificate: speak TLS"),
        ("cert", "our certificate for the server"),
        ("key", "its key"),
    ):
        group.add_argument(f"--store-{name}", type=Path, metavar="FILE", help=what)
    group.add_argument(
        "--spool",
        type=Path,
        metavar="FOLDER",
        help="a folder of this machine that keeps what is sent to a pump-server until it is "
        "applied, and what does not fit into memory",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TiDB's cluster")
    group.add_argument(
        "--pd", metavar="HOST:PORT,...", help="PD, for timestamps and to be found as a pump"
    )
    group.add_argument(
        "--start-ts",
        type=timestamp,
        metavar="TS",
        help="where a new store begins: the timestamp of its base (default: PD's now)",
    )
    group.add_argument(
        "--cluster-id", type=cluster_id, metavar="N", help="if PD is not asked for it"
    )
    group.add_argument(
        "--advertise", metavar="HOST:PORT", help="where TiDB reaches pump-server:HOST:PORT"
    )
    for name in ("ca", "cert", "key"):
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"TLS: the {name}, PEM")


def run(arguments: argparse.Namespace) -> int:
    """Apply the source to the store, and print what was done."""
    _check_arguments(arguments)
    use_system_memory()
    fs, clock = LocalFileSystem(), SystemClock()
    with ExitStack() as undo:
        place = open_place(arguments, fs, clock, undo)
        opener = Opener(_network(arguments), fs, clock, undo)
        progress = Progress.of(place.engine.read([PROGRESS_KIND]))
        position = progress.position if progress else None
        found, streams = opener.sources(arguments.source, position, place.spool)
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
                compact=lambda tables: upkeep.touched(tables),
            )

        writer = make_writer()
        base_rows = writer.load_base(arguments.base) if arguments.base else 0
        upkeep = place.upkeep(writer.state, opener.safe_point)

        def make_again() -> Writer:
            place.open_again()
            made = make_writer()
            upkeep.goes_on_with(made.state)
            return made

        job = _Job(arguments, writer, upkeep, found, clock, make_again)
        if arguments.metrics:
            # Brings in an HTTP server.
            from pyspark_theflash.cli.jobs.metrics import MetricsServer

            undo.enter_context(closing(MetricsServer(arguments.metrics, job.figures)))
        if arguments.once:
            job.run_once()
        else:
            job.follow()
        print(_summary(base_rows, job.writer))
    return 0


class _Job:
    """One run of a writer. `make_again` makes one that goes on where the store is."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        writer: Writer,
        upkeep: "Upkeep",
        found: Input,
        clock: Clock,
        make_again: Callable[[], Writer],
    ) -> None:
        self._arguments, self.writer, self._upkeep = arguments, writer, upkeep
        self._make_again, self._is_lost = make_again, False
        self._input, self._clock = found, clock
        self._started_ms = clock.boottime_ms()
        self._is_stopped = False

    def run_once(self) -> None:
        """Apply what is there."""
        with ticking("applying", self._clock):
            self.writer.run_once(self._input.source(), until_ts=self._arguments.until_ts)
            self._upkeep.drain()

    def follow(self) -> None:
        """Apply what comes until somebody ends it."""
        if self._arguments.interval is not None:
            self._upkeep.set_interval(self._arguments.interval)
        with self._signals(), ticking("following", self._clock) as ticker:

            def between() -> None:
                if not self._is_lost:
                    self._trying(self._upkeep.poll)
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
        """For Prometheus."""
        report = self.writer.report
        return {
            "transactions_total": report.transactions,
            "rows_total": report.rows,
            "row_bytes_total": report.row_bytes,
            "publications_total": report.publications,
            "resolved_ts": self.writer.resolved_ts,
            "lag_seconds": self._lag_s(),
            "compactions_discarded_total": self._upkeep.discarded,
            **{f"{stage}_seconds_total": s for stage, s in report.seconds.items()},
        }

    def _poll(self) -> None:
        if self._is_lost:
            self.writer, self._is_lost = self._make_again(), False
        self.writer.poll(self._input.source(), until_ts=self._arguments.until_ts)
        self._input.applied(self.writer.position)

    def _trying(self, step: Callable[[], None]) -> None:
        """Run a step; after a transient error, such as a full disk, log it and try again later."""
        try:
            step()
        except TheFlashError as error:
            if not (error.retryable or isinstance(error, LatchLostError)):
                raise
            _log.warning("the writer goes on trying: %s", error)
            self._is_lost = True

    def _interval_ms(self) -> int:
        wanted_ms = self._upkeep.interval_ms or DEFAULT_INTERVAL_MS
        return min(wanted_ms, RETRY_MS) if self._is_lost else wanted_ms

    def _is_ended(self) -> bool:
        until_ts = self._arguments.until_ts
        is_there = until_ts is not None and self.writer.resolved_ts >= until_ts
        return self._is_stopped or self._upkeep.is_stopping or is_there

    def _progress(self) -> str:
        report = self.writer.report
        elapsed_s = max(self._clock.boottime_ms() - self._started_ms, 1) / 1000
        return (
            f"{report.rows:,} rows ({report.rows / elapsed_s:,.0f}/s), "
            f"{report.row_bytes / 2**20:,.0f} MiB, {self._lag_s():,.1f} s behind"
        )

    def _lag_s(self) -> float:
        """How far what can be read lies behind this machine's clock."""
        resolved_ms = physical_ms(self.writer.resolved_ts)
        return max(self._clock.wall_ms() - resolved_ms, 0) / 1000 if resolved_ms else 0.0

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Within the block, SIGTERM and SIGINT end the run when its poll is done."""
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._is_stopped = True


def _check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.once and any(each.startswith("pump-server:") for each in arguments.source):
        raise UsageError("--once applies what is there; a pump-server waits for what comes")
    if arguments.once and arguments.interval is not None:
        raise UsageError("--once looks once, so there is no --interval")


def _scope(arguments: argparse.Namespace) -> TableScope | None:
    if arguments.include is None and arguments.exclude is None:
        return None
    return TableScope(tuple(arguments.include or ()), tuple(arguments.exclude or ()))


def _network(arguments: argparse.Namespace) -> Network:
    tls = tls_files(arguments)
    addresses = tuple(arguments.pd.split(",")) if arguments.pd else ()
    return Network(addresses, tls, arguments.cluster_id, arguments.advertise)


def _summary(base_rows: int, writer: Writer) -> str:
    report = writer.report
    kept = f", {writer.pending} kept for the next run" if writer.pending else ""
    base = f"{base_rows:,} rows of the base, " if base_rows else ""
    return (
        f"applied {base}{report.transactions:,} transactions "
        f"with {report.rows:,} row changes{kept}; "
        f"resolved_ts {shown(writer.resolved_ts)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point for spark-submit."""
    logging.basicConfig(format="theflash: %(levelname)s: %(message)s", level=logging.WARNING)
    parser = ArgumentParser(prog="writer", description=__doc__)
    add_arguments(parser)
    return run_command(lambda: run(parser.parse_args(argv)))
