"""Stores that hold the captured workloads, each written once a session."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.support.serving import serving_secured
from tests.support.sources import PYTHON, Source, python_source, server_options
from tests.support.suite import make_suite_store
from tests.support.workloads import make_store, workload

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def workload_copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Path]:
    """Return a function that copies the store of a workload, as it was written, to a path."""

    @cache
    def written(name: str) -> Path:
        return make_store(workload(name), tmp_path_factory.mktemp(name) / "written")

    def copy(name: str, path: Path) -> Path:
        return Path(shutil.copytree(written(name), path))

    return copy


@pytest.fixture(scope="session")
def workload_store(
    workload_copy: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """name -> the path of a store that holds the workload; for readers, which may hold latches."""

    @cache
    def store(name: str) -> Path:
        return workload_copy(name, tmp_path_factory.mktemp(name) / "store")

    return store


@pytest.fixture(scope="session")
def suite_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the captured suite; not to be changed."""
    return make_suite_store(tmp_path_factory.mktemp("suite") / "store")


@pytest.fixture(scope="session")
def with_python_source(spark: "SparkSession") -> "SparkSession":
    """The session of the tests, in which the Python source has a name besides the jar's."""
    spark.dataSource.register(python_source())
    return spark


@pytest.fixture
def python(with_python_source: "SparkSession") -> Source:
    """The source without a jar."""
    return Source(with_python_source, PYTHON)


@pytest.fixture
def jar(spark: "SparkSession") -> Source:
    """The jar's source, which starts an engine process for a store."""
    return Source(spark)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[str], dict[str, str]]]:
    """store -> the options that read it from a server with TLS and a token."""
    with ExitStack() as servers:

        @cache
        def served(store: str) -> dict[str, str]:
            address = servers.enter_context(serving_secured(Path(store), tmp_path)).address
            return server_options(address)

        yield served


@pytest.fixture
def server(spark: "SparkSession", served: Callable[[str], dict[str, str]]) -> Source:
    """The jar's source, which reads from a server."""
    return Source(spark, place=served)


@pytest.fixture
def python_server(
    with_python_source: "SparkSession", served: Callable[[str], dict[str, str]]
) -> Source:
    """The source without a jar, which reads from a server."""
    return Source(with_python_source, PYTHON, place=served)


@pytest.fixture(scope="session")
def connect_session(with_python_source: "SparkSession") -> Iterator["SparkSession"]:
    """A session of Spark Connect, whose server the session of the tests becomes."""
    from pyspark.sql.connect.session import SparkSession as ConnectSession

    context = with_python_source.sparkContext
    jvm: Any = context._jvm
    settings = jvm.org.apache.spark.SparkEnv.get().conf()
    settings.set("spark.connect.grpc.binding.address", "127.0.0.1")
    settings.set("spark.connect.grpc.binding.port", "0")
    service = getattr(
        getattr(jvm, "org.apache.spark.sql.connect.service.SparkConnectService$"), "MODULE$"
    )
    service.start(context._jsc.sc())
    session = ConnectSession.builder.remote(f"sc://127.0.0.1:{service.localPort()}").create()
    session.dataSource.register(python_source())
    yield cast("SparkSession", session)
    session.stop()


@pytest.fixture
def connect(connect_session: "SparkSession") -> Source:
    """The jar's source over Spark Connect."""
    return Source(connect_session)


@pytest.fixture
def connect_python(connect_session: "SparkSession") -> Source:
    """The source without a jar over Spark Connect."""
    return Source(connect_session, PYTHON)


@pytest.fixture(
    params=["python", "jar", "server", pytest.param("python_server", marks=pytest.mark.slow)]
)
def source(request: pytest.FixtureRequest) -> Source:
    """Each way in which Spark reads a store."""
    way: Source = request.getfixturevalue(request.param)
    return way
