"""Streams of a writer job: a binlog, a change feed (`--source tikv:`) or a sink (`--source cdc:`).

A stream is a writer together with what it reads. After a transient error, a new writer continues
from the state of the store (`renew`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import NotCaughtUpError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.sources import Input
from pyspark_theflash.replication.writer import Writer

if TYPE_CHECKING:
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

    def poll(self, until_ts: TimeStamp | None) -> None:
        """Apply what is complete, up to `until_ts`."""

    def receive(self) -> None:
        """Receive what has arrived, between two polls."""

    def run_once(self, until_ts: TimeStamp | None) -> None:
        """Apply everything there is, up to `until_ts`."""

    def renew(self) -> None:
        """Replace the writer after an error."""

    def close(self) -> None:
        """End the stream."""


class BinlogStream:
    """A `WriterStream` of a binlog."""

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
    ) -> None:
        """Start a writer, and hold a GC barrier at its resolved_ts.

        Raises:
            GCBarrierLostError: TiKV may have collected changes that the store does not have.
        """
        self._make_writer, self._barrier = make_writer, barrier
        self._now, self._clock = now, clock
        self.writer = make_writer()
        barrier.hold(self.writer.checkpoint_ts)
        barrier.start(lambda: self.writer.checkpoint_ts)

    def poll(self, until_ts: TimeStamp | None) -> None:
        self._barrier.check()
        self.writer.poll(until_ts=until_ts)

    def receive(self) -> None:
        self.writer.receive()

    def run_once(self, until_ts: TimeStamp | None) -> None:
        limit = self._now() if until_ts is None else until_ts
        deadline, reached = Deadline(self._clock, ONCE_MS), TimeStamp(0)
        while self.writer.resolved_ts < limit:
            self.poll(limit)
            if self.writer.resolved_ts > reached:
                deadline, reached = Deadline(self._clock, ONCE_MS), self.writer.resolved_ts
            elif not deadline.sleep_ms(_PAUSE_MS):
                raise NotCaughtUpError(reached, limit)

    def renew(self) -> None:
        self.writer.close()
        self.writer = self._make_writer()

    def close(self) -> None:
        self._barrier.close()
        self.writer.close()


class SinkStream:
    """A `WriterStream` of TiCDC's storage sink."""

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

    def close(self) -> None:
        """Do nothing: files are closed when they are read."""
