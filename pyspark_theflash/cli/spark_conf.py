"""Print the configuration with which Spark loads the jar, for sessions that Python does not start.

With --store, the store is a catalog in SQL. --format arguments prints only the arguments of
spark-submit, spark-sql, spark-shell and pyspark; --format defaults prints only lines of
spark-defaults.conf, which --properties-file and every service of Spark read.
"""

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path

from pyspark_theflash.base.errors import OptionError, UsageError
from pyspark_theflash.base.read_options import SCAN_OPTIONS
from pyspark_theflash.net.address import is_address
from pyspark_theflash.spark.jar import JAR, spark_conf
from pyspark_theflash.version import __version__

ALL, ARGUMENTS, DEFAULTS = "all", "arguments", "defaults"
_JARS = "spark.jars"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `spark-conf`."""
    parser.add_argument("--store", metavar="STORE", help="a folder, or a server's address")
    parser.add_argument(
        "--catalog",
        default="theflash",
        metavar="NAME",
        help="the name of the store in SQL (default: theflash)",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the catalog's tables, such as token_file=PATH; may be repeated",
    )
    parser.add_argument(
        "--format",
        choices=[ALL, ARGUMENTS, DEFAULTS],
        default=ALL,
        help="what to print (default: all)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration."""
    conf = spark_conf("", arguments.catalog, _store(arguments.store), _options(arguments))
    if arguments.format == ARGUMENTS:
        print(_words(conf))
    elif arguments.format == DEFAULTS:
        print(_defaults(conf))
    else:
        print(_everything(conf))
    return 0


def _store(text: str | None) -> str | None:
    return text if text is None or is_address(text) else str(Path(text).absolute())


def _options(arguments: argparse.Namespace) -> dict[str, str]:
    names, chosen = {option.name for option in SCAN_OPTIONS}, {}
    for text in arguments.option:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option {text}: is not of the form NAME=VALUE")
        if name not in names:
            raise OptionError(name, f"is not one of {', '.join(sorted(names))}")
        chosen[name] = value
    if chosen and arguments.store is None:
        raise UsageError("--option needs --store")
    return chosen


def _words(conf: Mapping[str, str], jars: str = "--jars") -> str:
    """Return arguments of spark-submit."""
    words = [jars, conf[_JARS]]
    for name, value in conf.items():
        if name != _JARS:
            words += ["--conf", f"{name}={value}"]
    return shlex.join(words)


def _defaults(conf: Mapping[str, str]) -> str:
    """Return lines of spark-defaults.conf, a file of Java properties."""
    return "\n".join(
        f"{name} {value.replace(chr(92), chr(92) * 2)}" for name, value in conf.items()
    )


def _everything(conf: Mapping[str, str]) -> str:
    coordinates = f"io.theflash:{JAR.stem}:{__version__}"
    of_repository = {**conf, _JARS: coordinates}
    return f"""\
# The jar, for Spark 4.2 with Scala 2.13:
{JAR}

# Arguments of spark-submit, spark-sql, spark-shell and pyspark:
{_words(conf)}

# The same, if a Maven repository of yours has the jar under these coordinates:
{_words(of_repository, "--packages")}

# The Thrift server, which beeline connects to:
spark-submit --class org.apache.spark.sql.hive.thriftserver.HiveThriftServer2 \\
    {_words(conf)} spark-internal

# Lines of conf/spark-defaults.conf:
{_defaults(conf)}"""
