"""`spark.read.format("theflash")`.

Which timestamp a DataFrame reads is decided once: Spark makes the source in a Python process at
`load()`, pickles it, and goes on with that copy.

    load()          __init__, schema()       the timestamp is fixed, the columns are looked up
    first action    reader(), partitions()   a plan at that timestamp, kept for later actions
    task            read()

Over Spark Connect `load()` is lazy, so an action may load anew: where several must agree, name the
timestamp.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql.datasource import DataSource, DataSourceReader, DataSourceWriter
from pyspark.sql.types import StructType

from pyspark_theflash.datasource.reader import TheFlashReader
from pyspark_theflash.datasource.schema import columns_of, spark_schema
from pyspark_theflash.errors import TheFlashError, UnsupportedError
from pyspark_theflash.options import ScanOptions
from pyspark_theflash.planner.snapshot import open_snapshot
from pyspark_theflash.schema.model import ColumnInfo
from pyspark_theflash.types import TimeStamp


@dataclass(frozen=True, slots=True)
class _Target:
    """What a source reads, with nothing left open."""

    options: ScanOptions
    snapshot_ts: TimeStamp
    table: str
    columns: tuple[ColumnInfo, ...]


class TheFlashDataSource(DataSource):
    """A table of a store as of one timestamp; its options are `pyspark_theflash.options`."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__(dict(options))
        # A failure waits until somebody reads: writing makes a source too, and has its own refusal.
        self._found: _Target | TheFlashError
        try:
            self._found = _look_up(ScanOptions.parse(options))
        except TheFlashError as error:
            self._found = error

    @classmethod
    def name(cls) -> str:
        return "theflash"

    def schema(self) -> StructType:
        target = self._target()
        return spark_schema(target.columns, target.table)

    def reader(self, schema: StructType) -> DataSourceReader:
        target = self._target()
        columns = columns_of(schema, target.columns, target.table)
        return TheFlashReader(
            target.options.store, target.table, target.snapshot_ts, columns, schema
        )

    def writer(self, schema: StructType, overwrite: bool) -> DataSourceWriter:
        raise UnsupportedError("writing with Spark", "theflash, a replica that follows TiDB")

    def _target(self) -> _Target:
        if isinstance(self._found, TheFlashError):
            raise self._found.with_traceback(None)
        return self._found


def _look_up(options: ScanOptions) -> _Target:
    with open_snapshot(options.store, options.snapshot_ts) as snapshot:
        plan = snapshot.plan(options.table, options.columns)
    return _Target(options, plan.snapshot_ts, plan.table.full_name, plan.columns)
