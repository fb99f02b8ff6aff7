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

from pyspark.sql.datasource import DataSource, DataSourceReader, DataSourceWriter
from pyspark.sql.types import StructType

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import TheFlashError, UnsupportedError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.options import ScanOptions
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.plan.wait import wait_for
from pyspark_theflash.read.present import Presentation, ZeroDates
from pyspark_theflash.spark.place import Server
from pyspark_theflash.spark.reader import ScanTarget
from pyspark_theflash.spark.schema import columns_of, spark_schema
from pyspark_theflash.spark.served import ServedTarget


class TheFlashDataSource(DataSource):
    """A table of a store as of one timestamp; its options are `pyspark_theflash.base.options`."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__(dict(options))
        # A failure waits until somebody reads: writing makes a source too, and has its own refusal.
        self._found: ScanTarget | ServedTarget | TheFlashError
        try:
            self._found = _look_up(options)
        except TheFlashError as error:
            self._found = error

    @classmethod
    def name(cls) -> str:
        return "theflash"

    def schema(self) -> StructType:
        target = self._target()
        return spark_schema(target.columns, target.presentation)

    def reader(self, schema: StructType) -> DataSourceReader:
        target = self._target()
        columns = columns_of(schema, target.columns, target.table, target.presentation)
        return target.reader(columns, schema)

    def writer(self, schema: StructType, overwrite: bool) -> DataSourceWriter:
        raise UnsupportedError("writing with Spark", "theflash, a replica that follows TiDB")

    def _target(self) -> ScanTarget | ServedTarget:
        if isinstance(self._found, TheFlashError):
            raise self._found.with_traceback(None)
        return self._found


def _look_up(texts: Mapping[str, str]) -> ScanTarget | ServedTarget:
    server = Server.of(texts)
    if server is not None:
        return ServedTarget.look_up(server, texts)
    options = ScanOptions.parse(texts)
    presentation = Presentation(ZeroDates(options.zero_dates), options.all_as_text)
    wait_for(options.store, options.moment, clock=SystemClock(), fs=LocalFileSystem())
    with open_snapshot(options.store, options.moment.snapshot_ts) as snapshot:
        plan = snapshot.plan(options.table, options.columns, presentation, options.where)
    return ScanTarget(
        options.store,
        plan.table.full_name,
        plan.snapshot_ts,
        plan.columns,
        presentation,
        options.where,
    )
