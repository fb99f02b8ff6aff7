"""Streams of a writer job: a binlog, a change feed (`--source tikv:`) or a sink (`--source cdc:`).

A stream is a writer with its source. After a transient error, a new writer continues
from the state of the store (`renew`).
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import NotCaughtUpError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.place import WriterStore
from pyspark_theflash.cli.jobs.sources import CHANGE_FEED, SINK, Input, Opener
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.replication.apply.applier import Compact
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import TableScope

if TYPE_CHECKING:
    from pyspark_theflash.cli.jobs.imports import Imports
    from pyspark_theflash.cli.jobs.metrics import Figures
    from pyspark_theflash.cluster.tikv.barrier import GCBarrier
    from pyspark_theflash.replication.cdc.writer import ChangeWriter
    from pyspark_theflash.replication.ticdc.writer import SinkWriter

AnyWriter: TypeAlias = "Writer | ChangeWriter | SinkWriter"
ONCE_MS: Final = 600_000
"""Time without progress after which a run that ends at a timestamp fails."""
_PAUSE_MS: Final = 10


class WriterStream(Protocol):
    """A writer and its source."""

    @property
    def writer(self) -> AnyWriter:
        """The current writer."""

    @property
    def is_due(self) -> bool:
        """Whether something has been received that `poll` would publish, if that is known."""

    def poll(self, until_ts: TimeStamp | None) -> None:
        """Apply what is complete, up to `until_ts`."""

    def receive(self) -> None:
        """Receive pending messages, between two polls."""

    def run_once(self, until_ts: TimeStamp | None) -> None:
        """Apply all available input, up to `until_ts`."""

    def renew(self) -> None:
        """Replace the writer after an error."""

    def figures(self) -> "Figures":
        """Return figures of its source for `Telemetry`. May be called by other threads."""

    def close(self) -> None:
        """End the stream."""


class BinlogStream:
    """A `WriterStream` of a binlog."""

    is_due: Final = False

    def __init__(self, make_writer: Callable[[], Writer], source: Input) -> None:
        self._make_writer, self._input = make_writer, source
        self.writer = make_writer()

    def poll(self, until_ts: TimeStamp | None) -> None:
        self.writer.poll(self._input.source(), until_ts=until_ts)
        self._input.applied(self.writer.position)

    def receive(self) -> None:
        """Do nothing: a binlog is read by `poll` only."""

    def run_once(self, until_ts: TimeStamp | None) -> None:
        self.writer.run_once(self._input.source(), until_ts=until_ts)

    def renew(self) -> None:
        self.writer = self._make_writer()

    def figures(self) -> "Figures":
        figures = {"pending_transactions": self.writer.pending}
        spool = self._input.spool
        return figures if spool is None else {**figures, "spool_bytes": spool.size_bytes}

    def close(self) -> None:
        """Do nothing: sources are closed with their connections."""


class ChangeStream:
    """A `WriterStream` of a change feed. `now` returns PD's current timestamp."""

    def __init__(
        self,
        make_writer: "Callable[[], ChangeWriter]",
        barrier: "GCBarrier",
        now: Callable[[], TimeStamp],
        clock: Clock,
        add: Sequence[str] = (),
        imports: "Imports | None" = None,
    ) -> None:
        """Start a writer, and hold a GC barrier at its resolved_ts.

        `add` are patterns of tables to load now, and to follow then. `imports` are looked for while
        the stream is polled, except by `run_once`.

        Raises:
            GCBarrierLostError: TiKV may have collected changes that the store does not have.
        """
        self._make_writer, self._barrier = make_writer, barrier
        self._now, self._clock, self._imports = now, clock, imports
        self.writer = make_writer()
        barrier.hold(self.writer.checkpoint_ts)
        barrier.start(lambda: self.writer.checkpoint_ts)
        if add:
            self.writer.add(add, now())

    @property
    def is_due(self) -> bool:
        return self.writer.is_due

    def poll(self, until_ts: TimeStamp | None) -> None:
        self._poll(until_ts)
        if self._imports is not None:
            self._imports.poll(self.writer)

    def _poll(self, until_ts: TimeStamp | None) -> None:
        self._barrier.check(self.writer.needed_ts)
        self.writer.poll(until_ts=until_ts)

    def receive(self) -> None:
        self.writer.receive()

    def run_once(self, until_ts: TimeStamp | None) -> None:
        limit = self._now() if until_ts is None else until_ts
        deadline, reached = Deadline(self._clock, ONCE_MS), (TimeStamp(0), 0.0)
        while self.writer.resolved_ts < limit:
            self._poll(limit)
            now = self.writer.resolved_ts, self.writer.report.loading or 0.0
            if now > reached:
                deadline, reached = Deadline(self._clock, ONCE_MS), now
            elif not deadline.sleep_ms(_PAUSE_MS):
                raise NotCaughtUpError(now[0], limit)

    def renew(self) -> None:
        self.writer.close()
        self.writer = self._make_writer()
        # Its feed starts at the checkpoint again.
        self._barrier.hold(self.writer.checkpoint_ts)

    def figures(self) -> "Figures":
        state = self.writer.feed_state
        return {
            "regions": {
                "streaming": state.streaming,
                "scanning": state.scanning,
                "waiting": state.waiting,
            },
            "buffered_bytes": {
                "committed": state.buffered_bytes,
                "prewritten": state.prewrite_bytes,
            },
            "spilled_bytes": state.spilled_bytes,
            **({} if self._imports is None else self._imports.figures()),
        }

    def close(self) -> None:
        if self._imports is not None:
            self._imports.close()
        self._barrier.close()
        self.writer.close()


