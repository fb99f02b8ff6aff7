"""A store that a `ChangeWriter` under test writes, from a fake change feed."""

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.apply.rows import decode_versions
from pyspark_theflash.replication.cdc.writer import ChangeWriter
from pyspark_theflash.replication.load.scan import LoadPiece, record_keys, stream
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.storage.store.load import Stripe
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.codec.number import decode_int
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import TableInfo
from tests.support.change_log import Change, ChangeLog, FakeChangeFeed, GrowingSchema, versions

FS = LocalFileSystem()
CLUSTER = 7


def history(*events: TableEvent) -> SchemaHistory:
    """Return the schema history of most tests."""
    return SchemaHistory(TimeStamp(100), TimeStamp(100_000), events, ())


class LogReader:
    """A `PiecePool` that reads rows of a log at a timestamp, a few in each piece."""

    def __init__(
        self, log: ChangeLog, tables: Mapping[PhysicalTableID, TableInfo], ts: TimeStamp
    ) -> None:
        self._log, self._tables, self._ts = log, tables, ts
        self.rows = 3
        self.error: TheFlashError | None = None
        self.is_closed = False

    def read(self, start: RawKey, end: RawKey) -> "Future[LoadPiece]":
        future: Future[LoadPiece] = Future()
        try:
            future.set_result(self._piece(start, end))
        except TheFlashError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        self.is_closed = True

    def _piece(self, start: RawKey, end: RawKey) -> LoadPiece:
        if self.error is not None:
            raise self.error
        newest: dict[bytes, Change] = {}
        for change in sorted(self._log.changes):
            if start <= change.key < end and change.commit_ts <= self._ts:
                newest[change.key] = change
        rows = [newest[key] for key in sorted(newest) if newest[key].value is not None]
        page, rest = rows[: self.rows], rows[self.rows :]
        changes = [replace(row, commit_ts=self._ts, start_ts=self._ts) for row in page]
        physical_id = PhysicalTableID(decode_int(start, 1))
        batches = [
            (physical_id, stream(decode_versions(physical_id, chunk, self._tables[physical_id])))
            for chunk in versions(changes)
        ]
        return LoadPiece(tuple(batches), RawKey(rest[0].key) if rest else end, len(page), 0)


class LogLoader:
    """A `Loader` of a log; tables have a stripe for each half of their handles."""

    def __init__(self, log: ChangeLog) -> None:
        self.log = log
        self.opened: list[LogReader] = []
        self.confirmed: list[int] = []
        self.error: TheFlashError | None = None

    def stripes(self, physical_ids: Sequence[PhysicalTableID]) -> list[Stripe]:
        stripes: list[Stripe] = []
        for physical_id in physical_ids:
            keys, half = record_keys(physical_id), encode_record_key(physical_id, 5)
            for start, end in ((keys.start, half), (half, keys.end)):
                stripes.append(Stripe(len(stripes), start, end, start))
        return stripes

    def open(
        self, tables: Mapping[PhysicalTableID, TableInfo], ts: TimeStamp, stripes: int
    ) -> tuple[LogReader, int]:
        assert stripes
        self.opened.append(LogReader(self.log, tables, ts))
        self.opened[-1].error = self.error
        return self.opened[-1], 2

    def confirm(self, ts: TimeStamp) -> None:
        self.confirmed.append(ts)


class ChangeStore:
    """One store and its writer, which can be killed and started again."""

    def __init__(self, path: Path, log: ChangeLog, schema: GrowingSchema, **options: Any) -> None:
        self.path, self.log, self.schema, self.options = path, log, schema, options
        self.loader = options.get("loader")
        self._rng = random.Random(str(path.name))
        registry.create(path, registry.MAGIC, FS)
        self.start()

    def start(self) -> None:
        """Open the store, and start a writer with a new feed."""
        self.engine = registry.open_engine(
            self.path, read_identity(self.path, FS), FS, SystemClock()
        )
        self.feed = FakeChangeFeed(self.log, self._rng)
        self.writer = ChangeWriter(self.engine, self.feed, self.schema, CLUSTER, **self.options)

    def kill(self) -> None:
        """Drop the state in memory."""
        self.engine.close()
        self.feed.close()

    def reach(self, ts: int) -> None:
        """Complete the log up to a timestamp, and poll until it is readable."""
        self.log.resolved_ts = max(self.log.resolved_ts, ts)
        for _ in range(1000):
            if self.writer.resolved_ts >= ts:
                return
            self.writer.poll()
        raise AssertionError(f"{ts} is not reached: {self.writer.resolved_ts}")

    def rows(self, table: str, ts: int) -> list[tuple[Any, ...]]:
        """Return the rows of a table at a timestamp, sorted."""
        with open_snapshot(self.path, TimeStamp(ts)) as snapshot:
            batches = list(snapshot.scan(table))
        return sorted(tuple(row.values()) for batch in batches for row in batch.to_pylist())
