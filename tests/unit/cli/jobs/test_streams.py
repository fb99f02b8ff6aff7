"""Streams of a writer job: ends of a run, errors, the GC barrier, and options that do not fit."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import GCBarrierLostError, NotCaughtUpError, UsageError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs import streams
from pyspark_theflash.cli.jobs import writer as job
from pyspark_theflash.cli.jobs.arguments import ArgumentParser
from pyspark_theflash.cli.jobs.streams import ChangeStream
from pyspark_theflash.replication.cdc.writer import ChangeWriter
from pyspark_theflash.testing.stores import id_column, table_info
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from tests.support.change_log import ChangeLog, GrowingSchema
from tests.support.change_store import CLUSTER, ChangeStore, FakeChangeFeed
from tests.support.manual_clock import ManualClock

TABLE = table_info(1, "d.t", [id_column()])
HISTORY = SchemaHistory(
    TimeStamp(100),
    TimeStamp(10_000),
    [TableEvent(TimeStamp(100), "d", TABLE.id, TABLE)],
    (),
)


class Barrier:
    """A GC barrier that records where it is; `lost` is set when PD has passed it."""

    def __init__(self) -> None:
        self.held = list[int]()
        self.lost: GCBarrierLostError | None = None
        self.is_closed = False

    def hold(self, ts: TimeStamp) -> None:
        self.held.append(ts)

    def start(self, ts: object) -> None:
        assert callable(ts)
        self.held.append(ts())

    def check(self, needed_ts: TimeStamp) -> None:
        if self.lost is not None and self.lost.safe_point > needed_ts:
            raise self.lost

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChangeStore]:
    made = ChangeStore(tmp_path / "store", log := ChangeLog(), GrowingSchema(HISTORY, log))
    yield made
    made.engine.close()


class Made:
    """A stream over a fake feed."""

    def __init__(self, store: ChangeStore) -> None:
        self.feeds = list[FakeChangeFeed]()
        self.barrier, self.clock, self.log = Barrier(), ManualClock(), store.log

        def make_writer() -> ChangeWriter:
            self.feeds.append(FakeChangeFeed(store.log))
            schema = GrowingSchema(HISTORY, store.log)
            return ChangeWriter(store.engine, self.feeds[-1], schema, CLUSTER)

        now = TimeStamp(500)
        self.stream = ChangeStream(make_writer, self.barrier, lambda: now, self.clock)  # type: ignore[arg-type]


def test_what_has_arrived_is_published_before_the_usual_interval(store: ChangeStore) -> None:
    made = Made(store)
    made.stream.poll(None)
    assert not made.stream.is_due
    made.log.resolved_ts = 600
    for _ in range(20):
        made.stream.receive()
    assert made.stream.is_due
    while made.stream.writer.resolved_ts < 600:
        made.stream.poll(None)
    assert not made.stream.is_due
    assert job.default_interval_ms(is_due=True) < job.default_interval_ms(is_due=False)


def test_a_run_ends_at_the_current_timestamp_of_pd(store: ChangeStore) -> None:
    made = Made(store)
    assert made.barrier.held == [100, 100]
    made.log.resolved_ts = 600
    made.stream.run_once(None)
    assert made.stream.writer.resolved_ts == 500
    made.stream.run_once(TimeStamp(550))
    assert made.stream.writer.resolved_ts == 550
    made.stream.close()
    assert made.barrier.is_closed
    assert made.feeds[0].is_closed


def test_a_run_without_progress_ends_with_an_error(
    store: ChangeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "ONCE_MS", 10_000)
    made = Made(store)
    began_ms = made.clock.boottime_ms()
    made.log.resolved_ts = 300
    with pytest.raises(NotCaughtUpError) as raised:
        made.stream.run_once(None)
    assert (raised.value.applied, raised.value.wanted) == (300, 500)
    assert made.clock.boottime_ms() - began_ms == 10_000


def test_a_new_writer_continues_with_a_new_feed(store: ChangeStore) -> None:
    made = Made(store)
    made.log.resolved_ts = 300
    for _ in range(10):
        made.stream.poll(None)
    made.stream.renew()
    made.stream.poll(None)
    assert made.feeds[0].is_closed
    assert {ts for _, ts in made.feeds[1].subscribed} == {300}
    assert made.barrier.held == [100, 100, 300]


def test_a_lost_barrier_ends_the_stream(store: ChangeStore) -> None:
    made = Made(store)
    made.barrier.lost = GCBarrierLostError("theflash-x", 100, 200)
    with pytest.raises(GCBarrierLostError):
        made.stream.poll(None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--source", "tikv:h:1", "--source", "pump:h:2"], "only source"),
        (["--source", "tikv:h:1", "--schema", "file:x"], "leave out --schema"),
        (["--source", "tikv:h:1", "--guess-partitions"], "--guess-partitions is for a binlog"),
        (["--source", "file:x"], "--schema is required"),
    ],
)
def test_options_that_do_not_fit(options: list[str], reason: str) -> None:
    parser = ArgumentParser()
    job.add_arguments(parser)
    with pytest.raises(UsageError, match=reason):
        job.run(parser.parse_args(["store", *options]))
