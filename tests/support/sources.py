"""The ways in which Spark reads a store: by the Python source, by the jar, and from a server."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.serving import ROLES_TOKEN
from tests.support.tls import FOLDER

if TYPE_CHECKING:
    from pyspark.sql import DataFrameReader, SparkSession

JAR: Final = "theflash"
PYTHON: Final = "theflash_python"
"""The Python source's name if the jar has the other."""


def _folder(store: str) -> dict[str, str]:
    return {"store": store}


@dataclass(frozen=True)
class Source:
    """A name for `format(...)`, and the options for a store."""

    spark: "SparkSession"
    name: str = JAR
    place: Callable[[str], dict[str, str]] = _folder

    def reader(self, store: str | Path, **options: Any) -> "DataFrameReader":
        """Return a reader of that store."""
        reader = self.spark.read.format(self.name).options(**self.place(str(store)))
        return reader.options(**options)

    def sql_options(self, store: str | Path) -> str:
        """The same, for OPTIONS (...)."""
        return ", ".join(f"{name} '{text}'" for name, text in self.place(str(store)).items())


def server_options(address: str) -> dict[str, str]:
    """The options to read from a server of `serving.serving_secured`."""
    return {
        "store": f"theflash://{address}",
        "token": ROLES_TOKEN,
        "tls_ca": str(FOLDER / "ca.pem"),
        "tls_cert": str(FOLDER / "client.pem"),
        "tls_key": str(FOLDER / "client.key"),
    }


def python_source() -> type:
    """Return the Python source under another name; Spark's workers need not import the class."""
    from pyspark_theflash import DefaultSource

    class PythonSource(DefaultSource):
        @classmethod
        def name(cls) -> str:
            return PYTHON

    return PythonSource
