"""Configuration of the jar: the data source `theflash` as a columnar Java source.

    spark = configure_spark(SparkSession.builder).getOrCreate()
    spark.read.format("theflash")...

In a session that starts with the jar, it replaces the Python source; names and options are the
same. It starts the engine process of a store with the Python interpreter of this session, so that
both sources share one. `spark-submit --jars JAR --conf ...` can set the same configuration.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pyspark.sql import SparkSession

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.options import TOKEN

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
    """Configure a session builder to use the jar; has no effect on an existing session.

    Args:
        builder: a `SparkSession.builder`.
        jars: further entries of `spark.jars`, separated by commas.
        catalog: the name of `store` in SQL: `SELECT ... FROM theflash.db.table`.
        store: creates a catalog of this store; a folder, or a server's address.
        options: options of the source for the catalog's tables, such as `zero_dates`.

    Raises:
        OptionError: This installation has no jar, or `options` has a token, which the command line
            of Spark's JVM would show; use `token_file`.
    """
    for name, value in spark_conf(jars, catalog, store, options or {}).items():
        builder = builder.config(name, value)
    return builder


def spark_conf(
    jars: str, catalog: str, store: str | Path | None, options: Mapping[str, str]
) -> dict[str, str]:
    """Return the configuration that `configure_spark` sets."""
    if not JAR.is_file():
        raise OptionError(
            "spark.jars", f"{JAR} does not exist; `make wheel` builds a package with it"
        )
    if TOKEN.name in map(str.lower, options):
        reason = "would be on the command line of Spark's JVM; use token_file for a catalog"
        raise OptionError(TOKEN.name, reason)
    conf = {
        "spark.jars": ",".join(filter(None, [jars, str(JAR)])),
        "spark.theflash.python": sys.executable,
    }
    if store is not None:
        prefix = f"spark.sql.catalog.{catalog}"
        conf |= {prefix: CATALOG_CLASS, f"{prefix}.store": str(store)}
        conf |= {f"{prefix}.{name}": value for name, value in options.items()}
    return conf