class SinkStream:
    """A `WriterStream` of TiCDC's storage sink."""

    is_due: Final = False

    def __init__(self, make_writer: "Callable[[], SinkWriter]") -> None:
        self._make_writer = make_writer
        self.writer = make_writer()

    def poll(self, until_ts: TimeStamp | None) -> None:
        self.writer.poll(until_ts=until_ts)

    def receive(self) -> None:
        """Do nothing: files are read by `poll` only."""

    def run_once(self, until_ts: TimeStamp | None) -> None:
        self.writer.run_once(until_ts=until_ts)

    def renew(self) -> None:
        self.writer = self._make_writer()

    def figures(self) -> "Figures":
        return {}

    def close(self) -> None:
        """Do nothing: files are closed when they are read."""


def is_change_feed(sources: Sequence[str]) -> bool:
    """Return whether one of the sources is TiKV's change feed."""
    return any(source.startswith(CHANGE_FEED) for source in sources)


def is_sink(sources: Sequence[str]) -> bool:
    """Return whether one of the sources is TiCDC's output."""
    return any(source.startswith(SINK) for source in sources)


def table_scope(arguments: argparse.Namespace) -> TableScope | None:
    """Return the tables of `--include` and `--exclude`; None for all."""
    if arguments.include is None and arguments.exclude is None:
        return None
    return TableScope(tuple(arguments.include or ()), tuple(arguments.exclude or ()))


@dataclass(frozen=True, slots=True)
class StreamMaker:
    """Makes the stream of a command line; `compact` is called with published tables."""

    arguments: argparse.Namespace
    place: WriterStore
    opener: Opener
    clock: Clock
    compact: Compact

    def make(self) -> WriterStream:
        """Return the stream, with its first writer."""
        if is_change_feed(self.arguments.source):
            return self._change_stream()
        return self._sink_stream() if is_sink(self.arguments.source) else self._binlog_stream()

    @property
    def _common(self) -> dict[str, Any]:
        """Arguments of all writers."""
        assumed = self.arguments.assume_empty or ()
        return {
            "scope": table_scope(self.arguments),
            "assume_empty": assumed,
            "compact": self.compact,
        }

    def _binlog_stream(self) -> WriterStream:
        arguments, engine = self.arguments, self.place.engine
        progress = Progress.of(engine.read([PROGRESS_KIND]))
        position = progress.position if progress else None
        source, streams = self.opener.sources(arguments.source, position, self.place.spool)
        schema = self.opener.schema(arguments.schema, arguments.start_ts)
        spill = Spill(self.place.folder)

        def make_writer() -> Writer:
            return Writer(
                engine,
                schema,
                spill=spill,
                may_guess=arguments.guess_partitions,
                clock=self.clock,
                orphan_ms=arguments.ask_after,
                streams=streams,
                applier=self.place.applier,
                **self._common,
            )

        return BinlogStream(make_writer, source)

    def _change_stream(self) -> WriterStream:
        # Imported here because it needs grpcio.
        from pyspark_theflash.cli.jobs.imports import open_imports
        from pyspark_theflash.cluster.tikv.barrier import GCBarrier, barrier_name
        from pyspark_theflash.replication.cdc.meta_schema import MetaSchema
        from pyspark_theflash.replication.cdc.writer import ChangeWriter

        arguments, place, clock = self.arguments, self.place, self.clock
        addresses = arguments.source[0].removeprefix(CHANGE_FEED).split(",")
        cluster = self.opener.cluster(addresses, LockPolicy(arguments.lock_policy))
        cluster_id = arguments.cluster_id or cluster.pd.cluster_id()
        begin, meta = cluster.schema(arguments.start_ts), cluster.meta
        barrier = GCBarrier(cluster.client.directory, barrier_name(place.name), clock=clock)
        loader = cluster.loader(barrier.hold)

        def make_writer() -> ChangeWriter:
            schema_feed = cluster.open_feed(cluster_id, place.folder)
            return ChangeWriter(
                place.engine,
                cluster.open_feed(cluster_id, place.folder),
                MetaSchema(begin, meta, schema_feed, clock),
                cluster_id,
                loader=loader,
                clock=clock,
                **self._common,
            )

        add, imports = (
            arguments.add or (),
            open_imports(arguments, place.engine, cluster, addresses),
        )
        return ChangeStream(make_writer, barrier, cluster.pd.tso, clock, add, imports)

    def _sink_stream(self) -> WriterStream:
        # Imported here because Arrow's file systems take a while to load.
        from pyspark_theflash.replication.ticdc.sink import Sink
        from pyspark_theflash.replication.ticdc.storage import open_storage
        from pyspark_theflash.replication.ticdc.writer import SinkWriter

        arguments = self.arguments
        storage, sink_format = open_storage(arguments.source[0].removeprefix(SINK))
        schema = self.opener.schema(arguments.schema, arguments.start_ts)

        def make_writer() -> SinkWriter:
            return SinkWriter(self.place.engine, schema, Sink(storage), sink_format, **self._common)

        return SinkStream(make_writer)
