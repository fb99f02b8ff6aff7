"""Read latches of a store of Delta tables: rows of a Delta table beside the publication table.

A latch keeps a timestamp readable, and the files of the versions that were published when it was
taken, until it is released or expires. Machines compare its expiry with their own clocks, so these
must agree to within the latch's margin.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pyspark.sql import SparkSession
from pyspark.sql.types import LongType, StringType, StructField, StructType

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.spark.delta import table

_SCHEMA: Final = StructType(
    [
        StructField("id", StringType()),
        StructField("snapshot_ts", LongType()),
        StructField("taken_ms", LongType()),
        StructField("until_ms", LongType()),
    ]
)
MARGIN_MS: Final = 60_000
"""By how much the clocks of machines may differ."""


@dataclass(frozen=True, slots=True)
class ReadLatch:
    """A latch on a timestamp; the times are milliseconds since 1970."""

    id: str
    snapshot_ts: TimeStamp
    taken_ms: int
    until_ms: int


class ReadLatches:
    """The read latches of a store."""

    def __init__(self, spark: SparkSession, path: str, clock: Clock) -> None:
        self._spark, self._clock = spark, clock
        self._table = f"{path.rstrip('/')}/latches"

    def take(self, snapshot_ts: TimeStamp, ttl_ms: int) -> ReadLatch:
        """Take a latch for a time."""
        now_ms = self._clock.wall_ms()
        latch = ReadLatch(uuid.uuid4().hex, snapshot_ts, now_ms, now_ms + ttl_ms)
        self._append(latch)
        return latch

    def release(self, latch: ReadLatch) -> None:
        """End a latch."""
        self._append(ReadLatch(latch.id, latch.snapshot_ts, latch.taken_ms, 0))

    def living(self) -> Sequence[ReadLatch]:
        """Return the latches that have neither ended nor expired."""
        if not table.exists(self._spark, self._table):
            return []
        until: dict[str, ReadLatch] = {}
        for row in table.read(self._spark, self._table).collect():
            latch = ReadLatch(row[0], TimeStamp(row[1]), row[2], row[3])
            if latch.id not in until or latch.until_ms < until[latch.id].until_ms:
                until[latch.id] = latch
        now_ms = self._clock.wall_ms()
        return [latch for latch in until.values() if latch.until_ms + MARGIN_MS > now_ms]

    @contextmanager
    def held(self, snapshot_ts: TimeStamp, ttl_ms: int) -> Iterator[ReadLatch]:
        """Hold a latch within the block."""
        latch = self.take(snapshot_ts, ttl_ms)
        try:
            yield latch
        finally:
            self.release(latch)

    def _append(self, latch: ReadLatch) -> None:
        row = (latch.id, int(latch.snapshot_ts), latch.taken_ms, latch.until_ms)
        rows = self._spark.createDataFrame([row], _SCHEMA).coalesce(1)
        rows.write.format("delta").mode("append").save(self._table)
