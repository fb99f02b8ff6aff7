"""A store that a `ChangeWriter` under test writes, from a fake change feed."""

import random
from pathlib import Path
from typing import Any

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.cdc.writer import ChangeWriter
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import read_identity
from tests.support.change_log import ChangeLog, FakeChangeFeed, GrowingSchema

FS = LocalFileSystem()
CLUSTER = 7


class ChangeStore:
    """One store and its writer, which can be killed and started again."""

    def __init__(self, path: Path, log: ChangeLog, schema: GrowingSchema, **options: Any) -> None:
        self.path, self.log, self.schema, self._options = path, log, schema, options
        self._rng = random.Random(str(path.name))
        registry.create(path, registry.MAGIC, FS)
        self.start()

    def start(self) -> None:
        """Open the store, and start a writer with a new feed."""
        self.engine = registry.open_engine(
            self.path, read_identity(self.path, FS), FS, SystemClock()
        )
        self.feed = FakeChangeFeed(self.log, self._rng)
        self.writer = ChangeWriter(self.engine, self.feed, self.schema, CLUSTER, **self._options)

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
