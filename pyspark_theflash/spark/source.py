"""Data source of `spark.read.format("theflash")`.

The timestamp of a DataFrame is chosen once: at `load()`, Spark creates the source in a Python
process, and uses a pickled copy of it later.

    load()          __init__, schema()       choose the timestamp, look up the columns
    first action    reader(), partitions()   plan at that timestamp; reused by later actions
    task            read()

Over Spark Connect, `load()` is lazy, and an action may load again: pass a timestamp if several
actions must read the same.
"""

from collections.abc import Mapping

from pyspark.sql.datasource import (
    DataSource,
    DataSourceReader,
    DataSourceStreamReader,
    DataSourceStreamWriter,
    DataSourceWriter,
)
from pyspark.sql.types import StructType

from pyspark_theflash.base.errors import TheFlashError, UnsupportedError
from pyspark_theflash.spark.reader import ScanTarget, TheFlashReader
from pyspark_theflash.spark.schema import columns_of, spark_schema


class TheFlashDataSource(DataSource):
    """A table of a store at one timestamp; options are those of `base.read_options`."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__(dict(options))
        # Errors are raised by the first read: a write creates a source too, and has its own error.
        self._looked_up: ScanTarget | TheFlashError
        try:
            self._looked_up = ScanTarget.look_up(options)
        except TheFlashError as error:
            self._looked_up = error

    @classmethod
    def name(cls) -> str:
        return "theflash"

    def schema(self) -> StructType:
        target = self._target()
        return spark_schema(target.columns, target.presentation)

    def reader(self, schema: StructType) -> DataSourceReader:
        target = self._target()
        columns = columns_of(schema, target.columns, target.table, target.presentation)
        return TheFlashReader(target, columns, schema)

    def writer(self, schema: StructType, overwrite: bool) -> DataSourceWriter:
        raise UnsupportedError("writing with Spark", "theflash, a replica that follows TiDB")

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:
        raise UnsupportedError("a streaming read with Spark", "theflash")

    def streamWriter(self, schema: StructType, overwrite: bool) -> DataSourceStreamWriter:
        raise UnsupportedError("writing with Spark", "theflash, a replica that follows TiDB")

    def _target(self) -> ScanTarget:
        if isinstance(self._looked_up, TheFlashError):
            raise self._looked_up.with_traceback(None)
        return self._looked_up
