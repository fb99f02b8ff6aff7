"""Several tables at one timestamp, for joins that do not tear."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pyspark.sql import DataFrame, SparkSession

from pyspark_theflash.planner.snapshot import open_snapshot
from pyspark_theflash.types import TimeStamp


class SparkSnapshot:
    """The tables of a store as of one timestamp, fixed when this is made.

        snapshot = SparkSnapshot(spark, "/data/store")
        snapshot.create_views()
        spark.sql("SELECT ... FROM orders JOIN customers ...")

    `options` are those of the source `theflash`, for every table. The store must be on this
    machine.
    """

    snapshot_ts: Final[TimeStamp]

    def __init__(
        self,
        spark: SparkSession,
        store: str | Path,
        snapshot_ts: int | None = None,
        **options: str | bool | float,
    ) -> None:
        """Without `snapshot_ts`: the newest that the store can answer.

        Raises:
            StoreNotFoundError, NotCaughtUpError, SnapshotTooOldError: as `open_snapshot`.
        """
        wanted = None if snapshot_ts is None else TimeStamp(snapshot_ts)
        with open_snapshot(Path(store), wanted) as snapshot:
            self.snapshot_ts = snapshot.snapshot_ts
            self._names = [table.full_name for table in snapshot.tables()]
        self._spark, self._store, self._options = spark, str(Path(store).absolute()), options

    @property
    def tables(self) -> list[str]:
        """`db.table` of every table there is at the timestamp."""
        return list(self._names)

    def table(self, name: str) -> DataFrame:
        """A table, as `db.table`."""
        reader = self._spark.read.format("theflash").options(**self._options)
        reader = reader.option("store", self._store).option("snapshot_ts", str(self.snapshot_ts))
        return reader.load(name)

    def create_views(self, names: Iterable[str] | None = None) -> None:
        """Make a temporary view of each table (`db.table`; None: of all), called as the table is.

        A view that is there already is replaced.
        """
        for name in self._names if names is None else names:
            self.table(name).createOrReplaceTempView(name.partition(".")[2])
