"""The jar: the source `theflash` in columns, for sessions that Python makes.

    spark = configure_spark(SparkSession.builder).getOrCreate()
    spark.read.format("theflash")...

The jar takes over from the Python source when a session begins with it; names and options are the
same. It starts the engine process of a store with the Python that the session was made by, so that
both sources share one. What is set here is what `spark-submit --jars JAR --conf ...` would set.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pyspark.sql import SparkSession

from pyspark_theflash.base.errors import OptionError

JAR: Final = Path(__file__).parents[1] / "jars" / "theflash-spark-4.2_2.13.jar"
CATALOG_CLASS: Final = "io.theflash.spark.TheFlashCatalog"


def configure_spark(
    builder: SparkSession.Builder,
    *,
    jars: str = "",
    catalog: str = "theflash",
    store: str | Path | None = None,
    options: Mapping[str, str] | None = None,
) -> SparkSession.Builder:
    """Let a session that is made by `builder` read with the jar; no use once there is a session.

    Args:
        builder: as of `SparkSession.builder`.
        jars: what else `spark.jars` names, separated by commas.
        catalog: how `store` is called in SQL: `SELECT ... FROM theflash.db.table`.
        store: makes a catalog of this store; a folder, or a server's address.
        options: those of the source that the catalog's tables are read with, as `zero_dates`.

    Raises:
        OptionError: this installation has no jar.
    """
    for name, value in spark_conf(jars, catalog, store, options or {}).items():
        builder = builder.config(name, value)
    return builder


def spark_conf(
    jars: str, catalog: str, store: str | Path | None, options: Mapping[str, str]
) -> dict[str, str]:
    """What `configure_spark` sets."""
    if not JAR.is_file():
        raise OptionError("spark.jars", f"there is no {JAR}; `make wheel` builds a package with it")
    conf = {
        "spark.jars": ",".join(filter(None, [jars, str(JAR)])),
        "spark.theflash.python": sys.executable,
    }
    if store is not None:
        prefix = f"spark.sql.catalog.{catalog}"
        conf |= {prefix: CATALOG_CLASS, f"{prefix}.store": str(store)}
        conf |= {f"{prefix}.{name}": value for name, value in options.items()}
    return conf
