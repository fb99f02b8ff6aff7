"""Configuration of the jar: the data source `theflash` as a columnar Java source.

    spark = configure_spark(SparkSession.builder).getOrCreate()
    spark.read.format("theflash")...

In a session that starts with the jar, it replaces the Python source; names and options are the
same. It starts the engine process of a store with the Python interpreter of this session, so that
both sources share one. A session that something else starts (spark-submit, spark-sql, a notebook
platform) needs the same configuration from there; `theflash spark-conf` prints it.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.errors import OptionError, SparkStartedError
from pyspark_theflash.base.read_options import TOKEN

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JAR: Final = Path(__file__).parents[1] / "jars" / "theflash-spark-4.2_2.13.jar"
CATALOG_CLASS: Final = "io.theflash.spark.TheFlashCatalog"
PROVIDER_CLASS: Final = "io.theflash.spark.TheFlashProvider"
DELTA_PACKAGE: Final = "io.delta:delta-spark_4.2_2.13:4.4.0"
DELTA_CONF: Final[Mapping[str, str]] = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}


def configure_spark(
    builder: "SparkSession.Builder",
    *,
    jars: str = "",
    catalog: str = "theflash",
    store: str | os.PathLike[str] | None = None,
    options: Mapping[str, str] | None = None,
    delta: bool = False,
) -> "SparkSession.Builder":
    """Configure a session builder to use the jar.

    If a session with the jar exists, `getOrCreate` returns it, with the catalog.

    Args:
        builder: a `SparkSession.builder`.
        jars: further entries of `spark.jars`, separated by commas.
        catalog: the name of `store` in SQL: `SELECT ... FROM theflash.db.table`.
        store: creates a catalog of this store; a folder, or a server's address.
        options: options of the source for the catalog's tables, such as `zero_dates`.
        delta: configure Delta Lake too, for stores of the engine delta. Unless `jars` has its jars,
            Spark gets them from Maven Central.

    Raises:
        OptionError: This installation has no jar, or `options` has a token, which the command line
            of Spark's JVM would show; use `token_file`.
        SparkStartedError: Spark already runs without the jar, or the session is one of Spark
            Connect, whose server loads the jar.
    """
    _check_not_started(builder)
    conf = spark_conf(jars, catalog, store, options or {})
    if delta:
        conf |= DELTA_CONF
        if "delta-spark" not in jars:
            conf["spark.jars.packages"] = DELTA_PACKAGE
    for name, value in conf.items():
        builder = builder.config(name, value)
    return builder


def spark_conf(
    jars: str, catalog: str, store: str | os.PathLike[str] | None, options: Mapping[str, str]
) -> dict[str, str]:
    """Return the configuration that `configure_spark` sets."""
    if not JAR.is_file():
        raise OptionError("spark.jars", _reason_for_no_jar())
    if TOKEN.name in map(str.lower, options):
        reason = "would be on the command line of Spark's JVM; use token_file for a catalog"
        raise OptionError(TOKEN.name, reason)
    conf = {
        "spark.jars": ",".join(filter(None, [jars, str(JAR)])),
        "spark.theflash.python": sys.executable,
    }
    if store is not None:
        prefix = f"spark.sql.catalog.{catalog}"
        conf |= {prefix: CATALOG_CLASS, f"{prefix}.store": os.fspath(store)}
        conf |= {f"{prefix}.{name}": value for name, value in options.items()}
    return conf


def _reason_for_no_jar() -> str:
    for parent in JAR.parents:
        if parent.is_file():
            return (
                f"Spark cannot load the jar from the archive {parent} (--py-files); pass the jar "
                "with --jars, as `theflash spark-conf` of an installed package prints it"
            )
    return f"{JAR} does not exist; `make wheel` builds a package with it"


def _check_not_started(builder: "SparkSession.Builder") -> None:
    """Raise `SparkStartedError` if it is too late for a session of `builder` to load the jar."""
    from pyspark import SparkContext

    remote = getattr(builder, "_options", {}).get("spark.remote", os.environ.get("SPARK_REMOTE"))
    if remote is not None and not remote.startswith("local"):
        raise SparkStartedError(f"Spark Connect at {remote}")
    context = SparkContext._active_spark_context
    if context is None:
        return
    jvm = context._jvm
    if jvm is None or not jvm.org.apache.spark.util.Utils.classIsLoadable(PROVIDER_CLASS):
        raise SparkStartedError(f"Spark application {context.applicationId}")
