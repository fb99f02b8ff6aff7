"""A columnar, multi-version replica of TiDB for Spark: `spark.read.format("theflash")`.

Every Spark session imports this package to look for data sources (it is a top-level `pyspark_*`
module with a `DefaultSource`), so importing it brings in nothing: the public names below are loaded
when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pyspark_theflash.version import __version__

if TYPE_CHECKING:
    from pyspark_theflash.read.plan.snapshot import ReadSnapshot as Snapshot
    from pyspark_theflash.read.plan.snapshot import open_snapshot
    from pyspark_theflash.service.client.statement import execute_sql
    from pyspark_theflash.service.client.theflash import connect
    from pyspark_theflash.spark.delta.snapshot import DeltaSnapshot
    from pyspark_theflash.spark.jar import configure_spark
    from pyspark_theflash.spark.session import SparkSnapshot
    from pyspark_theflash.spark.source import TheFlashDataSource as DefaultSource

__all__ = [
    "DefaultSource",
    "DeltaSnapshot",
    "Snapshot",
    "SparkSnapshot",
    "__version__",
    "configure_spark",
    "connect",
    "execute_sql",
    "open_snapshot",
]

_HOMES = {
    "DefaultSource": ("pyspark_theflash.spark.source", "TheFlashDataSource"),
    "DeltaSnapshot": ("pyspark_theflash.spark.delta.snapshot", "DeltaSnapshot"),
    "Snapshot": ("pyspark_theflash.read.plan.snapshot", "ReadSnapshot"),
    "SparkSnapshot": ("pyspark_theflash.spark.session", "SparkSnapshot"),
    "configure_spark": ("pyspark_theflash.spark.jar", "configure_spark"),
    "connect": ("pyspark_theflash.service.client.theflash", "connect"),
    "execute_sql": ("pyspark_theflash.service.client.statement", "execute_sql"),
    "open_snapshot": ("pyspark_theflash.read.plan.snapshot", "open_snapshot"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
